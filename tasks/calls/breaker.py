"""A circuit breaker: a model that keeps failing is disabled in a run of many rows.

The rule: a model is disabled when its requests have failed in three rows in a row, without an answer in between, for
reasons that are not the row's. Where another try may help, it must have been failing for longer than the first wait
between two tries, and for a minute if it has answered in this run before: a vendor has bad seconds.
"""

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from consensus_flows.tasks.calls.providers import BACKOFF_S, setting
from consensus_flows.tasks.calls.request import Answer, Request
from consensus_flows.tasks.errors import ErrorKind, ModelError
from consensus_flows.tasks.record import TakenOut
from consensus_flows.tasks.watch import emit

ROWS = 3
"""So many rows in a row disable a model."""
FIRST_WAITS, LATER_WAITS = 0.5, 60.0
"""How long it must have been failing where another try may help, as a multiple of the first wait between two tries: if it has
never answered, and if it has."""
KINDS: frozenset[ErrorKind] = frozenset({"auth", "not_found", "quota", "connection", "server", "timeout", "overloaded"})
"""Failures that no row causes."""


@dataclass
class _Streak:
    """The failures of a model since its last answer."""

    since: float
    """When the first of these requests was sent, by the monotonic clock."""
    rows: set[str] = field(default_factory=set)


class Breaker:
    """What is known of the models of one run."""

    def __init__(self) -> None:
        self.out: dict[str, TakenOut] = {}
        """The disabled models."""
        self._failing: dict[str, _Streak] = {}
        self._answered: set[str] = set()

    def check(self, name: str) -> None:
        """Check that a model may be asked.

        Raises:
            ModelError: If it is disabled.
        """
        out = self.out.get(name)
        if out is not None:
            raise ModelError(f"{out.message}; disabled after row {out.row}", kind=out.kind, taken_out=True)

    def note_answer(self, name: str) -> None:
        """Note that a model has answered."""
        self._answered.add(name)
        self._failing.pop(name, None)

    def note_failure(self, name: str, row: str, sent: float, error: ModelError) -> bool:
        """Note that a request of a row, sent at a moment, has failed; tell whether the model is now disabled."""
        if error.kind not in KINDS or name in self.out:
            return False
        streak = self._failing.setdefault(name, _Streak(sent))
        streak.rows.add(row)
        waits = LATER_WAITS if name in self._answered else FIRST_WAITS
        patience = waits * setting("BACKOFF_S", BACKOFF_S) if error.retryable else 0.0
        if len(streak.rows) < ROWS or time.monotonic() - streak.since < patience:
            return False
        self.out[name] = TakenOut(model=name, kind=error.kind, row=row, message=error.message)
        return True


_current: ContextVar[tuple[Breaker, str] | None] = ContextVar("breaker", default=None)


@contextmanager
def breaking(breaker: Breaker, row: str) -> Iterator[None]:
    """Let a breaker watch the calls that are made in the block for a row."""
    token = _current.set((breaker, row))
    try:
        yield
    finally:
        _current.reset(token)


def check_breaker(name: str) -> None:
    """Check that a model may be asked in this run.

    Raises:
        ModelError: If it is disabled.
    """
    at = _current.get()
    if at is not None:
        at[0].check(name)


async def guarded(request: Request, send: Callable[[], Awaitable[Answer]], *, came: bool = False) -> Answer:
    """Send a request, and let the breaker of the run, if there is one, know how it went.

    Args:
        request: The request.
        send: Sends it.
        came: Whether its answer has come already, so that it is not sent any more.

    Raises:
        ModelError: If it fails, or its model is disabled.
    """
    at = _current.get()
    if at is None:
        return await send()
    breaker, row = at
    if not came:
        breaker.check(request.name)
    sent = time.monotonic()
    try:
        answer = await send()
    except ModelError as error:
        if breaker.note_failure(request.name, row, sent, error):
            await emit("notice", str(breaker.out[request.name]))
        if request.name in breaker.out:
            error.retryable = False
        raise
    breaker.note_answer(request.name)
    return answer
