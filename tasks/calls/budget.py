"""What a run may still spend. The worst case of a call is reserved before it is sent; nested and concurrent calls share.

What a model takes beyond its worst case is reserved for its later calls, and its first one goes alone.
A call that is not covered only because of what is reserved for others under way waits until these are settled. Nobody
who waits here has a reservation, and whoever has one waits for its vendor alone, so that every wait ends.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, Protocol

from consensus_flows.blocks.settings import Budget
from consensus_flows.tasks.calls.pricing import BATCH, price
from consensus_flows.tasks.calls.providers import Endpoint
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.errors import BudgetError
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.record import Usage

PLENTY, PLENTY_TOKENS, PLENTY_USD = 1000, 1_000_000, 2.0
"""A budget is tight if less is left than so many times the worst case of a call, or less than so much: fees a call, and what a
model thinks, do not grow with the call."""
ASSUMED_OUTPUT_TOKENS = 4096
"""Of the answer of a call without a limit of its own, where none is sent either. Set a limit to have a bound."""
MESSAGE_TOKENS = 16
"""Assumed of what a vendor puts around a message: roles, marks of beginning and end."""
AT_ONCE_S = 0.05
"""Seconds within which a call that is covered has not waited: the price table may have been looked into."""


def most_tokens(text: str) -> int:
    """Return the bytes of `text` in UTF-8, of which no tokenizer in use makes more tokens.

    Byte-level BPE (OpenAI, Llama 3, Qwen) starts from bytes and merges them, and SentencePiece (Gemini, Llama 2, Mistral)
    falls back to bytes, so a token is a byte at the least. Fewer would be no bound, for ASCII neither: measured with
    SmolLM2's tokenizer, 1,000 digits are 1,000 tokens, 1,000 marks of punctuation 800, 1,200 characters of base64 958.
    English has 4 a token, so that of an English prompt four times as much is reserved as is booked when the answer is
    there. Only a tokenizer that normalises by NFKC (T5) could make more, of a few ligatures.
    """
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def worst_case(request: Request, endpoint: Endpoint) -> Usage:
    """Return the most tokens that a call can take."""
    texts = [message.content for message in request.messages]
    if request.response_schema is not None:
        texts.append(json.dumps(request.response_schema))
    read = sum(most_tokens(text) + MESSAGE_TOKENS for text in texts) + sum(
        endpoint.vendor.attachment_tokens(one) + MESSAGE_TOKENS for one in request.attachments
    )
    return Usage(
        input_tokens=read,
        cache_write_tokens=read if request.repeated else 0,
        output_tokens=request.sampling.max_output_tokens or endpoint.vendor.sent_limit or ASSUMED_OUTPUT_TOKENS,
    )


class Refusal(NamedTuple):
    """Why a budget does not cover a call, even with no other call under way."""

    message: str
    exhausted: bool
    """Whether it will cover none any more, however small."""
    by_size: bool = False
    """Whether it would cover a smaller call."""


class RequestLog(Protocol):
    """Where the requests of a run are entered so that they outlive it."""

    def sent(self, model: str, tokens: int, cost_usd: float | None) -> int:
        """Enter a request at its worst case, before it goes out; return its number."""

    def settled(self, number: int, tokens: int | None, cost_usd: float | None, *, lost: bool) -> None:
        """Enter what it really took, None where that is not known. It never fails: the answer is paid for."""


@dataclass
class Overrun:
    """By how much calls of one model have exceeded their worst case at most: fees a call, limits that are not kept."""

    tokens: int = 0
    cost_usd: float = 0.0


Source = tuple[str, str]
"""An address and a model there."""
OVERRUNS: dict[Source, Overrun] = {}
"""What is known of the models that have answered."""


@dataclass(eq=False)
class Reservation:
    """The worst case of one call, in the budget of its run and in those around it."""

    budget: "BudgetTracker"
    model: str
    source: Source
    worst_tokens: int
    worst_usd: float | None
    """None where the price is not known: a budget in US dollars does not cover the call then."""
    trial: bool
    """Whether it goes alone as long as no call of its model has been answered."""
    entry: int | None = None
    """Its number in the log, once it goes out."""
    held: bool = False
    """Whether it is reserved now."""
    out: bool = False
    """Whether it is known that it is sent, or never will be."""

    def __post_init__(self) -> None:
        self.add_overrun()

    @property
    def dollars(self) -> float:
        """What it counts in a sum."""
        return self.cost_usd or 0.0

    def add_overrun(self) -> None:
        """Count in what calls of the model have taken beyond their worst case."""
        seen = OVERRUNS.get(self.source, Overrun())
        self.trial = self.trial and self.source not in OVERRUNS
        self.tokens = self.worst_tokens + seen.tokens
        self.cost_usd = None if self.worst_usd is None else self.worst_usd + seen.cost_usd

    def take(self) -> None:
        """Reserve it."""
        self.held = True
        if self.trial:
            self.budget.queue.trials[self.source] = self
        for tracker in self.budget.chain():
            tracker.open(self.tokens, self.dollars)

    def take_if_covered(self) -> bool:
        """Reserve it if the budget covers it now; False if it may later, when what is under way is settled.

        Raises:
            BudgetError: If it never will.
        """
        self.add_overrun()
        refusal = self.budget.refusal_for(self)
        if refusal is not None:
            raise BudgetError(refusal.message)
        if any(tracker.is_short(self.tokens, self.dollars) for tracker in self.budget.chain()):
            return False
        self.take()
        return True

    def mark_sent(self, entry: int | None = None) -> None:
        """Enter in the log, if there is one, that the request is sent now.

        Args:
            entry: Its number there, if it was entered already, as a line of a batch.
        """
        self.entry = entry
        for tracker in self.budget.chain():
            if tracker.log is not None and entry is None:
                self.entry = tracker.log.sent(self.model, self.tokens, self.cost_usd)
        self._count_as_sent()
        self.budget.queue.serve()  # who waits for what might not have been sent

    def settle(self, usage: Usage | None, cost_usd: float | None, *, lost: bool = False) -> None:
        """Book what the call really used; what is not known stays booked at its worst case.

        Args:
            usage: Its tokens.
            cost_usd: Its cost.
            lost: Whether the response was lost, so that the vendor may have billed what is not known.
        """
        spent = None if usage is None else usage.input_tokens + usage.output_tokens
        if lost:  # one that hangs must not keep the others waiting, time-out after time-out
            OVERRUNS.setdefault(self.source, Overrun())
        elif spent != 0:  # a request that was refused tells nothing
            self._learn(spent, cost_usd)
        for tracker in self.budget.chain():
            if tracker.log is not None and self.entry is not None:
                tracker.log.settled(self.entry, spent, cost_usd, lost=lost)
        self._close(self.tokens if spent is None else spent, self.dollars if cost_usd is None else cost_usd)

    def cancel(self) -> None:
        """Release what was never sent."""
        if self.held:
            self._close(0, 0.0, calls=0)

    def _learn(self, tokens: int | None, cost_usd: float | None) -> None:
        seen = OVERRUNS.setdefault(self.source, Overrun())
        if tokens is not None:
            seen.tokens = max(seen.tokens, tokens - self.worst_tokens)
        if cost_usd is not None and self.worst_usd is not None:
            seen.cost_usd = max(seen.cost_usd, cost_usd - self.worst_usd)

    def _count_as_sent(self) -> None:
        if not self.out:
            self.out = True
            for tracker in self.budget.chain():
                tracker.sent()

    def _close(self, tokens: int, cost_usd: float, calls: int = 1) -> None:
        self.held = False
        if self.budget.queue.trials.get(self.source) is self:
            del self.budget.queue.trials[self.source]
        self._count_as_sent()
        for tracker in self.budget.chain():
            tracker.close((self.tokens, self.dollars), (tokens, cost_usd), calls)
        self.budget.queue.serve()


class _Queue:
    """Calls that wait for a budget or for one inside it, the first first. It is for one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[Reservation, asyncio.Future[None]] = {}
        self.trials: dict[Source, Reservation] = {}
        """The calls under way of models that have not answered yet: one of each."""

    def enter(self, wanted: Reservation) -> "asyncio.Future[None]":
        """Wait for a turn; the future is done when `wanted` is reserved, and fails if it never will be."""
        turn = self._waiting[wanted] = asyncio.get_running_loop().create_future()
        self.serve()
        return turn

    def leave(self, wanted: Reservation, turn: "asyncio.Future[None]") -> None:
        """Wait no more, also in the very moment in which the turn has come."""
        self._waiting.pop(wanted, None)
        if turn.done() and not turn.cancelled():
            turn.exception()  # taken note of, or asyncio would report it
        wanted.cancel()
        self.serve()

    def serve(self) -> None:
        """Release the calls that the budget covers, or never will; nobody overtakes who waits for the same budget."""
        blocked: set[BudgetTracker] = set()
        for wanted, turn in list(self._waiting.items()):
            chain = list(wanted.budget.chain())
            if turn.done():  # cancelled a moment ago
                continue
            wanted.add_overrun()
            refusal = wanted.budget.refusal_for(wanted)
            if refusal is not None:
                del self._waiting[wanted]
                turn.set_exception(BudgetError(refusal.message))
                continue
            if wanted.trial and wanted.source in self.trials:
                continue
            short = {tracker for tracker in chain if tracker.is_short(wanted.tokens, wanted.dollars)}
            if short or not blocked.isdisjoint(chain):
                blocked |= short
                if chain[-1] in blocked:  # and so are all that come after
                    break
                continue
            del self._waiting[wanted]
            wanted.take()
            turn.set_result(None)


class BudgetTracker:
    """The budget of one run and what was spent of it, inside that of the run around it.

    What is reserved for calls under way is in the sums at its worst case.

    Attributes:
        limits: The budget.
        parent: That of the run around it.
        log: Where every request is entered.
        calls: Requests sent.
        tokens: Input and output together.
        cost_usd: US dollars.
    """

    def __init__(self, limits: Budget, parent: "BudgetTracker | None" = None, log: RequestLog | None = None) -> None:
        self.limits = limits
        self.parent = parent
        self.log = log
        self.calls = self.tokens = 0
        self.cost_usd = 0.0
        self._open = self._unsent = self._open_tokens = 0
        self._open_usd = 0.0
        self._started = time.monotonic()
        self.queue: _Queue = _Queue() if parent is None else parent.queue
        self.refusal: str | None = None
        """Why the last call was refused that this budget or one around it did not cover; None as long as all are."""
        self.exhausted = False
        """Whether no call will be covered any more, however small."""
        self.shut: str | None = None
        """Why no further call is covered, whatever is left."""
        self.short = False
        """Whether the last call that was refused was too large: a smaller one may be covered."""

    @property
    def end(self) -> float | None:
        """When its seconds are used up, by the monotonic clock."""
        return None if self.limits.max_seconds is None else self._started + self.limits.max_seconds

    def late(self) -> Refusal:
        """Say that its seconds are used up."""
        return Refusal(f"the budget of {self.limits.max_seconds:g} seconds is used up", exhausted=True)

    def refusal_of(self, tokens: int, cost_usd: float) -> Refusal | None:
        """Return why a call of this worst case is not covered, even with no other call under way; None if it is."""
        limits = self.limits
        if self.shut is not None:
            return Refusal(self.shut, exhausted=True)
        if self.end is not None and time.monotonic() >= self.end:
            return self.late()
        if limits.max_calls is not None and self.calls - self._unsent + 1 > limits.max_calls:
            # A call counts once it is sent, whatever comes of it; one that is not sent yet may never be.
            return Refusal(f"the budget of {plural(limits.max_calls, 'call')} is used up", exhausted=True)
        settled, paid = self.tokens - self._open_tokens, self.cost_usd - self._open_usd
        if limits.max_tokens is not None and settled + tokens > limits.max_tokens:
            left = max(0, limits.max_tokens - settled)
            return Refusal(
                f"the budget of {limits.max_tokens} tokens has {left} left, and the call may take {tokens}",
                exhausted=not left,
                by_size=True,
            )
        if limits.max_cost_usd is not None and paid + cost_usd > limits.max_cost_usd:
            rest = max(0.0, limits.max_cost_usd - paid)
            return Refusal(
                f"the budget of {limits.max_cost_usd:g} USD has {rest:.6f} left, and the call may cost {cost_usd:.6f}",
                exhausted=not rest,
                by_size=True,
            )
        return None

    def is_short(self, tokens: int, cost_usd: float) -> bool:
        """Tell whether a call has to wait until others are settled."""
        limits = self.limits
        if limits.max_calls is not None and self.calls + 1 > limits.max_calls:
            return True
        return (limits.max_tokens is not None and self.tokens + tokens > limits.max_tokens) or (
            limits.max_cost_usd is not None and self.cost_usd + cost_usd > limits.max_cost_usd
        )

    def has_plenty(self, tokens: int, cost_usd: float) -> bool:
        """Tell whether a call may take very much more than its worst case and still be covered."""
        limits = self.limits
        return (
            limits.max_tokens is None or self.tokens + max(PLENTY * tokens, PLENTY_TOKENS) <= limits.max_tokens
        ) and (limits.max_cost_usd is None or self.cost_usd + max(PLENTY * cost_usd, PLENTY_USD) <= limits.max_cost_usd)

    def open(self, tokens: int, cost_usd: float) -> None:
        """Reserve the worst case of a call."""
        self.calls += 1
        self.tokens += tokens
        self.cost_usd += cost_usd
        self._open += 1
        self._unsent += 1
        self._open_tokens += tokens
        self._open_usd += cost_usd

    def sent(self) -> None:
        """Count a call that was reserved as sent, or cancelled."""
        self._unsent -= 1

    def close(self, reserved: tuple[int, float], spent: tuple[int, float], calls: int = 1) -> None:
        """Book what a call came to.

        Args:
            reserved: The tokens and US dollars that were reserved.
            spent: Those that it took.
            calls: 0 for a call that was not sent.
        """
        self.calls += calls - 1
        self.tokens += spent[0] - reserved[0]
        self.cost_usd += spent[1] - reserved[1]
        self._open -= 1
        self._open_tokens -= reserved[0]
        # Exactly nothing if nothing is under way: a remainder of fractions would be waited for in vain.
        self._open_usd = self._open_usd - reserved[1] if self._open else 0.0

    def adopt(self, model: str, source: Source, tokens: int, cost_usd: float | None, entry: int) -> Reservation:
        """Return the reservation of a line of a batch that an earlier run has sent: its worst case is in the sums already."""
        self._open += 1
        self._open_tokens += tokens
        self._open_usd += cost_usd or 0.0
        found = Reservation(self, model, source, tokens, cost_usd, trial=False, entry=entry, held=True, out=True)
        found.tokens, found.cost_usd = tokens, cost_usd  # what was entered, whatever is known since
        return found

    async def reserve(self, request: Request, endpoint: Endpoint) -> Reservation:
        """Reserve the worst case of `request`, after those that have waited longer for the same budget.

        Raises:
            BudgetError: If the budget would not cover it even with no other call under way, or its seconds are used up.
        """
        wanted = await self.wanted(request, endpoint)
        turn = self.queue.enter(wanted)
        try:
            async with asyncio.timeout(self.seconds_left()):
                await turn
        except TimeoutError:
            self.queue.leave(wanted, turn)
            self.refuse_late()
        except BaseException:
            self.queue.leave(wanted, turn)
            raise
        return wanted

    def refusal_for(self, wanted: Reservation) -> Refusal | None:
        """Return why a call is not covered, even with no other call under way, and note it in every budget that it concerns."""
        for tracker in self.chain():
            refusal = tracker.refusal_of(wanted.tokens, wanted.dollars)
            if refusal is not None:
                self._note_refusal(tracker, refusal)
                return refusal
        return None

    async def wanted(self, request: Request, endpoint: Endpoint, service_tier: str | None = None) -> Reservation:
        """Return the worst case of a call, not reserved yet.

        Args:
            request: The call.
            endpoint: Where it goes.
            service_tier: The tier of whose price it is.
        """
        worst = worst_case(request, endpoint)
        in_dollars = any(tracker.limits.max_cost_usd is not None for tracker in self.chain())
        cost: float | None = None
        # A later run may have a budget in US dollars, too. A call does not fail for that.
        if in_dollars or any(tracker.log is not None for tracker in self.chain()):
            with suppress(Exception):
                cost = await price(endpoint, request.model, worst, service_tier)
        tokens = worst.input_tokens + worst.output_tokens
        source = (endpoint.address, request.model)
        # Nobody knows the fees of a model and how it keeps to limits before it has answered. With others of it under way
        # a tight budget would be exceeded by all of them; so it is by one, for the time of one call in a process.
        # The lines of a batch go together; its model has answered one call before.
        trial = service_tier != BATCH and not all(tracker.has_plenty(tokens, cost or 0.0) for tracker in self.chain())
        return Reservation(self, request.name, source, tokens, cost, trial)

    def _note_refusal(self, refuses: "BudgetTracker", refusal: Refusal) -> None:
        """Note in every budget, as far out as the one that `refuses`, that a call was not covered."""
        for tracker in self.chain():
            tracker.refusal = refusal.message
            tracker.short = refusal.by_size
            if tracker is refuses:
                tracker.exhausted = tracker.exhausted or refusal.exhausted
                break

    def refuse_late(self) -> NoReturn:
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
        if left is None or seconds < left:
            return
        if left <= 0:
            self.refuse_late()
        first = self._first_to_end()
        limit = f"{first.limits.max_seconds:g}"
        message = f"the budget of {limit} seconds ends in {left:.1f} s, and the call has to wait {seconds:.1f} s"
        self._refuse(first, Refusal(message, exhausted=False))

    def _first_to_end(self) -> "BudgetTracker":
        return min((one for one in self.chain() if one.end is not None), key=lambda one: one.end or 0.0)

    def _refuse(self, refuses: "BudgetTracker", refusal: Refusal) -> NoReturn:
        self._note_refusal(refuses, refusal)
        raise BudgetError(refusal.message)

    def seconds_left(self) -> float | None:
        """Return the seconds until the first of these budgets has none left; None without such a limit."""
        ends = [tracker.end for tracker in self.chain() if tracker.end is not None]
        return min(ends) - time.monotonic() if ends else None

    def chain(self) -> Iterator["BudgetTracker"]:
        """This budget and those around it, outwards."""
        tracker: BudgetTracker | None = self
        while tracker is not None:
            yield tracker
            tracker = tracker.parent


_current: ContextVar[BudgetTracker | None] = ContextVar("budget", default=None)


def check_wait(seconds: float) -> None:
    """Check that the seconds of the budget, if there is one, last longer than a wait.

    Raises:
        BudgetError: If they do not.
    """
    tracker = _current.get()
    if tracker is not None:
        tracker.check_wait(seconds)


@asynccontextmanager
async def until_deadline() -> AsyncIterator[None]:
    """Cut a call when the seconds of the budget are used up.

    A request that is under way then stays booked at its worst case, as any other whose response is lost.

    Raises:
        BudgetError: If it was cut.
    """
    tracker = _current.get()
    limit = asyncio.timeout(tracker.seconds_left() if tracker else None)
    try:
        async with limit:
            yield
    except TimeoutError:
        if tracker is None or not limit.expired():
            raise
        tracker.refuse_late()


async def reserve(request: Request, endpoint: Endpoint, ready: Callable[[bool], Awaitable[None]]) -> Reservation | None:
    """Reserve the worst case of a call that is sent when this returns; None outside of any budget.

    Args:
        request: The call.
        endpoint: Where it goes.
        ready: Waits until it may be sent, which something may have put off while it waited for the budget. It is told
            whether the call has waited, so that its time to start has passed.

    Raises:
        BudgetError: If the budget does not cover it.
        OutputError: If it cannot be entered in the log of the run.
    """
    tracker = _current.get()
    if tracker is None:
        return None
    started = time.monotonic()
    reservation = await tracker.reserve(request, endpoint)
    try:
        await ready(time.monotonic() - started > AT_ONCE_S)
        tracker.check_wait(0)
        reservation.mark_sent()
    except BaseException:
        reservation.cancel()
        raise
    return reservation


async def line_of(request: Request, endpoint: Endpoint) -> Reservation:
    """Return what a call needs that is to go out as a line of a vendor's batch, at the price of that; not reserved yet."""
    tracker = _current.get()
    assert tracker is not None  # a batch has one
    return await tracker.wanted(request, endpoint, BATCH)


@contextmanager
def spending(limits: Budget, log: RequestLog | None = None) -> Iterator[BudgetTracker]:
    """Give the calls made in the block a budget, inside that of the run around it.

    Args:
        limits: The budget; an empty one tells only, by its `refusal`, whether a budget around it was too small.
        log: Where every request is entered.
    """
    tracker = BudgetTracker(limits, _current.get(), log)
    with within(tracker):
        yield tracker


@contextmanager
def within(tracker: BudgetTracker) -> Iterator[None]:
    """Let the calls made in the block share a budget that was opened elsewhere, as that of a server's session."""
    token = _current.set(tracker)
    try:
        yield
    finally:
        _current.reset(token)
