"""The server's door, each case in a process and a PREFECT_HOME of its own. One real server is started, no more."""

import html
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import httpx
import prefect
import pytest

from tests.kits import empty_database, processes

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.timeout(400)  # A server that starts on a busy machine.

FIND = """
import json, sys, time
from consensus_flows.deployments.server import ServerUnavailable, find_or_start_server, stop_server, use_server
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
from consensus_flows.deployments.server import stop_server
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


def pretender(answers, seen=None):
    """A web server that is none of ours; `seen` collects the headers it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if seen is not None:
                seen.append(dict(self.headers))
            status, text = answers.get(self.path, (404, "no such page"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def somebody_elses_server(home):
    """What a Prefect server without a password answers."""
    return {
        "/api/health": (200, "true"),
        "/api/admin/version": (200, json.dumps(prefect.__version__)),
        "/api/admin/settings": (200, json.dumps({"home": str(home)})),
    }


def shell(home, port):
    """As an ordinary person's: no Prefect setting but a home, and a working directory away from prefect.toml."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    # -W error would reach Prefect's own imports; what matters here is what our code does.
    plain.pop("PYTHONWARNINGS", None)
    return {**plain, "PREFECT_HOME": str(home), "PREFECT_SERVER_API_PORT": str(port), "PYTHONPATH": str(ROOT)}


@pytest.fixture
def env(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return shell(tmp_path / "home", port)


def begin(code, env, start=processes.start):
    Path(env["PREFECT_HOME"]).mkdir(exist_ok=True)
    return start(
        [sys.executable, "-c", code],
        env=env,
        cwd=env["PREFECT_HOME"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process):
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def run(code, env):
    return end(begin(code, env))


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """One real server, started by two commands at once beside somebody else's on the usual port, in a folder open to everybody."""
    home = tmp_path_factory.mktemp("door") / "home"
    home.mkdir()
    home.chmod(0o755)
    home.joinpath("prefect.db").touch(mode=0o644)
    if empty_database.KEPT.exists():  # its tables are of no interest here
        shutil.copyfile(empty_database.KEPT, home / "prefect.db")
    home.chmod(0o775)
    seen = []
    with listening(pretender(somebody_elses_server("/another/home"), seen)) as taken:
        env = shell(home, taken)
        try:
            # New processes, as what they import is looked at.
            both = [end(process) for process in [begin(FIND, env, processes.start_new) for _ in range(2)]]
            again = end(begin(FIND, env, processes.start_new))
            auth = home.joinpath("consensus-server-auth").read_text()
            yield SimpleNamespace(both=both, again=again, taken=taken, seen=seen, env=env, home=home, auth=auth)
        finally:
            stopped = run(STOP, env)
    assert stopped == again["pid"]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", urlsplit(again["api_url"]).port)) != 0
    assert run(STOP, env) is None
    assert home.joinpath("consensus-server.log").exists()
    assert not home.joinpath("consensus-server-auth").exists(), "a browser may give it to whoever takes the port now"


def test_two_commands_at_once_start_one_server_which_is_found_again(started):
    starter, finder = sorted(started.both, key=lambda found: not found["started"])
    everybody = [*started.both, started.again]

    assert starter["started"]
    assert not finder["started"]
    assert len({found["pid"] for found in everybody}) == 1
    assert len({found["api_url"] for found in everybody}) == 1

    # The usual port was taken by somebody else's Prefect server: the next free one, and said so, and where the UI is.
    port = urlsplit(starter["api_url"]).port
    assert port > started.taken
    assert any(str(started.taken) in said and str(port) in said for said in starter["said"])
    assert starter["ui_url"] in starter["said"][-1]

    # This process' Prefect talks to it, and finding was cheap and silent.
    assert all(found["client"] == found["api_url"] for found in everybody)
    assert not any(found["heavy"] for found in everybody)
    assert started.again["said"] == []
    assert started.again["took"] < 1, "3 ms on a quiet machine"


def test_somebody_elses_server_is_never_handed_the_password(started):
    assert started.seen
    assert not any("Authorization" in headers for headers in started.seen)


def ask(started, method, path, **more):
    url = started.again["ui_url"] + path
    return httpx.request(method, url, timeout=30, trust_env=False, **more)


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded"])
def test_a_server_that_we_start_tells_strangers_nothing(started, content_type):
    headers = {"content-type": content_type, "origin": "https://evil.example"}
    body = json.dumps({"include_secrets": True})
    found = ask(started, "POST", "/api/block_documents/filter", content=body, headers=headers)
    assert found.status_code in {401, 403}
    # Neither half of the lock is enough by itself: the password without the token against forged requests, or the other way.
    half = ask(started, "POST", "/api/block_documents/filter", content=body, headers=headers, auth=password(started))
    assert half.status_code == 403
    token = ask(started, "GET", "/api/csrf-token", params={"client": "evil"}, headers=headers)
    assert token.status_code == 401


def password(started):
    return tuple(started.auth.split(":", 1))


def test_only_the_servers_own_pages_may_read_it_in_a_browser(started):
    def preflight(origin):
        wanted = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        return ask(started, "OPTIONS", "/api/flow_runs/filter", headers={"origin": origin, **wanted})

    assert preflight(started.again["ui_url"]).status_code == 200
    assert preflight("https://evil.example").status_code == 400
    assert preflight("http://127.0.0.1:1").status_code == 400


@pytest.mark.parametrize("path", ["/api/health", "/", "/consensus/sign-in"])
def test_a_name_that_is_not_this_machines_is_refused(started, path):
    """A DNS name that an attacker points at 127.0.0.1 makes a page of theirs the same origin as the server."""
    port = urlsplit(started.again["ui_url"]).port
    assert ask(started, "GET", path, headers={"host": f"evil.example:{port}"}).status_code == 400
    assert ask(started, "GET", path, headers={"host": f"localhost:{port}"}).status_code == 200


@pytest.mark.parametrize("path", ["/api/events/in", "/api/events/out", "/api/logs/out"])
async def test_websockets_want_the_password_too(started, path):
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, InvalidHandshake
    from websockets.typing import Subprotocol

    url = started.again["ui_url"].replace("http", "ws") + path

    async def first_answer(token):
        async with connect(url, subprotocols=[Subprotocol("prefect")], proxy=None) as socket:
            await socket.send(json.dumps({"type": "auth", "token": token}))
            return json.loads(await socket.recv())["type"]

    assert await first_answer(started.auth) == "auth_success"
    with pytest.raises(ConnectionClosed):
        await first_answer("consensus:wrong")
    with pytest.raises((ConnectionClosed, InvalidHandshake)):
        async with connect(url, proxy=None) as socket:
            await socket.recv()


def test_what_is_secret_in_the_home_is_the_owners_alone_also_where_the_folder_was_there_before(started):
    secret = ["prefect.db", "consensus-server-auth", "consensus-server.log", "profiles.toml"]
    assert {name: oct(started.home.joinpath(name).stat().st_mode & 0o777) for name in secret} == dict.fromkeys(
        secret, "0o600"
    )
    assert not [path.name for path in started.home.glob("prefect.db*") if path.stat().st_mode & 0o077]
    assert started.home.stat().st_mode & 0o022 == 0, "nobody else can replace them"


def test_prefects_own_commands_reach_it_by_the_profile(started):
    plain = {name: value for name, value in started.env.items() if name != "PREFECT_SERVER_API_PORT"}
    command = [sys.executable, "-m", "prefect", "--profile", "consensus", "work-pool"]
    for more in (["create", "mine", "--type", "process"], ["ls"]):
        done = processes.run([*command, *more], env=plain, cwd=started.home, text=True, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "mine" in done.stdout


NOTIFY = """
import asyncio, json
from prefect.client.orchestration import get_client
from prefect.states import Completed, Crashed
from consensus_flows.deployments.notifications import notification, notify_of
from consensus_flows.deployments.server import connect
from consensus_flows.flows.batch import batch

async def main(ui_url):
    async with get_client() as client:
        for kind in ("webhook", "email"):
            night = await batch.ato_deployment(kind, parameters={"input": "a.csv", "output": "/answers-{date}.jsonl"})
            key = await night.aapply()
            await notify_of(client, kind, key, await notification(kind, kind, kind), ui_url)
            for name, state in (
                ("a.csv, part 1 of 2", Completed()),
                ("a.csv", Completed(name="Degraded", message="48 rows, 48 degraded · /answers-2026-11-27.jsonl")),
                ("a.csv", Crashed(message="killed")),
            ):
                run = await client.create_flow_run_from_deployment(key, name=name)
                await client.set_flow_run_state(run.id, state, force=True)

asyncio.run(main(connect().ui_url))
print(json.dumps(None))
"""


def test_who_is_to_be_notified_of_a_schedule_is_told_of_every_end_and_of_no_shard(started):
    """By the server, also of a run whose process is gone; to a block of Prefect's own and to one of ours."""
    sent = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            sent.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with listening(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        addresses = {"webhook": f"http://127.0.0.1:{port}/", "email": f"json://127.0.0.1:{port}/"}
        run(NOTIFY, started.env | addresses)
        found = [sent.get(timeout=60) for _ in range(6)]
    told = {(one.get("subject") or one["title"]): one.get("text") or one["message"] for one in found}
    for kind in ("webhook", "email"):
        assert f"{kind} is scheduled" in told
        degraded, crashed = told[f"{kind}: Degraded"], told[f"{kind}: Crashed"]
        assert "48 rows, 48 degraded · /answers-2026-11-27.jsonl" in degraded and "killed" in crashed
        assert f"{started.again['ui_url']}/runs/flow-run/" in degraded


def test_the_profile_is_no_address_of_your_own_that_must_answer(started):
    """Else `prefect profile use consensus` would forbid the next command to start the server again."""
    other = started.home / "other-profiles.toml"
    other.write_text('[profiles.consensus]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n')
    env = {**started.env, "PREFECT_PROFILE": "consensus", "PREFECT_PROFILES_PATH": str(other)}
    # A new process, as Prefect reads its profiles at import.
    assert end(begin(FIND, env, processes.start_new))["pid"] == started.again["pid"]


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_its_address_in_the_environment_finds_its_password(started, name):
    url = started.again["api_url"].replace("127.0.0.1", name) + "/"
    assert run(FIND, {**started.env, "PREFECT_API_URL": url})["pid"] == started.again["pid"]


def test_its_ui_sends_the_password_to_it_alone(started):
    assert ask(started, "GET", "/ui-settings").json()["api_url"] == started.again["api_url"]


def test_the_ui_is_opened_by_a_file_that_only_its_owner_can_read(started):
    fake = started.home / "browser"
    fake.write_text('#!/bin/sh\necho "$1" > "$0.opened"\n')
    fake.chmod(0o700)
    command = [sys.executable, "-c", "from consensus_flows.deployments.cli import main; main()", "ui"]
    done = processes.run(command, env={**started.env, "BROWSER": str(fake)}, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == started.again["ui_url"]
    opened = Path(urlsplit(fake.with_suffix(".opened").read_text().strip()).path)
    assert opened.stat().st_mode & 0o077 == 0
    link = html.unescape(opened.read_text()).partition("url=")[2].rpartition('"')[0]
    page, _, secret = link.partition("#")
    assert unquote(secret) == started.auth
    assert httpx.get(page, trust_env=False).status_code == 200
    shown = processes.run([*command, "--password"], env=started.env, text=True, timeout=100)
    assert shown.stdout.strip() == started.auth


def test_a_server_of_your_own_on_the_same_database_is_named_and_no_second_is_started(env):
    with listening(pretender(somebody_elses_server(env["PREFECT_HOME"]))) as port:
        env["PREFECT_SERVER_API_PORT"] = str(port)
        found = run(FIND, env)
    assert f"PREFECT_API_URL=http://127.0.0.1:{port}/api" in found["error"]
    assert found["said"] == []


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


EARLIER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        print(self.path, flush=True)
        known = sys.argv[2] == "open" or self.path == "/api/health" or self.headers["authorization"] == "Basic dXNlcjpzZWNyZXQ="
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write({"/api/health": b"true", "/api/admin/version": sys.argv[1].encode()}[self.path])
    def log_message(self, *args): ...
server = HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def earlier(
    env: dict[str, str], version: str, password: str, door: str
) -> "Iterator[tuple[str, subprocess.Popen[str]]]":
    """Run what looks like the server of an earlier command; gives its address, and the process, which prints what it is asked."""
    home = Path(env["PREFECT_HOME"])
    home.mkdir()
    # The last argument is what a server of ours is known by.
    command = [sys.executable, "-c", EARLIER, json.dumps(version), door, "consensus_flows.deployments.prefect_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}/api"
            home.joinpath("consensus-server.json").write_text(json.dumps({"api_url": url, "pid": server.pid}))
            home.joinpath("consensus-server-auth").write_text(password)
            yield url, server
        finally:
            server.kill()


@pytest.mark.parametrize(
    ("version", "password", "door", "fits"),
    [
        (prefect.__version__, "user:secret", "closed", True),
        (prefect.__version__, "user:secret", "open", False),
        ("2.20.1", "user:secret", "closed", False),
        ("any", "user:other", "closed", False),
    ],
)
def test_the_server_of_an_earlier_command_is_used_if_its_version_and_password_fit(env, version, password, door, fits):
    with earlier(env, version, password, door) as (url, _):
        found = run(FIND, env)
    if fits:
        assert (found["api_url"], found["started"]) == (url, False)
    else:
        assert "consensus down" in found["error"]


@pytest.mark.parametrize(("pause", "asked"), [(0, 2), (1.1, 4)])
def test_a_command_that_connects_again_asks_the_server_only_after_a_while(env, pause, asked):
    with earlier(env, prefect.__version__, "user:secret", "closed") as (url, server):
        again = f"time.sleep({pause})\nassert info == find_or_start_server(said.append)\n"
        assert run(FIND.replace("use_server(info)\n", again), env)["api_url"] == url
        server.kill()
        assert server.stdout.read().split() == ["/api/admin/version"] * asked


def test_a_note_of_a_dead_server_misleads_nobody(env):
    home = Path(env["PREFECT_HOME"])
    home.mkdir()
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    for pid in [child.pid, os.getpid(), "no number"]:
        (home / "consensus-server.json").write_text(json.dumps({"api_url": "http://127.0.0.1:9/api", "pid": pid}))
        assert run(STOP, env) is None, "never a process that is not our server"


def test_the_ui_is_unpacked_at_home_where_somebody_else_installed_prefect(tmp_path, monkeypatch):
    import prefect

    from consensus_flows.deployments.server import server_environment

    assert "PREFECT_UI_STATIC_DIRECTORY" not in server_environment()
    monkeypatch.setattr(prefect, "__ui_static_subpath__", tmp_path / "not there" / "ui_build")
    wanted = str(prefect.settings.get_current_settings().home.resolve() / "ui")
    assert server_environment()["PREFECT_UI_STATIC_DIRECTORY"] == wanted


def test_the_settings_are_those_of_prefect_toml_unless_you_set_them(monkeypatch):
    from consensus_flows.deployments.server import server_environment

    for name in list(os.environ):
        if name.startswith("PREFECT_SERVER_"):
            monkeypatch.delenv(name)
    assert server_environment()["PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE"] == "400"
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE", "7")
    assert "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE" not in server_environment()


def test_prefect_knows_every_setting_we_pass(monkeypatch):
    """A misspelt or renamed setting is otherwise ignored without a word."""
    from prefect.settings import Settings

    from consensus_flows.deployments.server import server_environment

    for name in list(os.environ):
        if name.startswith("PREFECT_SERVER_"):
            monkeypatch.delenv(name)
    wanted = server_environment()
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    known = Settings().to_environment_variables(exclude_unset=True)
    assert set(wanted) <= set(known)


def test_looking_for_a_server_costs_less_than_50_ms():
    from consensus_flows.deployments.server import server_is_up

    with listening(pretender({"/api/health": (200, "true")})) as port:
        best = min(_timed(lambda: server_is_up(f"http://127.0.0.1:{port}/api")) for _ in range(5))
    assert best < 0.05
    assert min(_timed(lambda: server_is_up("http://127.0.0.1:9/api")) for _ in range(5)) < 0.05


def _timed(action):
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin
