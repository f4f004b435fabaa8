"""One HTTP/1.1 connection, parsed by hand because that is several times faster than a general parser.

Keep-alive and pipelining work; bodies need a Content-Length, as the vendors' SDKs send.
"""

from __future__ import annotations

import asyncio
import http
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .script import Fault

_REASONS = {status.value: status.phrase for status in http.HTTPStatus} | {
    499: "Client Closed Request",
    529: "Overloaded",
}


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request as it came off the wire."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Connection(asyncio.Protocol):
    """Reads requests one at a time and hands each to a handler, which answers through :meth:`send`."""

    def __init__(self, handler: Callable[[Connection, RawRequest], None], alive: set[Connection]) -> None:
        """Make a connection that is not open yet.

        Args:
            handler: Called with each complete request.
            alive: Set in which open connections are kept.
        """
        self._handler = handler
        self._alive = alive
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._busy = False
        self._keep = True
        self.on_lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._alive.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the handler of the unanswered request, if any, that the client is gone."""
        self._transport = None
        self._alive.discard(self)
        gone, self.on_lost = self.on_lost, None
        if gone is not None:
            gone()

    def data_received(self, data: bytes) -> None:
        """Collect bytes until a request is complete."""
        self._buffer += data
        self._advance()

    def _advance(self) -> None:
        while not self._busy and self._transport is not None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
            headers: dict[str, str] = {}
            for line in lines:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            words = first.split(" ")
            length = headers.get("content-length", "0")
            if len(words) != 3 or not length.isdigit() or "transfer-encoding" in headers:
                self._keep = False
                self.send(400, {}, b'{"error": {"message": "malformed request"}}')
                return
            stop = end + 4 + int(length)
            if len(self._buffer) < stop:
                return
            body = bytes(self._buffer[end + 4 : stop])
            del self._buffer[:stop]
            self._keep = headers.get("connection", "").lower() != "close"
            self._busy = True
            self._handler(self, RawRequest(words[0], words[1], headers, body))

    def send(self, status: int, headers: Mapping[str, str], body: bytes, fault: Fault | None = None) -> None:
        """Answer the current request, or break off as the fault says.

        Args:
            status: HTTP status.
            headers: Headers in lower case, without the length.
            body: The body.
            fault: What to do instead of a proper answer; a hang is the handler's not calling this.
        """
        self.on_lost = None
        transport = self._transport
        if transport is None:
            return
        match fault:
            case "close_before":
                transport.close()
                return
            case "reset":
                linger = struct.pack("ii", 1, 0)
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                transport.abort()
                return
            case _:
                pass
        head = self._head(status, {"content-length": str(len(body)), **headers})
        if fault == "close_mid_body":
            transport.write(head + body[: len(body) // 2])
            transport.close()
            return
        transport.write(head + body)
        self._done(transport)

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if not self._keep:
            lines.append("connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _done(self, transport: asyncio.Transport) -> None:
        if not self._keep:
            transport.close()
            return
        self._busy = False
        if self._buffer:
            asyncio.get_running_loop().call_soon(self._advance)

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin an answer that comes in parts.

        Args:
            status: HTTP status.
            headers: Headers in lower case.
        """
        if self._transport is not None:
            self._transport.write(self._head(status, {"transfer-encoding": "chunked", **headers}))

    def write(self, part: bytes) -> None:
        """Send the next part."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")

    def finish(self, fault: Fault | None = None) -> None:
        """End an answer that came in parts, or break it off, but for `end_early`, which is a proper end."""
        transport = self._transport
        if transport is None:
            return
        self.on_lost = None
        if fault not in (None, "end_early"):
            transport.close()
            return
        transport.write(b"0\r\n\r\n")
        self._done(transport)

    def abort(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()
