"""A proxy before a Prefect server that passes everything on, but fails some requests as a server with a full disk or a lock does."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator

Sick = Callable[[str, str, bytes], int | None]
"""Given method, path and body of a request: the status to answer with, or None to pass it on."""


def ends_run(status: int) -> Sick:
    """Fail what tells the server of the end of a run."""

    def sick(method: str, path: str, body: bytes) -> int | None:
        ends = path.endswith("/set_state") and (b"COMPLETED" in body or b"FAILED" in body or b"CRASHED" in body)
        return status if method == "POST" and ends else None

    return sick


@contextlib.contextmanager
def sick_proxy(port: int, sick: Sick) -> Iterator[str]:
    """Run a proxy before the server on a port of this machine; yield the address of its API."""
    loop, started = asyncio.new_event_loop(), threading.Event()
    found: list[int] = []

    async def serve() -> None:
        server = await asyncio.start_server(lambda r, w: _connection(r, w, port, sick), "127.0.0.1", 0)
        found.append(server.sockets[0].getsockname()[1])
        started.set()
        await asyncio.Event().wait()

    def run() -> None:
        asyncio.set_event_loop(loop)
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    task = loop.create_task(serve())
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(10)
    yield f"http://127.0.0.1:{found[0]}/api"
    loop.call_soon_threadsafe(task.cancel)
    thread.join(10)


async def _connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, sick: Sick) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        back, forth = await asyncio.open_connection("127.0.0.1", port)
        answers = asyncio.create_task(_pass(back, writer))
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
                headers = {
                    name.strip().lower(): value.strip()
                    for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
                }
                if b"upgrade" in headers:
                    forth.write(head)
                    await _pass(reader, forth)
                    return
                body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
                if (status := sick(method, path, body)) is None:
                    forth.write(head + body)
                    await forth.drain()
                else:
                    answer = b'{"exception_message": "Internal Server Error"}'
                    writer.write(
                        f"HTTP/1.1 {status} Sick\r\ncontent-type: application/json\r\ncontent-length: {len(answer)}\r\n\r\n".encode()
                        + answer
                    )
                    await writer.drain()
        finally:
            answers.cancel()
            forth.close()
            writer.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
