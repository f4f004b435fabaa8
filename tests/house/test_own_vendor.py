"""A package of somebody else's adds a vendor: installed for real, asked over its own wire format."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL

ROOT = Path(__file__).parent.parent.parent
ASK = """
import asyncio, json
from own_vendor import OracleCredentials
from consensus_flows.blocks import Sampling
from consensus_flows.tasks.calls.call import Caller
from consensus_flows.tasks.calls.request import Message, Request

def question(provider, model, **fields):
    return Request(provider=provider, model=model, messages=(Message(role="user", content="Why?"),), **fields)

async def main():
    await OracleCredentials(api_key="sk-saved", base_url="{url}").save("delphi", overwrite=True)
    sampling = Sampling(temperature=1.0, max_output_tokens=9, seed=3)
    asked = [question("oracle", "pythia", sampling=sampling), question("delphi", "pythia"), question("oracle", "broke"),
             question("oracle", "pythia", kind="embedding", reader="embedding")]
    for request in asked:
        print(json.dumps((await Caller()(request)).model_dump(mode="json")))

asyncio.run(main())
"""


class Oracle(BaseHTTPRequestHandler):
    """Speaks the format of examples/own_vendor."""

    seen: list[tuple[str, Any]]

    def do_GET(self) -> None:
        self._answer(200, {"models": []})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append((self.headers["x-oracle-key"], body))
        if body["model"] == "broke":
            return self._answer(402, {"error": {"message": "no coins"}})
        if "temperature" in body["settings"]:
            return self._answer(400, {"error": {"message": "unsupported: 'temperature'"}})
        return self._answer(200, {"said": "Because.", "ended": "done", "tokens": {"read": 4, "written": 2}})

    def _answer(self, status: int, body: Any) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, ROOT / "examples/own_vendor"], check=True)
    return target


@pytest.fixture
def oracle() -> Iterator[str]:
    Oracle.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Oracle)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_package_adds_a_vendor(package: Path, oracle: str, prefect_server: None, tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": str(package),
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(tmp_path / "results"),
        "CONSENSUS_RETRIES": "0",
        "ORACLE_API_KEY": "sk-environment",
        "ORACLE_BASE_URL": oracle,
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    good, saved, broke, embedding = map(json.loads, run("-c", ASK.replace("{url}", oracle)).splitlines())
    assert (good["text"], good["usage"]["input_tokens"], good["cost_usd"]) == ("Because.", 4, None)
    assert len(good["warnings"]) == 2, "temperature was refused, and there is no seed"
    assert (saved["text"], broke["error"]["kind"], embedding["error"]["kind"]) == ("Because.", "quota", "bad_request")
    refused, repaired, other, last = Oracle.seen
    assert refused[1]["settings"] == {"temperature": 1.0, "words": 9}
    assert repaired == ("sk-environment", refused[1] | {"settings": {"words": 9}})
    assert (other[0], last[1]["model"]) == ("sk-saved", "broke")
    assert f"{oracle} (environment) answers" in run(
        "-c",
        "import sys; sys.argv = ['consensus', 'check']; from consensus_flows.deployments.cli import entry; entry()",
    )
