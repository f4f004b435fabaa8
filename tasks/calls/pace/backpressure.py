"""Keeps a flow in step with the Prefect server: what is not sent yet waits in memory, and Prefect's queue has no end.

A server that takes fewer task runs a second than the models give answers would else make a batch of 100,000 rows grow by
some 10 kB a call. Prefect can limit the queue itself, but then drops what does not fit, and task runs would be missing.
"""

import asyncio
import time
from queue import Queue
from typing import Any

from prefect.events.worker import EventsWorker

MOST_EVENTS = 2000
"""Events that may wait to be sent: those of a thousand calls."""
PATIENCE_S = 2.0
"""Seconds that a call waits for its turn at most; a server that is away holds nobody up for good."""
_LOOK_S = 0.05


async def in_step() -> None:
    """Wait while too many events of this process are not sent yet."""
    queue: Queue[Any] | None = getattr(EventsWorker.instance(), "_queue", None)
    if queue is not None:
        await shorter(queue)


async def shorter(queue: "Queue[Any]", most: int = MOST_EVENTS, patience: float = PATIENCE_S) -> bool:
    """Wait until no more than `most` items are in `queue`, at most `patience` seconds; tell whether it has come to that."""
    deadline = time.monotonic() + patience
    while queue.qsize() > most:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_LOOK_S)
    return True
