"""The worker that `consensus up` starts, and `consensus down`, also where SIGINT is ignored: after `&` in a script, and nohup."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_HOME, temporary_settings

from consensus_flows.deployments.commands.operations import up
from consensus_flows.deployments.commands.settings.saved import saved_configurations
from consensus_flows.deployments.terminal import Stop
from consensus_flows.flows.algorithms import algorithm
from tests.kits import processes
from tests.kits.batch_kit import environment_of

POOL_AND_WORKER = """
import asyncio
from consensus_flows.deployments.commands.operations import up
asyncio.run(up.deploy())
print(*up._worker())
"""


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def running(pid: int) -> bool:
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(shown.strip()) and not shown.startswith("Z")


@pytest.mark.timeout(300)
def test_up_from_any_folder_and_down_where_interrupts_are_ignored(prefect_server, tmp_path):
    """A folder with settings, that could send prompts and keys elsewhere, and with packages that are called like ours."""
    environment = environment_of(tmp_path)
    environment.pop("CONSENSUS_FILES", None)
    (tmp_path / "home").mkdir(mode=0o700)
    mine = tmp_path / "mine"
    (mine / "flows").mkdir(parents=True)
    (mine / "prefect.toml").write_text("[api]\nurl = 'http://127.0.0.1:9/api'\n")

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=mine,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            preexec_fn=ignore_interrupts,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    pid, files = run("-P", "-c", POOL_AND_WORKER).split()
    worker = int(pid)
    try:
        assert running(worker) and files == str(mine)
        with get_client(sync_client=True) as client:
            deployed = {one.name: one for one in client.read_deployments(limit=200) if one.work_pool_name == up.POOL}
        assert set(deployed) >= {one["name"] for one in yaml.safe_load(up.DEPLOYMENTS.read_text())["deployments"]}
        batch = deployed["batch"]
        assert batch.entrypoint == "consensus_flows.flows.batch.batch" and not batch.pull_steps
        form = batch.parameter_openapi_schema["properties"]
        assert batch.parameters["config"] == "local-batch" in form["config"]["anyOf"][0]["enum"]
        assert "shard" not in form and "flow" not in batch.parameters
        assert "stopped: worker" in run("-P", "-m", "consensus_flows.deployments.cli", "down")
        assert not running(worker)
        log = (tmp_path / "home" / "consensus-worker.log").read_text()
        assert "stopped!" in log, "it was asked to end, and did so by itself"
    finally:
        processes.kill_tree(worker)
        for one in asyncio.run(saved_configurations()):
            algorithm(one.kind).block_class().delete(one.name)


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
    note.write_text(json.dumps({"pid": worker.pid, "files": str(tmp_path), "keys": []}))
    monkeypatch.setattr(up, "_note", lambda: note)
    monkeypatch.setattr(up, "stop_server", lambda: None)
    monkeypatch.setattr(up, "STOP_TIMEOUT_S", 0.3)
    try:
        up.down()
        assert "stopped: worker" in capsys.readouterr().err
        assert worker.wait(5) == -signal.SIGKILL and not note.exists()
        deadline = time.monotonic() + 20
        while running(child):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        processes.kill_tree(child)


def test_a_worker_of_yesterday_is_not_taken_for_the_one_that_is_started(tmp_path, monkeypatch):
    """The log grows from start to start; what stands for a start in it may be an earlier one's."""
    (tmp_path / "consensus-worker.log").write_text("Worker 'ProcessWorker 1' started!\n")
    with temporary_settings({PREFECT_HOME: tmp_path}):
        monkeypatch.setenv("PREFECT_API_REQUEST_TIMEOUT", "no number")  # so that the worker ends at once
        with pytest.raises(Stop, match="the worker ended at once"):
            up._worker()


def test_the_command_to_try_is_there_where_a_tool_hides_its_environment(monkeypatch, tmp_path):
    folder = Path(sys.executable).parent
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Path(up.prefect_command()) == folder / "prefect" and (folder / "prefect").is_file()
    monkeypatch.setenv("PATH", f"{tmp_path}:{folder}")
    assert up.prefect_command() == "prefect"
