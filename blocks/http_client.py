"""The HTTP client under every vendor's SDK: through which proxy it connects, and how much of a response it reads.

Importing this module imports httpx2, which takes a tenth of a second, so it is imported when a client is first made.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import httpx2

from consensus_flows.blocks.addresses import proxy_for
from consensus_flows.blocks.response_headers import told

_MB = 1_000_000
_ERROR_BYTES = 256 * 1024
"""How much of an error page is read: its first words say what is wrong, and all of it is searched for codes and keys."""
# All are kept: with more calls at once than are kept, each call would open a connection anew.
_LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=1000)
# An answer that takes minutes is silent until it comes, and routers forget a silent connection.
_KEEP_ALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] + [
    (socket.IPPROTO_TCP, getattr(socket, name), value)
    for name, value in {"TCP_KEEPIDLE": 60, "TCP_KEEPALIVE": 60, "TCP_KEEPINTVL": 60, "TCP_KEEPCNT": 5}.items()
    if hasattr(socket, name)  # systems differ
]

VIA = "x-consensus-via"
"""The header that names the gateways in whose runs a call is made, so that one finds out that it is its own member."""
via: ContextVar[str] = ContextVar("via", default="")


async def _name_gateways(request: httpx2.Request) -> None:
    if names := via.get():
        request.headers[VIA] = names


class ResponseTooLargeError(Exception):
    """A response was not read to its end."""


class ModelClient(httpx2.AsyncClient):
    """A client of one server that reads no more than `max_bytes` of a response.

    It follows no redirect, which would carry the key to an address that nobody has checked.
    """

    def __init__(self, base_url: str, *, timeout: float, max_response_mb: float) -> None:
        transport = httpx2.AsyncHTTPTransport(
            # Proxies and their exceptions come from `proxy_for` alone, so that what was checked is what is done.
            proxy=proxy_for(base_url),
            trust_env=False,
            # Reads SSL_CERT_FILE. Without TLS there is nothing to verify, and to load all authorities takes 20 ms.
            verify=httpx2.create_ssl_context() if base_url.startswith("https:") else False,
            limits=_LIMITS,
            socket_options=_KEEP_ALIVE,
        )
        super().__init__(
            transport=transport,
            trust_env=False,
            timeout=timeout,
            follow_redirects=False,
            event_hooks={"request": [_name_gateways]},
        )
        self.max_bytes = int(max_response_mb * _MB)

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """Send a request and read its response, all of it if it is a success.

        Args:
            request: The request.
            stream: Whether the caller reads a success that is a stream of events, while it comes.
            options: As of httpx.

        Raises:
            ResponseTooLargeError: If a success is larger than `max_bytes`, or compressed several times over.
        """
        response = await super().send(request, stream=True, **options)
        events = stream and response.is_success and is_event_stream(response)
        body = _Body(response, self.max_bytes)
        headers = response.headers.copy()
        if (tell := told.get()) is not None:
            tell(headers)
        for name in ("content-encoding", "content-length", "transfer-encoding"):
            headers.pop(name, None)
        return httpx2.Response(
            response.status_code,
            headers=headers,
            **({"stream": body} if events else {"content": await body.read()}),
            request=response.request,
            extensions=response.extensions,
        )


def is_event_stream(response: Any) -> bool:
    """Tell whether a response is a stream of events, server-sent ones or those of AWS."""
    kind: str = response.headers.get("content-type", "")
    return kind.partition(";")[0].strip().lower() in {"text/event-stream", "application/vnd.amazon.eventstream"}


class _Body(httpx2.AsyncByteStream):
    """The body of a response: no more than `max_bytes` of a success, and the beginning of an error."""

    def __init__(self, response: httpx2.Response, max_bytes: int) -> None:
        self._response = response
        self._max_bytes = max_bytes

    async def read(self) -> bytes:
        """Read it and close the connection's part of it."""
        try:
            return b"".join([piece async for piece in self])
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        await self._response.aclose()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        response, success = self._response, self._response.is_success
        # What lies between two compressions has no limit of its own: a kilobyte can be a petabyte of work.
        if len(response.headers.get_list("content-encoding", split_commas=True)) > 1:
            raise ResponseTooLargeError("the response is compressed several times over")
        left = self._max_bytes if success else _ERROR_BYTES
        async for piece in response.aiter_bytes():
            if len(piece) > left and success:
                raise ResponseTooLargeError(
                    f"the response is larger than {self._max_bytes / _MB:g} MB (CONSENSUS_MAX_RESPONSE_MB)"
                )
            yield piece[:left]
            left -= len(piece)
            if left <= 0 and not success:
                break
            if len(piece) >= _ERROR_BYTES:  # unpacked, so that the network has not been waited for
                await asyncio.sleep(0)
