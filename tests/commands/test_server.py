"""The server's door, each case in a process and a PREFECT_HOME of its own. One real server is started, no more."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import prefect
import pytest

from tests.kits import processes

ROOT = Path(__file__).parent.parent.parent

FIND = """
import json, sys, time
from deployments.server import ServerUnavailable, find_or_start_server, stop_server, use_server
from prefect.settings import get_current_settings
said = []
begin = time.monotonic()
try:
    info = find_or_start_server(said.append)
except ServerUnavailable as error:
    print(json.dumps({"error": str(error), "said": said}))
    sys.exit()
took = time.monotonic() - begin
use_server(info)
print(json.dumps({
    "api_url": info.api_url, "ui_url": info.ui_url, "started": info.started, "pid": info.pid, "took": took, "said": said,
    "client": get_current_settings().api.url, "heavy": "prefect.server" in sys.modules,
}))
"""
STOP = """
import json
from deployments.server import stop_server
info = stop_server()
print(json.dumps(info and info.pid))
"""


@contextmanager
def listening(server: ThreadingHTTPServer) -> Iterator[int]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def pretender(answers):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, text = answers.get(self.path, (404, "no such page"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def env(tmp_path):
    """As an ordinary person's shell: no Prefect setting but a home, and a working directory away from prefect.toml."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    # -W error would reach Prefect's own imports; what matters here is what our code does.
    plain.pop("PYTHONWARNINGS", None)
    return {
        **plain,
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_SERVER_API_PORT": str(port),
        "PYTHONPATH": str(ROOT),
    }


def begin(code, env):
    Path(env["PREFECT_HOME"]).mkdir(exist_ok=True)
    return processes.start(
        [sys.executable, "-c", code],
        env=env,
        cwd=env["PREFECT_HOME"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process):
    out, err = process.communicate(timeout=110)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def run(code, env):
    return end(begin(code, env))


def test_two_commands_at_once_start_one_server_which_is_found_again_and_stopped(env):
    with listening(pretender({})) as taken:
        env["PREFECT_SERVER_API_PORT"] = str(taken)
        try:
            both = [end(process) for process in [begin(FIND, env), begin(FIND, env)]]
            again = run(FIND, env)
        finally:
            stopped = run(STOP, env)
    starter, finder = sorted(both, key=lambda found: not found["started"])

    assert starter["started"]
    assert not finder["started"]
    assert starter["pid"] == finder["pid"] == again["pid"] == stopped
    assert len({found["api_url"] for found in [*both, again]}) == 1

    # The port was taken by something else: the next free one, and said so, and where the UI is.
    port = int(starter["api_url"].removesuffix("/api").rsplit(":", 1)[1])
    assert port > taken
    assert f"Port {taken} is taken by something that is no Prefect server; using {port}." in starter["said"]
    assert starter["ui_url"] in starter["said"][-1]

    # This process' Prefect talks to it, and finding was cheap and silent.
    assert all(found["client"] == found["api_url"] for found in [*both, again])
    assert not any(found["heavy"] for found in [*both, again])
    assert again["said"] == []
    assert again["took"] < 1, "3 ms on a quiet machine"

    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert run(STOP, env) is None
    assert (Path(env["PREFECT_HOME"]) / "consensus-server.log").exists()


def test_an_address_that_does_not_answer_is_one_clear_sentence(env):
    env["PREFECT_API_URL"] = f"http://127.0.0.1:{env['PREFECT_SERVER_API_PORT']}/api"
    found = run(FIND, env)
    assert env["PREFECT_API_URL"] in found["error"]
    assert "unset PREFECT_API_URL" in found["error"]
    assert found["said"] == []


def test_a_configured_server_is_used_even_if_it_wants_a_key_first(env):
    with listening(pretender({"/api/health": (401, "who are you?")})) as port:
        env["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
        found = run(FIND, env)
    assert found["api_url"] == env["PREFECT_API_URL"]
    assert (found["started"], found["pid"]) == (False, None)


@pytest.mark.parametrize(("version", "fits"), [(prefect.__version__, True), ("2.20.1", False)])
def test_a_server_on_the_usual_port_is_used_if_its_version_fits(env, version, fits):
    answers = {"/api/health": (200, "true"), "/api/admin/version": (200, json.dumps(version))}
    with listening(pretender(answers)) as port:
        env["PREFECT_SERVER_API_PORT"] = str(port)
        found = run(FIND, env)
    if fits:
        assert found["api_url"] == f"http://127.0.0.1:{port}/api"
        assert not found["started"]
    else:
        assert "version 2.20.1" in found["error"]


def test_a_note_of_a_dead_server_misleads_nobody(env):
    home = Path(env["PREFECT_HOME"])
    home.mkdir()
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    for pid in [child.pid, os.getpid(), "no number"]:
        (home / "consensus-server.json").write_text(json.dumps({"api_url": "http://127.0.0.1:9/api", "pid": pid}))
        assert run(STOP, env) is None, "never a process that is not our server"


def test_the_settings_are_those_of_prefect_toml_unless_you_set_them(monkeypatch):
    from deployments.server import server_environment

    for name in list(os.environ):
        if name.startswith("PREFECT_SERVER_"):
            monkeypatch.delenv(name)
    assert server_environment()["PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE"] == "400"
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE", "7")
    assert "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE" not in server_environment()


def test_prefect_knows_every_setting_we_pass(monkeypatch):
    """A misspelt or renamed setting is otherwise ignored without a word."""
    from prefect.settings import Settings

    from deployments.server import server_environment

    for name in list(os.environ):
        if name.startswith("PREFECT_SERVER_"):
            monkeypatch.delenv(name)
    wanted = server_environment()
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    known = Settings().to_environment_variables(exclude_unset=True)
    assert set(wanted) <= set(known)


def test_looking_for_a_server_costs_less_than_50_ms():
    from deployments.server import server_is_up

    with listening(pretender({"/api/health": (200, "true")})) as port:
        best = min(_timed(lambda: server_is_up(f"http://127.0.0.1:{port}/api")) for _ in range(5))
    assert best < 0.05
    assert min(_timed(lambda: server_is_up("http://127.0.0.1:9/api")) for _ in range(5)) < 0.05


def _timed(action):
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin
