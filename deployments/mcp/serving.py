"""Serves the tools over standard input and output until the client leaves, or over HTTP until the process is told to end."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from typing import Any

from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.middleware import Middleware

from consensus_flows.deployments.gateway.access import Access
from consensus_flows.deployments.mcp.session import CANCEL_S, Session
from consensus_flows.deployments.mcp.tools import make_server
from consensus_flows.deployments.terminal import flush


def serve_stdio(session: Session) -> None:
    """Serve over standard input and output, which carry nothing but the protocol; what is printed meanwhile goes to stderr.

    In a thread of its own: Prefect takes over the signals of the main thread for as long as a flow runs in it.
    """
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with session.open():
            await make_server(session).run_stdio_async()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="mcp", daemon=True)
    told: list[int] = []

    def end(number: int, _: Any) -> None:
        told.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    thread.start()
    while thread.is_alive() and not told:
        thread.join(0.2)
    if told and thread.is_alive():
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(session.close(), loop).result(2 * CANCEL_S)
        logging.shutdown()
        flush()
        os._exit(128 + told[0])  # a thread still reads from the client, and nothing ends it


def make_app(session: Session, *, hosts: Collection[str] = (), token: str | None = None) -> Starlette:
    """Make the application that serves over HTTP, at `/mcp`.

    Args:
        session: What all its clients share.
        hosts: Names, beside those of loopback, under which they reach it.
        token: What they must send as a bearer token; None for nothing.
    """
    server = make_server(session)
    # `Access` checks the host, as it does for the gateway.
    inner = server.streamable_http_app(
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False)
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with session.open(), server.session_manager.run():
            yield

    app = Starlette(
        routes=inner.routes,
        lifespan=lifespan,
        middleware=[Middleware(Access, hosts=hosts, origins=(), token=token)],
    )
    app.state.runs = session
    return app
