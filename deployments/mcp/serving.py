"""Serves the tools over standard input and output until the client leaves or the process is told to end."""

import asyncio
import logging
import os
import signal
import threading
from contextlib import suppress
from typing import Any

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
