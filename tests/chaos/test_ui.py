"""What models write, in the Prefect UI in a real browser: nothing runs and nothing is fetched."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import flow
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from consensus_flows.flows.consortium import page
from consensus_flows.tasks.prompting.fence import marked
from consensus_flows.tasks.record import CallError, Iteration, Response, Synthesis
from consensus_flows.tasks.reports.report import calls_table
from tests.chaos.figures import tell

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here"),
]
SCREENSHOT = "TEST_SCREENSHOT"
"""Names a file into which a picture of the page is put, for whoever wants to look."""


@pytest.fixture
def beacon() -> Iterator[tuple[str, list[str]]]:
    """A server that notes whatever is fetched from it."""
    fetched: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fetched.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", fetched
    server.shutdown()


@pytest.fixture
def server_with_ui(tmp_path: Path) -> Iterator[str]:
    """A server of its own: that of the other tests has no UI."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_UI_STATIC_DIRECTORY": str(tmp_path / "ui"),
        "PREFECT_UI_API_URL": f"{address}/api",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(900):
            assert process.poll() is None, (tmp_path / "server.log").read_text()[-1000:]
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{address}/api/health").status_code == 200:
                    break
            time.sleep(0.1)
        page = httpx.get(address, follow_redirects=True)
        assert "<html" in page.text, page.text[:200]
        with temporary_settings({PREFECT_API_URL: f"{address}/api"}):
            yield address
            # Events of later tests would be sent here too, and wait for a server that is gone.
            EventsWorker.drain_all()
    finally:
        process.terminate()
        process.wait(30)


def attacks(url: str) -> list[str]:
    """Texts that fetch or run something wherever they are rendered."""
    ran = "document.title='RAN';document.body.setAttribute('data-ran','1')"
    return [
        f"![x]({url}/markdown.png)",
        f"<img src='{url}/html.png' onerror=\"{ran}\">",
        f"<script>{ran}</script><script src='{url}/script.js'></script>",
        f"<svg onload=\"{ran}\"><image href='{url}/svg.png'/></svg>",
        f"<iframe src='{url}/frame'></iframe><object data='{url}/object'></object>",
        f"<style>@import url({url}/style.css); body {{ background: url({url}/background.png) }}</style>",
        f"<link rel=stylesheet href='{url}/link.css'><meta http-equiv=refresh content='0;url={url}/meta'>",
        f"[a link](javascript:{ran}) <a href='javascript:{ran}'>b</a>",
        f"```\n````\n`````text\n```` \n\n![out]({url}/fence.png)\n\n<b id=broke>out of the fence</b>",
        f"~~~\n![tilde]({url}/tilde.png)\n~~~\n\r```\r![cr]({url}/cr.png)",
        f'```mermaid\ngraph TD; A["<img src=\'{url}/mermaid.png\'>"] --> B; click A "javascript:{ran}"\n```',
        f"| a | b |\n|---|---|\n| ![t]({url}/table.png) | <img src={url}/cell.png> |",
        f"[r]: {url}/ref.png\n![r]",
        "\u202eDEGROF\u202c \u2066isolate\u2069",
    ]


def iteration(url: str) -> Iteration:
    """An iteration in which everybody attacks: members, the arbiter, and a server's error message."""
    responses = [
        marked(Response(member=f"openai/m{number}#1", provider="openai", model=f"m{number}", text=text))
        for number, text in enumerate(attacks(url))
    ]
    failed = CallError(kind="server", message="openai/x: server: " + " ".join(attacks(url)))
    responses.append(Response(member=f"openai/<img src={url}/name.png>#1", provider="openai", model="x", error=failed))
    everything = "\n\n".join(attacks(url))
    synthesis = Synthesis(
        text=everything, analysis=everything, dissent=everything, refinement_areas=attacks(url), arbiter="openai/judge"
    )
    return Iteration(number=1, responses=responses, synthesis=synthesis)


def browse(url: str, folder: Path, *more: str) -> str:
    """Open a page, give it ten seconds of its own time, and return its document."""
    assert BROWSER is not None
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={folder}",
        "--window-size=1400,3000",
        "--virtual-time-budget=20000",
        *more,
        url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    return done.stdout


def test_the_beacon_is_fetched_by_a_page_that_is_not_guarded(beacon: tuple[str, list[str]], tmp_path: Path) -> None:
    """So that the next test tests something."""
    url, fetched = beacon
    page = tmp_path / "page.html"
    unguarded = [text for text in attacks(url) if "refresh" not in text]  # which would leave the page
    page.write_text(f"<html><title>plain</title><body>{''.join(unguarded)}</body></html>")
    shown = browse(f"file://{page}", tmp_path / "profile", "--dump-dom")
    assert "/html.png" in fetched
    assert "/script.js" in fetched
    assert "data-ran" in shown


async def test_nothing_runs_and_nothing_is_fetched(
    beacon: tuple[str, list[str]], server_with_ui: str, tmp_path: Path
) -> None:
    url, fetched = beacon
    ui = server_with_ui
    one = iteration(url)

    @flow
    async def attacked() -> dict[str, Any]:
        return {
            "markdown": await acreate_markdown_artifact(page(one), "attacks-markdown", "Iteration 1"),
            "table": await acreate_table_artifact(calls_table(one), "attacks-table", "Calls"),
        }

    made = await attacked()
    found: dict[str, Any] = {}
    for kind, artifact in made.items():
        address = f"{ui}/artifacts/artifact/{artifact}"
        shown = browse(address, tmp_path / f"profile-{kind}", "--dump-dom")
        if SCREENSHOT in os.environ:
            picture = Path(os.environ[SCREENSHOT]).with_suffix(f".{kind}.png")
            browse(address, tmp_path / f"profile-{kind}-picture", f"--screenshot={picture}")
        rendered = "attack" in shown and ("openai/m1" in shown or "openai m1" in shown)
        assert rendered, f"the {kind} artifact was not rendered: {re.sub('<[^>]*>', ' ', shown)[-500:]}"
        assert "RAN" not in re.findall(r"<title>(.*?)</title>", shown)
        assert "data-ran=" not in shown
        assert '<b id="broke"' not in shown
        loaded = re.findall(rf"<(?:img|script|iframe|object|link|image|embed)[^>]*{re.escape(url)}[^>]*>", shown)
        assert not loaded, (kind, loaded, fetched)
        assert not re.findall(r"<a[^>]*href=\"javascript:", shown)
        assert "\u202e" not in shown
        found[kind] = len(shown)
    assert fetched == [], fetched
    tell("browser", fetched=len(fetched), ran=0, attacks=len(attacks(url)), pages=found)
