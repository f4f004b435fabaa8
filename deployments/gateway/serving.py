"""Serves the application until the process is told to end, and lets what is paid for come to its end."""

import asyncio
import signal
import socket
import threading
import time
from typing import Any

import uvicorn
from starlette.applications import Starlette

from consensus_flows.deployments.terminal import say


def serve_until_told(app: Starlette, listener: socket.socket, grace: float) -> None:
    """Serve on a socket that listens; SIGINT and SIGTERM end it, the second one at once.

    In a thread of its own: Prefect takes over the signals of the main thread for as long as a flow runs in it.

    Args:
        app: The application.
        listener: The socket.
        grace: Seconds that runs under way have to end.
    """
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=max(1, round(grace)))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=asyncio.run, args=(server.serve([listener]),), name="gateway", daemon=True)

    def end(*_: Any) -> None:
        if server.should_exit:
            server.force_exit = True
            return
        app.state.stop_at = time.monotonic() + grace
        server.should_exit = True
        if waiting := app.state.runs.under_way:
            say(f"consensus: finishing {waiting} runs, for {grace:g} s at most; interrupt again to stop now")

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        thread.start()
        while thread.is_alive() and not server.force_exit:
            thread.join(0.2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
