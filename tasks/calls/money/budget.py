"""What a run may still spend. The worst case of a call is reserved before it is sent; nested and concurrent calls share.

What a model takes beyond its worst case is reserved for its later calls, and its first one goes alone.
A call that is not covered only because of what is set aside for others under way waits until these are settled. Nobody
who waits here has a reservation, and whoever has one waits for its vendor alone, so that every wait ends.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NoReturn, Protocol

from consensus_flows.blocks.budget import Budget
from consensus_flows.tasks.calls.money.account import Account, Refusal
from consensus_flows.tasks.calls.money.pricing import price
from consensus_flows.tasks.calls.money.worst_case import worst_case
from consensus_flows.tasks.calls.providers import Endpoint
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.errors import BudgetError
from consensus_flows.tasks.record import Usage

AT_ONCE_S = 0.05
"""Seconds within which a call that is covered has not waited: the price table may have been looked into."""


class Book(Protocol):
    """Where the requests of a run are entered so that they outlive it."""

    def sent(self, model: str, tokens: int, cost_usd: float | None) -> int:
        """Enter a request at its worst case, before it goes out; return its number."""

    def settled(self, number: int, tokens: int | None, cost_usd: float | None, *, lost: bool) -> None:
        """Enter what it really took, None where that is not known. It never fails: the answer is paid for."""


@dataclass
class Excess:
    """By how much calls of one model have exceeded their worst case at most: fees a call, limits that are not kept."""

    tokens: int = 0
    cost_usd: float = 0.0


Source = tuple[str, str]
"""An address and a model there."""
EXCESS: dict[Source, Excess] = {}
"""What is known of the models that have answered."""


@dataclass(eq=False)
class Reservation:
    """The worst case of one call, in the purse of its run and in those around it."""

    purse: "Purse"
    model: str
    source: Source
    worst_tokens: int
    worst_usd: float | None
    """By the price table. None where the price is not known; no budget is in US dollars then."""
    trial: bool
    """Whether it goes alone as long as no call of its model has been answered."""
    entry: int | None = None
    """Its number in the book, once it goes out."""
    held: bool = False
    """Whether it is set aside now."""
    out: bool = False
    """Whether it is known that it is sent, or never will be."""

    def __post_init__(self) -> None:
        self.raise_to_seen()

    @property
    def dollars(self) -> float:
        """What it counts in a sum."""
        return self.cost_usd or 0.0

    def raise_to_seen(self) -> None:
        """Count in what calls of the model have taken beyond their worst case."""
        seen = EXCESS.get(self.source, Excess())
        self.trial = self.trial and self.source not in EXCESS
        self.tokens = self.worst_tokens + seen.tokens
        self.cost_usd = None if self.worst_usd is None else self.worst_usd + seen.cost_usd

    def take(self) -> None:
        """Set it aside."""
        self.held = True
        if self.trial:
            self.purse.queue.trials[self.source] = self
        for purse in self.purse.chain():
            purse.open(self.tokens, self.dollars)

    def go_out(self) -> None:
        """Enter in the book, if there is one, that the request is sent now."""
        for purse in self.purse.chain():
            if purse.book is not None:
                self.entry = purse.book.sent(self.model, self.tokens, self.cost_usd)
        self._count_as_sent()
        self.purse.queue.serve()  # who waits for what might not have been sent

    def settle(self, usage: Usage | None, cost_usd: float | None, *, lost: bool = False) -> None:
        """Book what the call really used; what is not known stays booked at its worst case.

        Args:
            usage: Its tokens.
            cost_usd: Its cost.
            lost: Whether the response was lost, so that the vendor may have billed what is not known.
        """
        spent = None if usage is None else usage.input_tokens + usage.output_tokens
        if lost:  # one that hangs must not keep the others waiting, time-out after time-out
            EXCESS.setdefault(self.source, Excess())
        elif spent != 0:  # a request that was refused tells nothing
            self._learn(spent, cost_usd)
        for purse in self.purse.chain():
            if purse.book is not None and self.entry is not None:
                purse.book.settled(self.entry, spent, cost_usd, lost=lost)
        self._close(self.tokens if spent is None else spent, self.dollars if cost_usd is None else cost_usd)

    def give_back(self) -> None:
        """Let go of what was never sent."""
        if self.held:
            self._close(0, 0.0, calls=0)

    def _learn(self, tokens: int | None, cost_usd: float | None) -> None:
        seen = EXCESS.setdefault(self.source, Excess())
        if tokens is not None:
            seen.tokens = max(seen.tokens, tokens - self.worst_tokens)
        if cost_usd is not None and self.worst_usd is not None:
            seen.cost_usd = max(seen.cost_usd, cost_usd - self.worst_usd)

    def _count_as_sent(self) -> None:
        if not self.out:
            self.out = True
            for purse in self.purse.chain():
                purse.sent()

    def _close(self, tokens: int, cost_usd: float, calls: int = 1) -> None:
        self.held = False
        if self.purse.queue.trials.get(self.source) is self:
            del self.purse.queue.trials[self.source]
        self._count_as_sent()
        for purse in self.purse.chain():
            purse.close((self.tokens, self.dollars), (tokens, cost_usd), calls)
        self.purse.queue.serve()


class _Queue:
    """Calls that wait in a purse or in one inside it, the first first. It is for one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[Reservation, asyncio.Future[None]] = {}
        self.trials: dict[Source, Reservation] = {}
        """The calls under way of models that have not answered yet: one of each."""

    def enter(self, wanted: Reservation) -> "asyncio.Future[None]":
        """Wait for a turn; the future is done when `wanted` is set aside, and fails if it never will be."""
        turn = self._waiting[wanted] = asyncio.get_running_loop().create_future()
        self.serve()
        return turn

    def leave(self, wanted: Reservation, turn: "asyncio.Future[None]") -> None:
        """Wait no more, also in the very moment in which the turn has come."""
        self._waiting.pop(wanted, None)
        if turn.done() and not turn.cancelled():
            turn.exception()  # taken note of, or asyncio would report it
        wanted.give_back()
        self.serve()

    def serve(self) -> None:
        """Let go on whom the budget covers, or never will; nobody overtakes who wants of the same purse."""
        blocked: set[Purse] = set()
        for wanted, turn in list(self._waiting.items()):
            chain = list(wanted.purse.chain())
            if turn.done():  # cancelled a moment ago
                continue
            wanted.raise_to_seen()
            refusal = wanted.purse.refusal_for(wanted)
            if refusal is not None:
                del self._waiting[wanted]
                turn.set_exception(BudgetError(refusal.message))
                continue
            if wanted.trial and wanted.source in self.trials:
                continue
            short = {purse for purse in chain if purse.is_short(wanted.tokens, wanted.dollars)}
            if short or not blocked.isdisjoint(chain):
                blocked |= short
                if chain[-1] in blocked:  # and so are all that come after
                    break
                continue
            del self._waiting[wanted]
            wanted.take()
            turn.set_result(None)


class Purse(Account):
    """The budget of one run and what was spent of it, inside that of the run around it."""

    def __init__(self, limits: Budget, parent: "Purse | None" = None, book: Book | None = None) -> None:
        super().__init__(limits)
        self.parent = parent
        self.book = book
        self.queue: _Queue = _Queue() if parent is None else parent.queue
        self.refusal: str | None = None
        """Why the last call was refused that this purse or one around it did not cover; None as long as all are."""
        self.exhausted = False
        """Whether no call will be covered any more, however small."""
        self.short = False
        """Whether the last call that was refused was too large: a smaller one may be covered."""

    async def reserve(self, request: Request, endpoint: Endpoint) -> Reservation:
        """Set aside the worst case of `request`, after those that have waited longer for the same purse.

        Raises:
            BudgetError: If the budget would not cover it even with no other call under way, its seconds are used up,
                or its price is not known and the budget is in US dollars.
        """
        wanted = await self._wanted(request, endpoint)
        turn = self.queue.enter(wanted)
        try:
            async with asyncio.timeout(self.seconds_left()):
                await turn
        except TimeoutError:
            self.queue.leave(wanted, turn)
            self.end_late()
        except BaseException:
            self.queue.leave(wanted, turn)
            raise
        return wanted

    def check_time(self) -> None:
        """Check that the seconds of this purse and of those around it are not used up.

        Raises:
            BudgetError: If they are.
        """
        left = self.seconds_left()
        if left is not None and left <= 0:
            self.end_late()

    def refusal_for(self, wanted: Reservation) -> Refusal | None:
        """Return why a call is not covered, even with no other call under way, and tell all purses that it concerns."""
        for purse in self.chain():
            refusal = purse.refusal_of(wanted.tokens, wanted.dollars)
            if refusal is not None:
                self._tell(purse, refusal)
                return refusal
        return None

    async def _wanted(self, request: Request, endpoint: Endpoint) -> Reservation:
        worst = worst_case(request, endpoint)
        in_dollars = [purse for purse in self.chain() if purse.limits.max_cost_usd is not None]
        cost: float | None = 0.0
        if endpoint.credentials is not None and in_dollars:
            cost = await price(endpoint, request.model, worst)
            if cost is None:
                message = f"max_cost_usd: the price of {request.name} is not known, so no call of it can be covered"
                self._tell(in_dollars[-1], Refusal(message, exhausted=True))
                raise BudgetError(message)
        elif endpoint.credentials is not None:
            cost = None
            if any(purse.book is not None for purse in self.chain()):
                # A later run may have a budget in US dollars. A call does not fail for that.
                with suppress(Exception):
                    cost = await price(endpoint, request.model, worst)
        tokens = worst.input_tokens + worst.output_tokens
        source = (endpoint.address, request.model)
        # Nobody knows the fees of a model and how it keeps to limits before it has answered. With others of it under way
        # a tight budget would be exceeded by all of them; so it is by one, for the time of one call in a process.
        trial = not all(purse.has_plenty(tokens, cost or 0.0) for purse in self.chain())
        return Reservation(self, request.name, source, tokens, cost, trial)

    def _tell(self, refuses: "Purse", refusal: Refusal) -> None:
        """Tell every purse, as far out as the one that `refuses`, that it has not covered a call."""
        for purse in self.chain():
            purse.refusal = refusal.message
            purse.short = refusal.by_size
            if purse is refuses:
                purse.exhausted = purse.exhausted or refusal.exhausted
                break

    def end_late(self) -> NoReturn:
        """Refuse a call because the seconds are used up.

        Raises:
            BudgetError: Always.
        """
        first = self._first_to_end()
        self._refuse(first, first.late())

    def check_wait(self, seconds: float) -> None:
        """Check that the seconds last longer than a wait that a call has before it.

        Raises:
            BudgetError: If they do not: whatever comes after the wait would be refused.
        """
        left = self.seconds_left()
        if left is not None and seconds >= left:
            first = self._first_to_end()
            limit = f"{first.limits.max_seconds:g}"
            message = f"the budget of {limit} seconds ends in {max(0.0, left):.1f} s, and the call has to wait {seconds:.1f} s"
            self._refuse(first, Refusal(message, exhausted=False))

    def _first_to_end(self) -> "Purse":
        return min((purse for purse in self.chain() if purse.end is not None), key=lambda purse: purse.end or 0.0)

    def _refuse(self, refuses: "Purse", refusal: Refusal) -> NoReturn:
        self._tell(refuses, refusal)
        raise BudgetError(refusal.message)

    def seconds_left(self) -> float | None:
        """Return the seconds until the first of these purses has none left; None without such a limit."""
        ends = [purse.end for purse in self.chain() if purse.end is not None]
        return min(ends) - time.monotonic() if ends else None

    def chain(self) -> Iterator["Purse"]:
        """This purse and those around it, outwards."""
        purse: Purse | None = self
        while purse is not None:
            yield purse
            purse = purse.parent


_current: ContextVar[Purse | None] = ContextVar("purse", default=None)


def current_purse() -> Purse | None:
    """Return the purse of the run that this code is part of."""
    return _current.get()


def check_wait(seconds: float) -> None:
    """Check that the seconds of the budget, if there is one, last longer than a wait.

    Raises:
        BudgetError: If they do not.
    """
    purse = current_purse()
    if purse is not None:
        purse.check_wait(seconds)


@asynccontextmanager
async def until_deadline() -> AsyncIterator[None]:
    """Cut a call when the seconds of the budget are used up.

    A request that is under way then stays booked at its worst case, as any other whose response is lost.

    Raises:
        BudgetError: If it was cut.
    """
    purse = current_purse()
    limit = asyncio.timeout(purse.seconds_left() if purse else None)
    try:
        async with limit:
            yield
    except TimeoutError:
        if purse is None or not limit.expired():
            raise
        purse.end_late()


async def set_aside(
    request: Request, endpoint: Endpoint, ready: Callable[[bool], Awaitable[None]]
) -> Reservation | None:
    """Reserve the worst case of a call that is sent when this returns; None outside of any budget.

    Args:
        request: The call.
        endpoint: Where it goes.
        ready: Waits until it may be sent, which something may have put off while it waited for the budget. It is told
            whether the call has waited, so that its time to start has passed.

    Raises:
        BudgetError: If the budget does not cover it.
        OutputError: If it cannot be entered in the book of the run.
    """
    purse = current_purse()
    if purse is None:
        return None
    started = time.monotonic()
    reservation = await purse.reserve(request, endpoint)
    try:
        await ready(time.monotonic() - started > AT_ONCE_S)
        purse.check_time()
        reservation.go_out()
    except BaseException:
        reservation.give_back()
        raise
    return reservation


@contextmanager
def spending(limits: Budget, book: Book | None = None) -> Iterator[Purse]:
    """Give the calls made in the block a budget, inside that of the run around it.

    Args:
        limits: The budget; an empty one tells only, by its `refusal`, whether a budget around it was too small.
        book: Where every request is entered.
    """
    purse = Purse(limits, _current.get(), book)
    token = _current.set(purse)
    try:
        yield purse
    finally:
        _current.reset(token)
