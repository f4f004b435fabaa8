"""The loopback server: a real socket, a background thread, its own event loop."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from . import anthropic_batches, google_batches, openai_batches
from .batch_jobs import Jobs
from .connection import Connection, RawRequest
from .ledger import Ledger
from .routes import plain_error, recognise, render
from .script import CLIENT_GONE, Reply, SeenRequest, Vendor

MODELS = ("*", "gpt-6-luna", "gpt-6.1-sol", "claude-sonnet-5-5", "claude-haiku-4-5", "gemini-3.8-flash", "embedding-1")
TOKEN = "token-of-a-cloud"
"""What its `/token` gives out."""

_BATCHES: dict[Vendor, Callable[[Jobs, SeenRequest, RawRequest], Reply]] = {
    "openai": openai_batches.answer,
    "anthropic": anthropic_batches.answer,
    "google": google_batches.answer,
}


class LoopbackVendors(Ledger):
    """OpenAI, Anthropic and Gemini on one loopback port, scripted and logged.

    Answers of ``chat`` and ``embeddings`` requests follow the model's script; what is not scripted gets a
    deterministic default. Everything here may be used from any thread; step functions run on the server's own
    thread and must not block.
    """

    def __init__(self, *, port: int = 0, delay: float = 0.0, models: Iterable[str] = MODELS) -> None:
        """Configure a server; it runs once started.

        Args:
            port: Port on 127.0.0.1; 0 takes a free one.
            delay: Seconds added to every generation, on top of a reply's own delay.
            models: Names to list; scripted names are listed too.
        """
        super().__init__()
        self.delay = delay
        self.models = list(models)
        self.jobs = Jobs(self)
        """Batch jobs, and how they go."""
        self._port = port
        self._connections: set[Connection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Start serving."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop serving."""
        self.stop()

    def start(self) -> None:
        """Listen and serve from a background thread; returns once connections are accepted."""
        ready: threading.Event = threading.Event()
        failed: list[OSError] = []
        self._thread = threading.Thread(target=self._run, args=(ready, failed), name="loopback-vendors", daemon=True)
        self._thread.start()
        ready.wait()
        if failed:
            raise failed[0]

    def stop(self) -> None:
        """Drop all connections and end the thread."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop = self._thread = None

    def _run(self, ready: threading.Event, failed: list[OSError]) -> None:
        loop = asyncio.new_event_loop()
        try:
            listening = loop.run_until_complete(
                loop.create_server(
                    lambda: Connection(self._handle, self._connections), "127.0.0.1", self._port, backlog=4096
                )
            )
            self._port = listening.sockets[0].getsockname()[1]
            self._loop = loop
            ready.set()
            loop.run_forever()
            listening.close()
            for connection in list(self._connections):
                connection.abort()
            loop.run_until_complete(asyncio.sleep(0))
        except OSError as error:
            failed.append(error)
        finally:
            loop.close()
            ready.set()

    @property
    def url(self) -> str:
        """Root, without a slash at the end."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def openai_url(self) -> str:
        """``base_url`` for OpenAI clients."""
        return f"{self.url}/v1"

    @property
    def openrouter_url(self) -> str:
        """``base_url`` for OpenAI clients that mean OpenRouter: costs in usage, OpenRouter's error objects."""
        return f"{self.url}/openrouter/api/v1"

    @property
    def anthropic_url(self) -> str:
        """``base_url`` for Anthropic clients."""
        return self.url

    @property
    def google_url(self) -> str:
        """``base_url`` for Gemini clients."""
        return self.url

    def reset(self) -> None:
        """Forget scripts, log, counts and jobs; requests in flight go on unlogged."""
        super().reset()
        self.jobs = Jobs(self)

    def summary(self) -> dict[str, Any]:
        """The log and the jobs as plain JSON values: what ``GET /_seen`` answers."""
        return super().summary() | {"jobs": self.jobs.summary(), "executions": self.jobs.executions}

    def _handle(self, connection: Connection, raw: RawRequest) -> None:
        at = time.time()
        if raw.path == "/_seen":
            _send_json(connection, 200, self.summary())
            return
        if raw.path == "/_reset":
            self.reset()
            _send_json(connection, 200, {})
            return
        if raw.path.startswith("/token"):
            # What signs in to Google Cloud with a service account, and to Azure with a managed identity.
            token = {"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600, "resource": "loopback"}
            _send_json(connection, 200, token | {"expires_on": str(int(at) + 3600)})
            return
        try:
            seen = recognise(raw)
        except Exception as error:  # a body no vendor would take must be answered too
            _send_json(connection, 400, {"error": {"message": f"unreadable request: {error!r}"}})
            return
        if seen is None:
            _send_json(connection, 404, {"error": {"message": f"no route {raw.method} {raw.path}"}})
            return
        seen.at = at
        seen.query = raw.path.partition("?")[2]
        step = self.note(seen)
        try:
            reply = Reply() if step is None else step if isinstance(step, Reply) else step(seen)
            if seen.kind == "batches" and reply.status < 400 and reply.body is None:
                reply = _of_batches(_BATCHES[seen.vendor](self.jobs, seen, raw), reply)
            headers, body = render(seen, reply, self._names() if seen.kind == "models" else [])
        except Exception as error:  # a faulty step function must show, not hang the client
            reply, headers = Reply(status=500), {"content-type": "application/json"}
            body: bytes | list[bytes] = json.dumps(plain_error(seen, 500, f"script failed: {error!r}")).encode()
        self._answer(connection, seen, reply, headers, body)

    def _names(self) -> list[str]:
        return list(dict.fromkeys([*self.models, *self.scripted()]))

    def _answer(
        self,
        connection: Connection,
        seen: SeenRequest,
        reply: Reply,
        headers: dict[str, str],
        body: bytes | list[bytes],
    ) -> None:
        self.begin()
        timer: asyncio.TimerHandle | None = None

        def gone() -> None:
            self.end(seen, CLIENT_GONE)
            if timer is not None:
                timer.cancel()

        def send() -> None:
            nonlocal timer
            if self.in_flight_peak < self.together and self._loop is not None:
                timer = self._loop.call_later(delay or 0.01, send)
                return
            if reply.fault == "hang":
                return  # stays in flight until the client leaves
            if isinstance(body, list) and reply.fault not in {"close_before", "reset"}:
                connection.begin(reply.status, headers)
                stream(body[: len(body) // 2] if reply.fault else body)
                return
            self.end(seen, 0 if reply.fault else reply.status)
            connection.send(reply.status, headers, b"".join(body) if isinstance(body, list) else body, reply.fault)

        def stream(events: list[bytes]) -> None:
            nonlocal timer
            while events:
                connection.write(events[0])
                events = events[1:]
                if events and reply.pace and self._loop is not None:
                    timer = self._loop.call_later(reply.pace, stream, events)
                    return
            if reply.fault == "stall":
                return
            self.end(seen, 0 if reply.fault else reply.status)
            connection.finish(reply.fault)

        connection.on_lost = gone
        delay = reply.delay + (self.delay if seen.kind == "chat" else 0.0)
        if delay > 0 and self._loop is not None:
            timer = self._loop.call_later(delay, send)
        else:
            send()


def _of_batches(done: Reply, scripted: Reply) -> Reply:
    body = done.body
    if isinstance(body, str) and scripted.fault == "end_early":
        body = body[: len(body) // 2].rstrip("}\n")  # in the middle of a line
    return replace(done, body=body, delay=scripted.delay, fault=scripted.fault)


def _send_json(connection: Connection, status: int, value: object) -> None:
    connection.send(status, {"content-type": "application/json"}, json.dumps(value).encode())
