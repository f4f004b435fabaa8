"""What the resident process runs for a shell is what the shell's own process would have run."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from prefect.settings import PREFECT_API_URL

from consensus_flows.deployments import shell
from consensus_flows.deployments.commands.operations.up import with_descendants
from consensus_flows.deployments.resident import resident
from tests.kits import processes
from tests.kits.sick_proxy import sick_proxy
from tests.vendors import LoopbackVendors, Reply

ROOT = Path(__file__).parents[2]
SHELL = """
import atexit, sys
atexit.register(lambda: print("by itself" if "prefect" in sys.modules else "resident", file=sys.stderr))
from consensus_flows.deployments.shell import entry
entry()
"""
"""The command, which says in the end who has run it."""
PANEL = ["-m", "openai/a", "-m", "openai/b"]


class Told:
    """What the server is told when the answer is known: the end of the run, and its logs."""

    refused: str | None = None

    def __init__(self) -> None:
        self.taken = Counter[str]()

    def __call__(self, method: str, path: str, body: bytes) -> int | None:
        """Take it, or say that the server is too busy for it."""
        ends = path.endswith("/set_state") and b"COMPLETED" in body
        what = "logs" if path == "/api/logs/" else "end" if ends else None
        if what is None:
            return None
        if what == self.refused:
            return 503
        self.taken[what] += 1
        return None


@pytest.fixture(scope="module")
def server_told() -> Told:
    """What the server is told when the answer is known."""
    return Told()


@pytest.fixture(scope="module")
def house(
    prefect_server: None, server_told: Told, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Keep a resident process, and give the environment in which it is found."""
    home = tmp_path_factory.mktemp("home")
    port = urlsplit(PREFECT_API_URL.value() or "").port
    assert port is not None
    with pytest.MonkeyPatch.context() as patch, sick_proxy(port, server_told) as url:
        for name, value in {
            "PREFECT_HOME": str(home),
            "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(home / "results"),
            "PREFECT_API_URL": url,
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
            "PYTHONPATH": str(ROOT),
        }.items():
            patch.setenv(name, value)
        with resident():
            deadline = time.monotonic() + 120
            while not shell.socket_path().exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield dict(os.environ)
        assert not shell.socket_path().exists()


@pytest.fixture
def environment(house: dict[str, str], vendors: LoopbackVendors) -> dict[str, str]:
    """Give the environment of a shell whose models are on loopback."""
    return {**os.environ, **house}


def start(environment: dict[str, str], *arguments: str, **options: Any) -> "subprocess.Popen[str]":
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-c", SHELL, *arguments]
    return processes.start_new(command, env=environment, text=True, **{"cwd": ROOT / "docs"} | pipes | options)


def told(process: "subprocess.Popen[str]", stdin: str = "") -> tuple[int, str, str, str]:
    """Return the exit code, what was written, and who has run it."""
    out, err = process.communicate(stdin, timeout=60)
    *lines, by = err.splitlines()
    return process.returncode, out, "\n".join(lines), by


def plain(text: str) -> str:
    """Leave out what no two runs have in common; and whether the tests' server, which is Prefect's own, has answered 503."""
    text = re.sub(r"consensus: the Prefect server is busy: .*\n?", "", text).rstrip("\n")
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f-]{27})?|\d+(\.\d+)? s\b|\"(duration|latency)_s\": [\d.]+", "*", text)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["vote", "Which?", *PANEL], 0),
        (["vote", "-", *PANEL, "--raw"], 0),
        (["Which?", *PANEL, "--arbiter", "openai/b", "--json", "-o", "record.json"], 0),
        (["vote", "Which?", "-m", "openai/refused"], 1),
        (["vote", "Which?", *PANEL, "--folly"], 2),
        (["ask", "Which?", "--name", "none-such"], 2),
    ],
)
def test_nothing_tells_it_from_a_command_that_ran_by_itself(environment, vendors, tmp_path, arguments, code):
    vendors.script("refused", then=Reply(status=401))
    command = [sys.executable, "-m", "consensus_flows.deployments.cli", *arguments]
    alone = []
    for _ in range(2):  # the answers of the second come from the cache, as those of the third will
        done = processes.run(command, input="Piped in.", text=True, env=environment, cwd=tmp_path)
        written = [file.read_text() for file in tmp_path.glob("*.json")]
        alone = [done.returncode, *map(plain, [done.stdout, done.stderr.rstrip("\n"), *written])]
    for file in tmp_path.glob("*.json"):
        file.unlink()
    returncode, out, err, by = told(start(environment, *arguments, cwd=tmp_path), "Piped in.")
    written = [file.read_text() for file in tmp_path.glob("*.json")]
    assert [returncode, *map(plain, [out, err, *written])] == alone
    assert (returncode, by) == (code, "resident")


def test_a_conversation_goes_on(environment, vendors):
    for arguments in (["Which?"], ["And why?", "-c"]):
        assert told(start(environment, "vote", *arguments, *PANEL, "--raw"))[0] == 0
    assert vendors.seen[-1].messages[0]["content"] == "Which?"


def test_the_environment_is_that_of_the_shell(environment, vendors):
    environment |= {"OPENAI_API_KEY": "sk-of-the-shell"}
    assert told(start(environment, "vote", "Whose key?", *PANEL))[3] == "resident"
    assert {seen.headers["authorization"] for seen in vendors.seen} == {"Bearer sk-of-the-shell"}


@pytest.mark.parametrize("what", ["logs", "end"])
def test_the_shell_does_not_wait_until_the_server_is_told(environment, vendors, server_told, tmp_path, what):
    server_told.refused, before = what, server_told.taken[what]
    try:
        # What is left may still speak on stderr, so that a pipe would not end before.
        with (tmp_path / "err").open("w") as err:
            asked = start(environment, "vote", f"Which {what}?", *PANEL, "--raw", "--no-stdin", stderr=err)
            out, _ = asked.communicate(timeout=60)
        assert asked.returncode == 0 and out
        assert len(with_descendants(listening())) > 1
    finally:
        server_told.refused = None
    wait_until_over()
    assert server_told.taken[what] > before


def test_it_is_interrupted(environment, vendors):
    vendors.delay = 60
    asked = start(environment, "vote", "How long?", *PANEL, "--no-stdin")
    wait_for_calls(vendors)
    asked.send_signal(signal.SIGINT)
    code, out, err, by = told(asked)
    assert (code, out, by) == (130, "", "resident")
    assert "interrupted" in err


def test_it_ends_with_its_shell(environment, vendors):
    vendors.delay = 60
    asked = start(environment, "vote", "How long?", *PANEL, "--no-stdin")
    wait_for_calls(vendors)
    assert len(with_descendants(listening())) > 1
    asked.kill()
    wait_until_over()


def wait_for_calls(vendors: LoopbackVendors) -> None:
    deadline = time.monotonic() + 60
    while vendors.count() < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_until_over() -> None:
    """Wait until no process is left that runs a command."""
    home, deadline = listening(), time.monotonic() + 60
    while len(with_descendants(home)) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def listening() -> int:
    """Return the process that listens."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(shell.socket_path()))
        return int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), "little")


def answer_to(arguments: list[str], folder: Path, **changes: Any) -> bytes:
    """Return what the resident process says to a command, and let it go."""
    with socket.socket(socket.AF_UNIX) as connection, Path(os.devnull).open("r+b") as nowhere:
        connection.connect(str(shell.socket_path()))
        asked = {
            "installation": shell.installation() | changes,
            "arguments": ["consensus", *arguments],
            "environment": dict(os.environ),
        }
        handle = os.open(folder, os.O_RDONLY)
        shell.send(connection, asked, [nowhere.fileno()] * 3 + [handle])
        os.close(handle)
        return connection.recv(1)


def test_only_a_question_of_the_same_installation_is_taken(house, tmp_path, monkeypatch):
    for name, value in house.items():
        monkeypatch.setenv(name, value)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "prefect.toml").write_text("[api]\n")
    question = ["vote", "Which?", *PANEL]
    for taken in (question, ["learn", "?"], ["Which?"], ["--json"], [], ["no-such-command"]):
        assert answer_to(taken, tmp_path) == shell.TAKEN, taken
    for left in (["chat"], ["runs"], ["serve"], ["batch", "rows.csv"], ["keys", "set", "openai"]):
        assert answer_to(left, tmp_path) == b"", left
    assert answer_to(question, ROOT) == shell.TAKEN
    assert answer_to(question, foreign) == b""
    assert answer_to(question, tmp_path, python=["3.10", sys.prefix, "utf-8"]) == b""
    assert answer_to(question, tmp_path, package="/elsewhere/shell.py") == b""
    assert answer_to(question, tmp_path, settings={**shell.installation()["settings"], "PREFECT_API_URL": "x"}) == b""


@pytest.mark.parametrize("answer", [None, b"", b"no"])
def test_without_an_answer_the_command_runs_by_itself(tmp_path, monkeypatch, answer):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setattr(shell, "PATIENCE_S", 0.1)
    monkeypatch.setattr(sys, "argv", ["consensus", "Which?"])
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        monkeypatch.setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    ran = []
    monkeypatch.setattr("consensus_flows.deployments.cli.entry", lambda: ran.append("by itself"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(shell.socket_path()))
        if answer is not None:  # else it is left from a gateway that was killed
            listener.listen()
            monkeypatch.setattr(shell, "send", lambda connection, *_: listener.accept()[0].sendall(answer))
        with pytest.raises(SystemExit):
            shell.entry()
    assert ran == ["by itself"]


COLLECTED = """
import gc, os, sys
before, leave = gc.get_freeze_count(), os._exit

def end(code):
    print(gc.isenabled(), gc.get_freeze_count() > before, "prefect" in sys.modules, flush=True)
    leave(code)

os._exit = end
from consensus_flows.deployments.shell import entry
entry()
"""


@pytest.mark.parametrize(("arguments", "prefect"), [(["vote", "--help"], True), (["--version"], False)])
def test_what_a_command_imports_is_never_looked_through_for_garbage(tmp_path, arguments, prefect):
    environment = os.environ | {"PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", COLLECTED, *arguments]  # one that has not imported Prefect
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"True True {prefect}"


def test_it_can_be_turned_off(environment, vendors):
    _, err = start({**environment, shell.OFF: "0"}, "--version").communicate(timeout=60)
    assert "resident" not in err


BUILT = """
from pydantic import BaseModel
from consensus_flows.deployments import resident
resident.preload()
ours = [one for one in resident._models_of(BaseModel) if one.__module__.startswith("consensus_flows.")]
print(bool(ours), [one.__name__ for one in ours if not one.__pydantic_complete__])
"""


def test_every_model_is_built_before_a_question_comes(tmp_path):
    environment = os.environ | {"PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = processes.run([sys.executable, "-c", BUILT], env=environment, cwd=tmp_path, text=True, check=True)
    assert done.stdout == "True []\n"


AHEAD = """
import os
from prefect.settings import get_current_settings
from consensus_flows.deployments import resident, server
from consensus_flows.deployments.server import ServerInfo

before, settings = dict(os.environ), resident.Settings()
for info in (ServerInfo("http://127.0.0.1:1/api", "", pid=1, auth_string="a:b"), None):
    resident.running_server = lambda info=info: info
    settings.refresh()
    assert dict(os.environ) == before
    print(get_current_settings().api.url, sorted(settings.environment))
    if info:
        os.environ.update(settings.environment)
        server.prefect.context.refresh_global_settings_context = lambda: print("read again")
        server.use_server(info)
        os.environ.clear()
        os.environ.update(before)
"""


def test_settings_are_read_ahead_for_the_server_that_runs(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = processes.run([sys.executable, "-c", AHEAD], env=environment, cwd=tmp_path, text=True, check=True)
    ahead, behind = done.stdout.splitlines()
    assert ahead.startswith("http://127.0.0.1:1/api ") and "PREFECT_API_AUTH_STRING" in ahead
    assert behind == "None []"
