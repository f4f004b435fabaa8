"""Starts Python programs from a process that has imported everything, in a twentieth of the time that imports take.

What it starts is a process of its own, with its own id, folder, environment and streams. `processes.start` and
`processes.run` ask for it. Tests of imports, of start-up and of memory start a new Python instead.
"""

import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import sys
import types
from pathlib import Path
from typing import Any

COMMAND = "consensus_flows.deployments.cli"
"""Imported by each process anew: it reads the environment."""


def preload() -> None:
    """Import what nearly every program here imports."""
    import anthropic  # noqa: F401
    import google.genai  # noqa: F401
    import openai  # noqa: F401

    import consensus_flows

    for module in pkgutil.walk_packages(consensus_flows.__path__, "consensus_flows."):
        if module.name != COMMAND and ".migrations" not in module.name:
            importlib.import_module(module.name)


def serve(door: socket.socket) -> dict[str, Any]:
    """Start what is asked for; return in the process that is to run it."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, handles, _, _ = socket.recv_fds(door, 1, 4)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            break
        for handle in handles:
            os.close(handle)
    door.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    caller, *streams = handles
    asked = b"".join(iter(lambda: os.read(caller, 65536), b""))
    child = os.fork()
    if child:
        for stream in streams:
            os.close(stream)
        os.write(caller, child.to_bytes(8, "little"))
        os.write(caller, os.waitpid(child, 0)[1].to_bytes(8, "little"))
        os._exit(0)
    os.close(caller)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    return json.loads(asked)  # type: ignore[no-any-return]


def run(arguments: list[str], cwd: str | None, env: dict[str, str], session: bool) -> None:
    """Be the program that is asked for."""
    if session:
        os.setsid()
    if cwd:
        os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    if arguments[:2] == ["-m", COMMAND]:
        sys.argv = arguments[1:]
        entry = importlib.import_module(COMMAND).entry
        _read_settings_again()
        entry()
        return
    _read_settings_again()
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        sys.path.insert(0, "")
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(compile(arguments[1], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
        runpy.run_path(arguments[0], run_name="__main__")


def _read_settings_again() -> None:
    """Prefect has read them at import, in the environment of the server."""
    from prefect.context import refresh_global_settings_context
    from prefect.logging.configuration import setup_logging

    refresh_global_settings_context()
    setup_logging(incremental=False)


if __name__ == "__main__":
    preload()
    gc.collect()
    gc.freeze()
    run(**serve(socket.socket(fileno=int(sys.argv[1]))))
