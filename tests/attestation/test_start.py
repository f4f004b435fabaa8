"""`start.py` of the image for Confidential Space, with stand-ins for Google's services and for the command."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "deployments" / "confidential-space"
SECRETS = {"OPENAI_API_KEY": "sk-one", "ANTHROPIC_API_KEY": "sk-two\n", "GATEWAY_TOKEN": "of-the-clients"}
START = """
import os, runpy, sys
from pathlib import Path
made = runpy.run_path(sys.argv[1])
made["main"].__globals__.update(METADATA=sys.argv[2], SECRETS=sys.argv[2], PANELS=Path(sys.argv[3]))
made["main"]()
"""
COMMAND = """#!{python}
import json, os, sys
given = {{name: os.environ.get(name) for name in {names!r}}}
line = {{"arguments": sys.argv[1:], "input": sys.stdin.read() if "token" in sys.argv else "", "environment": given}}
print(json.dumps(line), flush=True)
"""


class Google(BaseHTTPRequestHandler):
    """The metadata server and Secret Manager."""

    def do_GET(self):
        name = self.path.split("/")[4] if "/secrets/" in self.path else ""
        if name:
            assert self.headers["Authorization"] == "Bearer of-the-account"
            assert self.path == f"/projects/my-project/secrets/{name}/versions/latest:access"
            text = json.dumps({"payload": {"data": base64.b64encode(SECRETS[name].encode()).decode()}})
        else:
            assert self.headers["Metadata-Flavor"] == "Google"
            account = json.dumps({"access_token": "of-the-account"})
            text = {"/project/project-id": "my-project"}.get(self.path, account)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def google():
    with ThreadingHTTPServer(("127.0.0.1", 0), Google) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_keys_are_fetched_panels_saved_and_the_gateway_is_started(google, tmp_path):
    command = tmp_path / "consensus"
    command.write_text(COMMAND.format(python=sys.executable, names=[*SECRETS]))
    command.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    arguments = [sys.executable, "-c", START, FOLDER / "start.py", google, FOLDER / "panels"]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    token, save, serve = map(json.loads, done.stdout.splitlines())
    assert (token["arguments"], token["input"]) == (["keys", "token"], "of-the-clients")
    panel = FOLDER / "panels" / "consortium" / "default.json"
    assert save["arguments"] == ["save", "default", "--flow", "consortium", "--config", str(panel)]
    assert serve["arguments"][:2] == ["serve", "--attest"] and "0.0.0.0" in serve["arguments"]
    keys = {"OPENAI_API_KEY": "sk-one", "ANTHROPIC_API_KEY": "sk-two", "GATEWAY_TOKEN": None}
    assert serve["environment"] == save["environment"] == keys
