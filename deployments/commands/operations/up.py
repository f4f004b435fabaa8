"""`consensus up` and `consensus down`: server, work pool, deployments and a worker on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from prefect.settings import get_current_settings

from consensus_flows.deployments.server import connect, server_environment, stop_server
from consensus_flows.deployments.server_access import PROFILE
from consensus_flows.deployments.terminal import Exit, Stop, say

POOL = "consensus"
TEMPLATE = Path(__file__).parents[2] / "process-pool.json"
"""What a run may set: not the command, the environment or the folder, with which it could run anything on this machine."""
HEARTBEAT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60"}
"""Seconds between signs of life of a run; in prefect.yaml too, for pools that take an environment."""
RETENTION = "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0


def up() -> Exit:
    """Start the server, make the work pool and the deployments of prefect.yaml, and start a worker in the background."""
    root = Path.cwd()
    if not (root / "prefect.yaml").is_file():
        raise Stop("there is no prefect.yaml here: run this in the folder of the project")
    info = connect()
    _prefect("work-pool", "create", POOL, "--type", "process", "--base-job-template", str(TEMPLATE), "--overwrite")
    _prefect("block", "register", "--module", "blocks")
    _prefect("deploy", "--all", "--prefect-file", str(root / "prefect.yaml"))
    pid = _worker()
    say(f"Up: {info.ui_url}/deployments, worker {pid} on pool {POOL!r}.")
    if info.pid is not None:
        days = int({**server_environment(), **os.environ}[RETENTION]) / 86400
        say(f"Finished runs are kept in the UI for {days:g} days; set {RETENTION} (seconds) to change it.")
    profile = "" if info.auth_string is None else f" --profile {PROFILE}"
    say(
        f"""Try: prefect{profile} deployment run 'consortium/consortium' --param prompt="Why is the sky blue?" """.rstrip()
    )
    say("Or the Run button in the UI, which `consensus ui` opens.")
    return Exit.ANSWER


def down() -> Exit:
    """Stop the worker and the server that were started from here."""
    pid = _running_worker()
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        if not _wait_for(lambda: _running_worker() is None, STOP_TIMEOUT_S):
            for process in with_descendants(pid):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
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
    log.touch(mode=0o600)
    with log.open("ab") as output:
        before = output.tell()  # what earlier workers have written
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "--no-prompt", "worker", "start", "--pool", POOL],
            env=HEARTBEAT | os.environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_heed_interrupts,  # noqa: PLW1509 - it takes no lock
        )
    _note().write_text(json.dumps({"pid": process.pid}), encoding="utf-8")
    if not _wait_for(lambda: process.poll() is not None or b"started!" in log.read_bytes()[before:], START_TIMEOUT_S):
        raise Stop(f"the worker did not start in {START_TIMEOUT_S:.0f} s; its log is {log}", Exit.NO_ANSWER)
    if process.poll() is not None:
        raise Stop(f"the worker ended at once; its log is {log}", Exit.NO_ANSWER)
    process.returncode = 0  # It outlives this command on purpose.
    return process.pid


def _heed_interrupts() -> None:
    """Let the worker end by SIGINT, which Prefect's worker sends itself when it gets SIGTERM.

    Whatever a script starts with `&`, or nohup starts, ignores SIGINT, and so do the processes it starts.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def with_descendants(pid: int) -> set[int]:
    """A process and all that it has started: Prefect gives each run a process group of its own."""
    shown = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)  # noqa: S607
    pairs = [(int(child), int(parent)) for child, parent in map(str.split, shown.stdout.splitlines())]
    found = {pid}
    while more := {child for child, parent in pairs if parent in found} - found:
        found |= more
    return found


def _running_worker() -> int | None:
    try:
        pid = int(json.loads(_note().read_text(encoding="utf-8"))["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    shown = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S607
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
