"""`consensus up` and `consensus down`: server, work pool, deployments and a worker on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from prefect.settings import get_current_settings

from deployments.run import server
from deployments.server import stop_server
from deployments.terminal import Exit, Stop, say

POOL = "consensus"
START_TIMEOUT_S = 60.0


def up() -> Exit:
    """Start the server, make the work pool and the deployments of prefect.yaml, and start a worker in the background."""
    root = Path.cwd()
    if not (root / "prefect.yaml").is_file():
        raise Stop("there is no prefect.yaml here: run this in the folder of the project")
    info = server()
    _prefect("work-pool", "create", POOL, "--type", "process", "--overwrite")
    _prefect("block", "register", "--module", "blocks")
    _prefect("deploy", "--all", "--prefect-file", str(root / "prefect.yaml"))
    pid = _worker()
    say(f"Up: {info.ui_url}/deployments, worker {pid} on pool {POOL!r}.")
    say("""Try: prefect deployment run 'consortium/consortium' --param prompt="Why is the sky blue?" """.rstrip())
    say(f"(with PREFECT_API_URL={info.api_url}, or the Run button in the UI)")
    return Exit.ANSWER


def down() -> Exit:
    """Stop the worker and the server that were started from here."""
    pid = _running_worker()
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        _wait_for(lambda: _running_worker() is None, 20)
    _note().unlink(missing_ok=True)
    info = stop_server()
    say(
        f"stopped: {', '.join(part for part, there in (('worker', pid), ('server', info)) if there) or 'nothing was running'}"
    )
    return Exit.ANSWER


def _prefect(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise Stop(f"prefect {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}", Exit.NO_ANSWER)


def _worker() -> int:
    running = _running_worker()
    if running is not None:
        return running
    log = get_current_settings().home / "consensus-worker.log"
    with log.open("ab") as output:
        before = output.tell()  # what earlier workers have written
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "--no-prompt", "worker", "start", "--pool", POOL],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _note().write_text(json.dumps({"pid": process.pid}), encoding="utf-8")
    if not _wait_for(lambda: process.poll() is not None or b"started!" in log.read_bytes()[before:], START_TIMEOUT_S):
        raise Stop(f"the worker did not start in {START_TIMEOUT_S:.0f} s; its log is {log}", Exit.NO_ANSWER)
    if process.poll() is not None:
        raise Stop(f"the worker ended at once; its log is {log}", Exit.NO_ANSWER)
    process.returncode = 0  # It outlives this command on purpose.
    return process.pid


def _running_worker() -> int | None:
    try:
        pid = int(json.loads(_note().read_text(encoding="utf-8"))["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    shown = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S607
    return pid if "worker start" in shown.stdout else None


def _note() -> Path:
    return get_current_settings().home / "consensus-worker.json"


def _wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
