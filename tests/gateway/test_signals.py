"""Signals to the process of `consensus serve` while a stream is under way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_URL

from consensus_flows.deployments.commands.operations.up import with_descendants
from tests.kits import processes
from tests.vendors import Reply

ROOT = Path(__file__).parents[2]
BODY = {"model": "counted", "messages": [{"role": "user", "content": "Six times seven?"}], "stream": True}


@pytest.fixture
def served(saved, results, vendors, tmp_path):
    """Give a gateway in a process of its own, and its address."""
    environment = os.environ | {
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": results,
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "consensus_flows.deployments.cli", "serve", "--port", "0"]
    with processes.start(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        yield process, process.stderr.readline().split()[6].removesuffix("/v1,")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stream_under_way_ends_with_its_answer(served, vendors, number):
    process, url = served
    for name in ("one", "two", "three"):
        vendors.script(name, then=Reply(text="42", delay=2.0))
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=BODY, timeout=60) as stream:
        lines = stream.iter_lines()
        next(lines)
        family = with_descendants(process.pid)
        process.send_signal(number)
        rest = [line for line in lines if line]
    assert any('"content":"42"' in line for line in rest) and rest[-1] == "data: [DONE]"
    assert process.wait(60) == 0
    assert "finishing 1 runs" in process.stderr.read()
    assert gone(family)


def test_the_second_signal_ends_it_at_once(served, vendors):
    process, url = served
    for name in ("one", "two", "three"):
        vendors.script(name, then=Reply(text="42", delay=60.0))
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=BODY, timeout=60) as stream:
        lines = stream.iter_lines()
        next(lines)
        family = with_descendants(process.pid)
        began = time.monotonic()
        process.terminate()
        assert "finishing 1 runs" in process.stderr.readline()
        process.terminate()
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)
    process.wait(60)
    assert time.monotonic() - began < 30
    assert gone(family)


def gone(family: list[int]) -> bool:
    """Tell whether all processes have ended, or soon do."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}/cmdline").exists() for pid in family):
        time.sleep(0.05)
    return not any(Path(f"/proc/{pid}/cmdline").exists() for pid in family)
