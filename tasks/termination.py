"""Lets a run end by SIGTERM wherever the signal lands.

Prefect raises `TerminationSignal` in whatever runs at that moment. Where that is a callback of the event loop, asyncio reports
the exception and goes on, and a run that was to be cancelled works on until it is killed.
"""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect.exceptions import TerminationSignal


@contextmanager
def heeding_termination() -> Iterator[None]:
    """Raise a TerminationSignal in the block that the event loop would only report.

    Raises:
        TerminationSignal: If one has landed in a callback.
    """
    loop, current, landed = asyncio.get_running_loop(), asyncio.current_task(), False
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal landed
        if isinstance(context.get("exception"), TerminationSignal) and current is not None:
            landed = True
            current.cancel()
        elif before is not None:
            before(loop, context)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)
    try:
        yield
    except asyncio.CancelledError:
        if landed and current is not None:
            current.uncancel()
            raise TerminationSignal(signal.SIGTERM) from None
        raise
    finally:
        loop.set_exception_handler(before)
