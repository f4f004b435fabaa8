"""One place per credentials where every call waits its turn: concurrency, requests a minute, and what Retry-After asks."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

from consensus_flows.tasks.calls.budget import check_wait
from consensus_flows.tasks.calls.providers import Endpoint


class Pace:
    """Paces the calls on one provider's credentials in one event loop."""

    def __init__(self, concurrency: int, per_minute: float | None) -> None:
        self._slots = asyncio.Semaphore(concurrency)
        self._spacing = 60 / per_minute if per_minute else 0.0
        self._next_start = 0.0
        self._held_until = 0.0

    def hold(self, seconds: float) -> None:
        """Let no call start for `seconds`."""
        self._held_until = max(self._held_until, time.monotonic() + seconds)

    @property
    def held_s(self) -> float:
        """Seconds for which calls are still held back."""
        return max(0.0, self._held_until - time.monotonic())

    async def released(self, late: bool = False) -> None:
        """Wait until a call whose turn it is may go: a `hold` may have begun while it waited for something else.

        Args:
            late: Whether its time to start has passed meanwhile. It then takes another one, or all that waited together
                would go at the same instant.
        """
        if late:
            await self._start()
        while self.held_s > 0:
            await _sleep(self._wait())

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a free slot and for the time to start, and keep the slot until the end of the block."""
        async with self._slots:
            await self._start()
            yield

    async def _start(self) -> None:
        """Wait for the time to start, and take it."""
        while (wait := self._wait()) > 0:  # for the clock, which another call may put off
            await _sleep(wait)
        if self._spacing:
            self._next_start = max(self._next_start, time.monotonic()) + self._spacing

    def _wait(self) -> float:
        now = time.monotonic()
        if self._held_until > now:
            # Spread the calls that were held back, so that they do not all arrive at the same instant.
            return self._held_until - now + random.uniform(0, 0.05)
        return self._next_start - now


async def _sleep(seconds: float) -> None:
    """Wait, but not if the budget ends before.

    Raises:
        BudgetError: If it does.
    """
    check_wait(seconds)
    await asyncio.sleep(seconds)


_paces: "WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str, int, int | None], Pace]]" = (
    WeakKeyDictionary()
)


def pace_of(endpoint: Endpoint) -> Pace:
    """Return the pace that all calls on the credentials of `endpoint` share in this event loop."""
    paces = _paces.setdefault(asyncio.get_running_loop(), {})
    if len(_paces) > 1:
        for loop in [loop for loop in _paces if loop.is_closed()]:
            del _paces[loop]
    # The limits are in it, so that credentials saved with others are followed at once.
    key = (endpoint.provider, endpoint.address, endpoint.max_concurrency, endpoint.requests_per_minute)
    if key not in paces:
        paces[key] = Pace(endpoint.max_concurrency, endpoint.requests_per_minute)
    return paces[key]
