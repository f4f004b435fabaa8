"""A Hugging Face hub on loopback, as `huggingface_hub` asks it: repositories with files, one of them gated."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKEN = "hf_tokenoftheloopbackhub0123456789"


class Hub:
    """What it holds, and which files were downloaded from it."""

    def __init__(self, repositories: Mapping[str, Mapping[str, Path | bytes]], gated: tuple[str, ...] = ()) -> None:
        self.repositories = dict(repositories)
        self.gated = gated
        self.url = ""
        self.downloaded: list[str] = []
        self.asked = 0

    def commit(self, repo: str) -> str:
        """The commit of a repository, which follows from its files' names."""
        return hashlib.sha1(" ".join(sorted(self.repositories[repo])).encode()).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve it, from a thread."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

        def _send(
            self, status: int, headers: Mapping[str, str], body: bytes = b"", *, length: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body) if length is None else length), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            hub.asked += 1
            path = self.path.partition("?")[0].strip("/")
            about = path.removeprefix("api/models/").split("/")
            repo = "/".join(about[:2])
            files = hub.repositories.get(repo)
            if files is None:
                self._send(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
                return
            shut = repo in hub.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}"
            if shut:
                self._send(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
                return
            commit = hub.commit(repo)
            if path.startswith("api/models/"):
                siblings = [{"rfilename": name, "size": _size(one)} for name, one in files.items()]
                told = {"id": repo, "sha": commit, "siblings": siblings, "tags": ["gguf", "license:apache-2.0"]}
                self._send(200, {"Content-Type": "application/json"}, json.dumps(told).encode())
                return
            file = files.get("/".join(about[4:]))
            if file is None:
                self._send(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "no such file"})
                return
            if self.command == "GET":
                hub.downloaded.append("/".join(about[4:]))
            body = file.read_bytes() if isinstance(file, Path) else file
            etag = hashlib.sha256(body).hexdigest()
            self._send(
                200,
                {"X-Repo-Commit": commit, "ETag": f'"{etag}"'},
                body if self.command == "GET" else b"",
                length=len(body),
            )

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield hub
        server.shutdown()


def _size(file: Path | bytes) -> int:
    return file.stat().st_size if isinstance(file, Path) else len(file)
