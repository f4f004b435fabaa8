"""Who may use the gateway: a token, a check of the `Host` header, and no web page of another site."""

import secrets
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from consensus_flows.blocks.http_client import VIA, via
from consensus_flows.deployments.gateway.errors import GatewayError
from consensus_flows.deployments.proxies import LOOPBACK

OPEN: Final = ("/health", "/docs", "/openapi.json", "/static-offline-docs/")
"""What needs no token: what watches over a service has none, and a browser sends none for a page."""

DEPTH: Final = 3
"""Gateways that may stand one behind the other."""


class Access:
    """Lets a request through, or answers it with an error.

    The `Host` is checked because a web page can give its own name the address of this machine (DNS rebinding), the `Origin`
    because a page may send a request here without asking, though it cannot read the answer: the run would be paid for.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], origins: Collection[str], token: str | None) -> None:
        self._app = app
        self._hosts = {*LOOPBACK, *hosts}
        self._origins = origins
        self._token = token
        self._name = secrets.token_hex(4)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        gateways, refusal = headers.get(VIA, ""), self._refusal(scope["path"], headers)
        if refusal is not None:
            await refusal.response()(scope, receive, send)
            return
        # Whatever is asked because of this request carries the name of this gateway.
        before = via.set(self._name if not gateways else f"{gateways}, {self._name}")
        try:
            await self._app(scope, receive, send)
        finally:
            via.reset(before)

    def _refusal(self, path: str, headers: Headers) -> GatewayError | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        name = urlsplit(f"//{host}").hostname or ""
        if name not in self._hosts:
            return GatewayError(
                400,
                f"the host {name!r} is not served here: start the gateway with --allow-host {name}",
                "host_not_allowed",
            )
        if origin is not None and origin not in self._origins and urlsplit(origin).netloc != host:
            return GatewayError(
                403,
                f"web pages of {origin} may not use this gateway: start it with --allow-origin {origin}",
                "origin_not_allowed",
            )
        if self._token is not None and not path.startswith(OPEN):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not secrets.compare_digest(given.strip().encode(), self._token.encode()):
                return GatewayError(401, "the token is missing or wrong: send it as the API key", "invalid_api_key")
        gateways = headers.get(VIA, "").split(", ")
        if self._name in gateways or len(gateways) > DEPTH:
            return GatewayError(
                400, "a member of this panel is this gateway itself: take it out of the panel", "gateway_loop"
            )
        return None
