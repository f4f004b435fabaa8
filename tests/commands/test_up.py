"""The worker that `consensus up` starts, and `consensus down`, also where SIGINT is ignored: after `&` in a script, and nohup."""

import json
import signal
import subprocess
import sys

import pytest
from prefect.settings import PREFECT_HOME, temporary_settings

from consensus_flows.deployments.commands.operations import up
from consensus_flows.deployments.terminal import Stop
from tests.kits import processes
from tests.kits.batch_kit import ROOT, environment_of

POOL_AND_WORKER = """
import time
from consensus_flows.deployments.commands.operations import up
from consensus_flows.deployments.terminal import Stop
up._prefect("work-pool", "create", up.POOL, "--type", "process", "--overwrite")
print(up._worker())
"""


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def running(pid: int) -> bool:
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(shown.strip()) and not shown.startswith("Z")


@pytest.mark.timeout(300)
def test_down_ends_a_worker_that_was_started_where_interrupts_are_ignored(prefect_server, tmp_path):
    environment = environment_of(tmp_path)
    (tmp_path / "home").mkdir(mode=0o700)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            preexec_fn=ignore_interrupts,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    worker = int(run("-c", POOL_AND_WORKER))
    try:
        assert running(worker)
        assert "stopped: worker" in run("-m", "consensus_flows.deployments.cli", "down")
        assert not running(worker)
        log = (tmp_path / "home" / "consensus-worker.log").read_text()
        assert "stopped!" in log, "it was asked to end, and did so by itself"
    finally:
        processes.kill_tree(worker)


def test_down_kills_a_worker_that_does_not_end_and_what_it_runs(monkeypatch, tmp_path, capsys):
    """Each run is in a process group of its own."""
    run = "import time; time.sleep(600)"
    code = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(subprocess.Popen([sys.executable, "-c", {run!r}], start_new_session=True).pid, flush=True)
{run}
"""
    worker = processes.start_new(
        [sys.executable, "-c", code, "worker start"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    child = int(worker.stdout.readline())
    note = tmp_path / "worker.json"
    note.write_text(json.dumps({"pid": worker.pid}))
    monkeypatch.setattr(up, "_note", lambda: note)
    monkeypatch.setattr(up, "stop_server", lambda: None)
    monkeypatch.setattr(up, "STOP_TIMEOUT_S", 0.3)
    try:
        up.down()
        assert "stopped: worker" in capsys.readouterr().err
        assert worker.wait(5) == -signal.SIGKILL and not running(child) and not note.exists()
    finally:
        processes.kill_tree(child)


def test_a_worker_of_yesterday_is_not_taken_for_the_one_that_is_started(tmp_path, monkeypatch):
    """The log grows from start to start; what stands for a start in it may be an earlier one's."""
    (tmp_path / "consensus-worker.log").write_text("Worker 'ProcessWorker 1' started!\n")
    with temporary_settings({PREFECT_HOME: tmp_path}):
        monkeypatch.setenv("PREFECT_API_REQUEST_TIMEOUT", "no number")  # so that the worker ends at once
        with pytest.raises(Stop, match="the worker ended at once"):
            up._worker()
