"""A Prefect server that a test may kill, and batches that are started against it from the command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.kits import empty_database, processes

ROOT = Path(__file__).resolve().parent.parent.parent
PANEL = ["-m", "openai/one", "-m", "anthropic/two"]
CALLS_OF_A_ROW = 2


class Server:
    """A Prefect server of its own, which is killed and started again over the same database."""

    def __init__(
        self, home: Path, results: Path | None = None, *, plain: bool = False, database: str | None = None
    ) -> None:
        """Take where it keeps its data, and whether it is Prefect's own server, and not ours without the password."""
        self.home, self.results, self._plain, self._database = home, results or home / "results", plain, database
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api"
        self._own = {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(self.results),
            "PYTHONPATH": str(ROOT),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._commands: list[subprocess.Popen[str]] = []

    @property
    def environment(self) -> dict[str, str]:
        """That of the test, with the vendors' addresses, and what belongs to the server."""
        return os.environ | self._own

    def use(self, url: str) -> None:
        """Let the commands find the server at another address, that of a proxy."""
        self.set(PREFECT_API_URL=url)

    def set(self, **variables: str) -> None:
        """Set variables of the commands' environment."""
        self._own |= variables

    def start(self) -> None:
        database = self.home / "prefect.db"
        if self._database is not None:
            self._start({"PREFECT_API_DATABASE_CONNECTION_URL": self._database})
            return
        if database.exists():
            self._start({})
            return
        self.home.mkdir(mode=0o700, exist_ok=True)
        with empty_database.prepared(database) as settings:
            self._start(settings)

    def _start(self, settings: dict[str, str]) -> None:
        with socket.socket() as listener:
            command = ["-m", "prefect", "--no-prompt", "server", "start"]
            if not self._plain:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("127.0.0.1", self.port))
                listener.listen()
                command = ["-m", "consensus_flows.deployments.prefect_server", str(listener.fileno())]
            self._process = subprocess.Popen(
                [sys.executable, *command],
                env=self.environment | settings,
                pass_fds=[listener.fileno()],
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

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Ask the server's API."""
        request = urllib.request.Request(
            f"{self.url}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.loads(response.read())

    def consensus(self, *arguments: object, stdin: str | None = None) -> subprocess.Popen[str]:
        """Start a command against this server, with a line on its standard input if there is one."""
        started = processes.start(
            [sys.executable, "-m", "consensus_flows.deployments.cli", *map(str, arguments)],
            cwd=ROOT,
            env=self.environment,
            stdin=None if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if started.stdin is not None:
            started.stdin.write(stdin or "")
            started.stdin.close()
            started.stdin = None
        self._commands.append(started)
        return started

    def close(self) -> None:
        """End the server, and the commands that a failed test has left."""
        for command in self._commands:
            if command.poll() is None:
                command.kill()
                command.communicate()
        self.kill()

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)  # the command and the server below it
            self._process.wait()
            self._process = None


def rows_of(folder: Path, rows: int) -> Path:
    """A file of so many questions."""
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"What is {n}?"}) + "\n" for n in range(rows)))
    return source


def start_batch(
    server: Server, folder: Path, rows: int, *options: str, at_once: int = 2, output: str = "answers.jsonl"
) -> subprocess.Popen[str]:
    """Start a batch from the command line."""
    where = ["--output", folder / output, "--flow", "pump", *PANEL, "--concurrency", at_once, "--json"]
    return server.consensus("batch", rows_of(folder, rows), *where, *options)


def rows_done(folder: Path) -> int:
    """How many rows are in the journal of a batch."""
    journal = folder / "answers.jsonl.partial"
    return journal.read_text().count('"row":') if journal.exists() else 0


def wait_for_rows(run: subprocess.Popen[str], folder: Path, wanted: int) -> None:
    """Wait until so many rows are done."""
    deadline = time.monotonic() + 120
    while rows_done(folder) < wanted:
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < deadline, "the batch does not begin"
        time.sleep(0.05)
