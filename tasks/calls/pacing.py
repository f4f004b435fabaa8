"""Where calls wait for a Prefect server that cannot take them as fast.

Each call is also a task run of Prefect, and what it costs is mostly that: each event goes through the client's queue and a web socket, is read by four services of the
server, and becomes rows of its database. Answers from the cache, or from a very fast model, come faster than a server can
take them: other runs on that server would then wait for seconds, and what is not sent yet would fill this process's memory,
some 10 kB a call. Prefect can limit its queue of events itself, but then drops what does not fit, and task runs would be
missing.
"""

import asyncio
import math
import time
from collections.abc import Callable
from functools import cache
from queue import Queue
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import httpx
from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL

from consensus_flows.blocks.addresses import is_loopback

MOST_EVENTS = 2000
"""Events that may wait to be sent: those of a thousand calls."""
PATIENCE_S = 2.0
"""Seconds that a call waits for the events before it, or for the server's answer; a server that is away holds nobody up for good."""
FIRST_CALLS = 50
"""Calls of a process that are not paced: a single question never waits."""
PROBE_EVERY_S = 0.5
QUICK_S = 0.05
"""A server that is no later than this has time to spare. An idle one takes 2 ms; on a busy machine 20."""
MOST_SPACING_S = 0.2
"""At least five calls a second start, however slow the server is."""
_LOOK_S = 0.05


async def throttle() -> None:
    """Wait while too many events of this process are not sent yet, and for the call's turn when the server is slow."""
    queue: Queue[Any] | None = getattr(EventsWorker.instance(), "_queue", None)
    if queue is not None:
        await drained(queue)
    await _server.turn()


async def drained(queue: "Queue[Any]", most: int = MOST_EVENTS, patience: float = PATIENCE_S) -> bool:
    """Wait until no more than `most` items are in `queue`, at most `patience` seconds; tell whether it has come to that."""
    deadline = time.monotonic() + patience
    while queue.qsize() > most:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_LOOK_S)
    return True


def spacing(delay: float) -> float:
    """Return the seconds between the starts of two calls when the server answers `delay` seconds later than it can."""
    return min(MOST_SPACING_S, max(0.0, delay - QUICK_S))


class ServerPace:
    """Measures how long the server takes to answer, and spaces calls accordingly."""

    def __init__(self, probe: Callable[[], float], *, far: Callable[[], bool] = lambda: False) -> None:
        """Take what measures: `probe` returns the seconds that an answer took, `far` whether the server is elsewhere."""
        self._probe, self._far = probe, far
        self._calls = 0
        self._next_probe = 0.0
        self._last = 0.0
        self.latency = 0.0
        """The shorter one of the last two: a single slow answer is chance."""
        self._distance: float | None = None
        """The shortest time of all, if the server is elsewhere: it takes that long without being busy."""
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    async def turn(self) -> None:
        """Wait for the call's turn; one call every now and then measures first."""
        self._calls += 1
        if self._calls > FIRST_CALLS and time.monotonic() >= self._next_probe:
            await self._measure()
        if spacing(self.delay):
            async with self._turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
                await asyncio.sleep(spacing(self.delay))

    @property
    def delay(self) -> float:
        """Seconds that the server takes because it is busy."""
        return max(0.0, self.latency - (self._distance or 0.0))

    async def _measure(self) -> None:
        self._next_probe = math.inf  # for others meanwhile
        try:
            took = await asyncio.to_thread(self._probe)  # in a thread, because this event loop is busy too
            self.latency, self._last = min(took, self._last), took
            if took and self._far():  # 0 where the server is away
                self._distance = min(self._distance or math.inf, took)
        finally:
            self._next_probe = time.monotonic() + PROBE_EVERY_S


@cache
def _client() -> httpx.Client:
    """Return Prefect's client, which knows the server's address and certificates; they take a while to load."""
    return get_client(httpx_settings={"timeout": PATIENCE_S}, sync_client=True)._client  # noqa: SLF001  # public is only what retries


def _answer_time() -> float:
    """Return the seconds that the server takes for a health check; 0 if it is away."""
    started = time.monotonic()
    try:
        client = _client()
        started = time.monotonic()
        # Without the retries of Prefect's own send.
        httpx.Client.send(client, client.build_request("GET", "/health"))
    except httpx.TimeoutException:
        pass
    except Exception:  # no call fails because its pace could not be found
        return 0.0
    return time.monotonic() - started


def _elsewhere() -> bool:
    return not is_loopback(urlsplit(PREFECT_API_URL.value() or "").hostname or "")


_server = ServerPace(_answer_time, far=_elsewhere)
