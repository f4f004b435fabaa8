"""The Prefect server is killed in the middle of a batch: for a while, and for good."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.figures import tell
from tests.vendors import LoopbackVendors

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
LATENCY_S = 0.5
AT_ONCE = 2


class Server:
    """A Prefect server of its own, which is killed and started again over the same database."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api"
        self._own = {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(home / "results"),
            "PYTHONPATH": str(ROOT),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """That of the test, with the vendors' addresses, and what belongs to the server."""
        return os.environ | self._own

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "--no-prompt", "server", "start"],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while not self.answers():
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.2)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)  # the command and the server below it
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "home")
    made.start()
    yield made
    made.kill()


def start(server: Server, folder: Path, rows: int) -> subprocess.Popen[str]:
    """Start a batch from the command line."""
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"What is {n}?"}) + "\n" for n in range(rows)))
    command = ["batch", str(source), "--output", str(folder / "answers.jsonl"), "--flow", "pump", "--json"]
    panel = ["-m", "openai/one", "-m", "anthropic/two", "--concurrency", str(AT_ONCE)]
    return subprocess.Popen(
        [sys.executable, "-m", "deployments.cli", *command, *panel],
        cwd=ROOT,
        env=server.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_rows(run: subprocess.Popen[str], folder: Path, wanted: int) -> None:
    journal = folder / "answers.jsonl.partial"
    deadline = time.monotonic() + 120
    while not journal.exists() or journal.read_text().count('"row"') < wanted:
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < deadline, "the batch does not begin"
        time.sleep(0.05)


@pytest.mark.parametrize("seconds", [8, 75, 150])
def test_a_server_that_comes_back(seconds: int, server: Server, vendors: LoopbackVendors, tmp_path: Path) -> None:
    vendors.delay = LATENCY_S
    rows = round((seconds + 15) / LATENCY_S * AT_ONCE)
    run = start(server, tmp_path, rows)
    wait_for_rows(run, tmp_path, 10)
    server.kill()
    killed, before = time.monotonic(), vendors.count()
    time.sleep(seconds)
    during = vendors.count() - before
    server.start()
    out, err = run.communicate(timeout=600)
    assert run.returncode == 0, err[-2000:]
    summary = json.loads(out)
    tell(
        f"server away for {seconds} s",
        rows=rows,
        answered_meanwhile=during,
        requests=vendors.count(),
        duration_s=summary["duration_s"],
        ended_after_s=round(time.monotonic() - killed, 1),
    )
    assert (summary["done"], summary["failed"], vendors.count()) == (rows, 0, 2 * rows)
    assert during > 0, "the work goes on while the server is away"


def test_a_server_that_does_not_come_back(server: Server, vendors: LoopbackVendors, tmp_path: Path) -> None:
    vendors.delay = LATENCY_S
    rows = 40
    run = start(server, tmp_path, rows)
    wait_for_rows(run, tmp_path, 10)
    server.kill()
    killed = time.monotonic()
    out, err = run.communicate(timeout=600)
    ended = round(time.monotonic() - killed, 1)
    assert run.returncode == 0 and "the Prefect server is away" in err and "start the server again" in err
    assert json.loads(out)["done"] == rows
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert len(lines) == rows and vendors.count() == 2 * rows
    server.start()
    again = start(server, tmp_path, rows)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert json.loads(out)["cached_calls"] == 2 * rows and vendors.count() == 2 * rows
    tell("server away for good", rows=rows, ended_after_s=ended, requests_of_both_runs=vendors.count())
