"""How fast calls go to each provider: as fast as it takes them.

How many are under way at once is found as TCP finds it (RFC 5681): one more for each answer, until the provider is overloaded;
then less by a third, and one more a round. It only rises while it is what holds calls back, as in Netflix's concurrency-limits.

How many start a second is what the provider says in its headers, which describe a token bucket. Where it says nothing, it is what
it has taken until it refused a call, and the more the longer it refuses none, as in TCP CUBIC (RFC 9438). Limits a minute are
those of a model.

Models that share credentials share their slots: a free one goes to the model that has the fewest calls under way.
"""

import asyncio
import math
import random
import re
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from weakref import WeakKeyDictionary

from consensus_flows.tasks.calls.budget import check_wait
from consensus_flows.tasks.calls.failures import Verdict
from consensus_flows.tasks.calls.providers import Endpoint

START = 32
"""Calls at once to begin with."""
MOST = 1000
"""Calls at once in any case: the connections of a client."""
LESS = 0.7
"""What is left of the calls at once after a provider was overloaded."""
DOUBLED_S = 60.0
"""Seconds in which a rate that was found by a refusal doubles, by the cube of the time: hardly at first, and soon for good."""
FEW = 10
"""So few answers tell no rate."""
NAMES = (
    ("requests", "x-ratelimit-{}-requests", "anthropic-ratelimit-requests-{}"),
    ("tokens", "x-ratelimit-{}-tokens", "anthropic-ratelimit-tokens-{}"),
    ("tokens", "", "anthropic-ratelimit-input-tokens-{}"),
)
"""What providers call the limit, the remaining and the reset of each of their token buckets."""
_PARTS = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass
class Bucket:
    """A token bucket, as a provider keeps one; as long as nothing is known of it, it is never empty."""

    per_s: float = math.inf
    most: float = math.inf
    level: float = math.inf
    told: bool = False
    """Whether the provider has said how large it is."""
    _at: float = field(default_factory=time.monotonic)
    _found: tuple[float, float] | None = None
    """The rate that was found by a refusal, and when."""

    def ready_in(self, amount: float) -> float:
        """Return the seconds until so much is in it."""
        now = time.monotonic()
        if self._found is not None:
            per_s, since = self._found
            self.per_s = per_s * (1 + ((now - since) / DOUBLED_S) ** 3)
        if self.per_s < math.inf:
            self.level = min(self.most, self.level + (now - self._at) * self.per_s)
        self._at = now
        return 0.0 if self.level >= min(amount, self.most) else (amount - self.level) / self.per_s

    def tell(self, limit: float, remaining: float, reset_s: float | None, least: float) -> None:
        """Take what a provider says of its bucket.

        Args:
            limit: How large it is.
            remaining: What is in it.
            reset_s: Seconds until it is full.
            least: What is left of that when all has arrived that is under way.
        """
        self.ready_in(0)
        self.told, self.most, self._found = True, limit, None
        self.per_s = limit / 60
        if reset_s and limit > remaining:  # of a limit a day
            self.per_s = min(self.per_s, (limit - remaining) / reset_s)
        self.level = min(remaining, max(self.level, least))

    def find(self, per_s: float) -> None:
        """Take a rate that was found by a refusal."""
        self.ready_in(0)
        self.per_s, self.most, self.level, self._found = per_s, 1.0, 0.0, (per_s, self._at)


class _Rates:
    """What one model takes: its buckets, and what has come of its calls."""

    def __init__(self) -> None:
        self.buckets = {"requests": Bucket(), "tokens": Bucket()}
        self.gate = asyncio.Lock()
        """Calls pass it one after the other, the first first."""
        self.under_way = 0
        """Calls that were sent and have not ended."""
        self.tokens = 0.0
        """Of an answer, on average."""
        self._served, self._since = 0, time.monotonic()
        self._refused = 0.0

    def ready_in(self) -> float:
        """Return the seconds until a call may be sent."""
        return max(self.buckets["requests"].ready_in(1), self.buckets["tokens"].ready_in(self.tokens))

    def send(self) -> None:
        """Take what a call needs."""
        self.under_way += 1
        self.buckets["requests"].level -= 1
        self.buckets["tokens"].level -= self.tokens

    def tell(self, headers: Mapping[str, str], of_others: int | None) -> None:
        """Take what the headers of a response say.

        Args:
            headers: The headers.
            of_others: Calls of other models under way, where these share the limit.
        """
        for kind, limit, remaining, reset_s in said(headers):
            bucket, a_call = self.buckets[kind], 1.0 if kind == "requests" else self.tokens
            least = remaining - (self.under_way + (of_others or 0)) * a_call
            if of_others is not None:
                bucket.level = -math.inf  # nobody knows what others have taken
            bucket.tell(limit, remaining, reset_s, least)

    def serve(self, tokens: int) -> None:
        """Count an answer."""
        self._served += 1
        self.tokens += (tokens - self.tokens) / min(self._served, FEW)

    def refuse(self, began: float, held_s: float = 0.0) -> bool:
        """Find the rate by what was taken since the last refusal, if the provider does not tell it; False if that is too little.

        Args:
            began: When the call was sent.
            held_s: For how long no call will be sent now.
        """
        now, requests = time.monotonic(), self.buckets["requests"]
        if began < self._refused or requests.told:
            return True
        if self._served < FEW:
            return False
        requests.find(self._served / max(now - self._since, 1.0))
        self._served, self._since, self._refused = 0, now + held_s, now
        return True


class Turn:
    """The turn of one call."""

    def __init__(self, pace: "Pace", model: str) -> None:
        self._pace, self._model, self.rates = pace, model, pace.rates(model)
        self.began = 0.0
        self.held_back = False
        """Whether the rate has held it back, and not the number of calls at once."""

    async def released(self, late: bool = False) -> None:
        """Wait until a call whose turn it is may go: a `hold` may have begun while it waited for something else.

        Args:
            late: Whether its time to start has passed meanwhile. It then takes another one, or all that waited together
                would go at the same instant.
        """
        if late:
            await self.start()
        await self._pace.released()

    async def start(self) -> None:
        """Wait for the time to start, and take it."""
        async with self.rates.gate:
            while (
                wait := max(self._pace.start_in(), self.rates.ready_in())
            ) > 0:  # for the clock, which others may put off
                self.held_back = True
                await _sleep(wait)
            if self.began:
                self.rates.under_way -= 1
            self.rates.send()
            self._pace.take_start()
            self.began = time.monotonic()

    def told(self, headers: Mapping[str, str]) -> None:
        """Take note of the headers of its response."""
        self.rates.tell(headers, self._pace.sent - self.rates.under_way if self._pace.shared else None)

    def ended(self, failed: Verdict | None, tokens: int = 0) -> None:
        """Take note of what came of it."""
        kind = failed and failed.kind
        if failed is None:
            self.rates.serve(tokens)
            if not self.held_back:
                self._pace.grow()
        elif kind == "overloaded" or (kind == "rate_limit" and not self.rates.refuse(self.began, failed.wait_s or 0)):
            self._pace.shrink(self.began)
        elif kind == "rate_limit":
            # By its headers it was not full: others fill it too.
            self._pace.shared = self._pace.shared or self.rates.buckets["requests"].told


class Pace:
    """Paces the calls on one provider's credentials in one event loop.

    Args:
        most: Calls at once, at most.
        per_minute: Calls started a minute, at most.
    """

    def __init__(self, most: int | None = None, per_minute: float | None = None) -> None:
        self._most = most or MOST
        self.at_once = float(min(self._most, START))
        """How many calls may be under way."""
        self.shared = False
        """Whether the models share the limits a minute."""
        self.under_way: Counter[str] = Counter()
        self._spacing = 60 / per_minute if per_minute else 0.0
        self._next_start = self._held_until = self._shrunk = 0.0
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._rates: dict[str, _Rates] = {}

    def rates(self, model: str) -> _Rates:
        """Return what is known of a model."""
        return self._rates.setdefault(model, _Rates())

    def hold(self, seconds: float) -> None:
        """Let no call start for `seconds`."""
        self._held_until = max(self._held_until, time.monotonic() + seconds)

    @property
    def sent(self) -> int:
        """Calls that were sent and have not ended."""
        return sum(rates.under_way for rates in self._rates.values())

    @property
    def held_s(self) -> float:
        """Seconds for which calls are still held back."""
        return max(0.0, self._held_until - time.monotonic())

    async def released(self) -> None:
        """Wait until no `hold` is on."""
        while self.held_s > 0:
            await _sleep(self.start_in())

    def start_in(self) -> float:
        """Return the seconds until a call may start."""
        now = time.monotonic()
        if self._held_until > now:
            # Spread the calls that were held back, so that they do not all arrive at the same instant.
            return self._held_until - now + random.uniform(0, 0.05)
        return self._next_start - now

    def take_start(self) -> None:
        """Put off the start of the next call."""
        if self._spacing:
            self._next_start = max(self._next_start, time.monotonic()) + self._spacing

    def shrink(self, began: float) -> None:
        """Let fewer calls go at once. One that began before that was done the last time tells nothing new."""
        if began >= self._shrunk:
            self._shrunk = time.monotonic()
            self.at_once = max(1.0, min(self.at_once, self.under_way.total()) * LESS)

    def grow(self) -> None:
        """Let more calls go at once, if it is that what holds them back."""
        if any(self._waiting.values()):
            self.at_once = min(self._most, self.at_once + (1 / self.at_once if self._shrunk else 1))
            self._serve()

    @asynccontextmanager
    async def turn(self, model: str = "") -> AsyncIterator[Turn]:
        """Wait for a free slot and for the time to start, and keep the slot until the end of the block."""
        await self._slot(model)
        turn = Turn(self, model)
        try:
            await turn.start()
            yield turn
        finally:
            if turn.began:
                turn.rates.under_way -= 1
            self.under_way[model] -= 1
            self._serve()

    async def _slot(self, model: str) -> None:
        slot = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(model, deque()).append(slot)
        self._serve()
        try:
            await slot
        except asyncio.CancelledError:
            if not slot.cancelled():  # it came in the same moment
                self.under_way[model] -= 1
                self._serve()
            raise

    def _serve(self) -> None:
        """Give free slots away, each to the model that has the fewest."""
        while self.under_way.total() < int(self.at_once):
            models = [name for name, slots in self._waiting.items() if slots]
            if not models:
                return
            model = min(models, key=self.under_way.__getitem__)
            slot = self._waiting[model].popleft()
            if not slot.done():
                self.under_way[model] += 1
                slot.set_result(None)


def said(headers: Mapping[str, str]) -> Iterator[tuple[str, float, float, float | None]]:
    """Yield what headers say of token buckets: what it is of, its size, what is left, and the seconds until it is full."""
    for kind, *names in NAMES:
        for name in filter(None, names):
            limit, remaining = (_number(headers.get(name.format(what))) for what in ("limit", "remaining"))
            if limit and remaining is not None:
                yield kind, limit, remaining, _seconds(headers.get(name.format("reset")))


def _number(text: str | None) -> float | None:
    return float(text) if text and text.isascii() and text.isdecimal() else None


def _seconds(text: str | None) -> float | None:
    """Read `6m0s` and `120ms` as OpenAI writes them, a number of seconds, and a time as Anthropic does."""
    if not text:
        return None
    parts = _PARTS.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    try:
        return float(text)
    except ValueError:
        pass
    try:
        then = datetime.fromisoformat(text)
    except ValueError:
        return None
    return max(0.0, ((then if then.tzinfo else then.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())


async def _sleep(seconds: float) -> None:
    """Wait, but not if the budget ends before.

    Raises:
        BudgetError: If it does.
    """
    check_wait(seconds)
    await asyncio.sleep(seconds)


_paces: "WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str, int | None, int | None], Pace]]" = (
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
