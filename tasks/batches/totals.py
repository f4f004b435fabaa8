"""Sums over the calls of a batch and their requests, in constant memory but for eight bytes a call."""

from array import array
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, Field

from consensus_flows.tasks.calls.pricing import BATCH
from consensus_flows.tasks.record import known_cost

INTERRUPTED = "interrupted"
"""Kind of failure of a request whose call has never ended: its run was killed, or it was cancelled."""


class ModelSummary(BaseModel):
    """How one model did in a batch. All but `stored` is about what was sent."""

    model: str
    calls: int = 0
    failed: int = 0
    requests: int = 0
    p50_s: float | None = None
    """Median latency of the answered calls in seconds."""
    p95_s: float | None = None
    cost_usd: float | None = None
    """What is known to have been paid: None when the price of one answered call is not known, or nothing is known."""
    possibly_billed: int = 0
    """Requests that the vendor may have billed beside that: their response was lost, or their run was killed."""
    errors: dict[str, int] = Field(default_factory=dict)
    """Failed calls by kind; those of the kind `interrupted` are requests of calls that never ended."""
    stored: int = 0
    """Answers that came from the cache in this run."""
    input_tokens: int = 0
    cached_input_tokens: int = 0
    """Those of them that the vendor has read from its prompt cache, at a lower price."""
    batch_calls: int = 0
    """Calls that the vendor's batch API has answered."""
    batch_usd: float = 0.0
    """What is known of their cost."""

    @property
    def never_answered(self) -> bool:
        """Whether it was asked and has not answered once."""
        return not self.stored and self.failed == self.calls > self.errors.get(INTERRUPTED, 0)


@dataclass
class _Model:
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    """Of the answered calls, in seconds."""
    requests: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0
    possibly_billed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    stored: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    batch_calls: int = 0
    batch_usd: float = 0.0


@dataclass
class SentRequest:
    """A request that went out."""

    model: str
    tokens: int
    """At first its worst case, then what it took, if that is known."""
    cost_usd: float | None
    settled: bool = False
    """Whether its cost is what was paid, and not the worst case."""
    lost: bool = True
    """Whether the vendor may have billed it and nobody knows: as long as nothing else is entered."""


class Totals:
    """Sums over the calls of a batch, those of earlier runs of it included."""

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}
        self._requests, self._tokens, self._paid_usd = 0, 0, 0.0
        """Of all requests that went out; one that was never settled counts at its worst case."""
        self._open: dict[int, SentRequest] = {}
        """Those of calls that have not ended, by their number in the journal."""
        self._last = 0

    def next_request(self) -> int:
        """Return a number that no request of this batch has."""
        return self._last + 1

    def add_sent(self, entry: Mapping[str, Any]) -> None:
        """Count a request that goes out, as the journal has it."""
        self._last = max(self._last, entry["sent"])
        self._open[entry["sent"]] = SentRequest(entry["model"], entry["tokens"], entry["usd"])
        self._spend(1, entry["tokens"], entry["usd"])

    def add_settled(self, entry: Mapping[str, Any]) -> None:
        """Correct what was counted by what is known; None is not known, and stays at the worst case."""
        request = self._open.get(entry["settled"])
        if request is None:
            return
        if entry["tokens"] is not None:
            self._tokens += entry["tokens"] - request.tokens
            request.tokens = entry["tokens"]
        request.lost, request.settled = entry["lost"], entry["usd"] is not None
        if request.settled:
            self._paid_usd += entry["usd"] - (request.cost_usd or 0.0)
            request.cost_usd = entry["usd"]

    def add_call(self, call: Mapping[str, Any]) -> None:
        """Count a call, as the journal has it."""
        # Read before anything is counted: a damaged line counts for nothing.
        requests, tokens, usd, error, seconds = (call[name] for name in ("requests", "tokens", "usd", "error", "s"))
        lost, entries = call.get("possibly_billed", 0), call.get("entries") or ()
        model = self._models.setdefault(call["call"], _Model())
        model.requests += requests
        model.possibly_billed += lost
        for number in entries:
            self._open.pop(number, None)
        # Those that were entered one by one are counted already; a journal of an earlier version has none.
        if not entries:
            self._spend(requests, tokens, usd)
        if error:
            model.errors[error] += 1
        else:
            model.latencies.append(seconds)
        if usd is not None:
            model.cost_usd += usd
        elif lost < requests:
            model.unpriced += 1
        model.input_tokens += call.get("input", 0)
        model.cached_input_tokens += call.get("cached", 0)
        if call.get("tier") == BATCH:
            model.batch_calls += 1
            model.batch_usd += usd or 0.0

    def add_stored(self, name: str) -> None:
        """Count an answer of a model that came from the cache."""
        self._models.setdefault(name, _Model()).stored += 1

    def drop(self, number: int) -> None:
        """Take back a request that turned out not to have been executed."""
        request = self._open.pop(number, None)
        if request is not None:
            self._spend(-1, -request.tokens, -(request.cost_usd or 0.0))

    def request(self, number: int) -> SentRequest | None:
        """Return a request whose call has not ended."""
        return self._open.get(number)

    def end_interrupted(self, awaited: Container[int] = ()) -> None:
        """Count the requests whose call will never end, when no call is under way: their run was killed, or they were cancelled.

        Args:
            awaited: Those in batches of vendors that have not ended: they will.
        """
        kept = {number: request for number, request in self._open.items() if number in awaited}
        for number, request in self._open.items():
            if number in kept:
                continue
            model = self._models.setdefault(request.model, _Model())
            model.requests += 1
            model.errors[INTERRUPTED] += 1
            if request.lost:
                model.possibly_billed += 1
            elif request.settled and request.cost_usd is not None:
                model.cost_usd += request.cost_usd
            else:
                model.unpriced += 1
        self._open = kept

    def _spend(self, requests: int, tokens: int, cost_usd: float | None) -> None:
        self._requests += requests
        self._tokens += tokens
        self._paid_usd += cost_usd or 0.0

    def add(self, other: Mapping[str, Any]) -> None:
        """Add what `dump` has made of other sums."""
        for name, found in other.items():
            model = self._models.setdefault(name, _Model())
            model.latencies.extend(found["latencies"])
            model.requests += found["requests"]
            model.cost_usd += found["cost_usd"]
            model.unpriced += found["unpriced"]
            model.possibly_billed += found.get("possibly_billed", 0)
            model.errors.update(found["errors"])
            model.stored += found.get("stored", 0)
            model.input_tokens += found.get("input_tokens", 0)
            model.cached_input_tokens += found.get("cached_input_tokens", 0)
            model.batch_calls += found.get("batch_calls", 0)
            model.batch_usd += found.get("batch_usd", 0.0)

    def counts(self) -> dict[str, int]:
        """Return how many latencies there are of each model, for `since`."""
        return {name: len(model.latencies) for name, model in self._models.items()}

    def since(self, counts: Mapping[str, int]) -> dict[str, Any]:
        """Return the sums as plain JSON for `go_on`, with no latencies but those that have come since."""
        return {
            "models": {
                name: {**vars(model), "latencies": list(model.latencies[counts.get(name, 0) :])}
                for name, model in self._models.items()
            },
            "spent": self.spent,
            "open": {number: vars(request) for number, request in self._open.items()},
            "last": self._last,
        }

    def go_on(self, since: Mapping[str, Any]) -> None:
        """Take the sums of `since` for these, and add the latencies to what is known."""
        for name, found in since["models"].items():
            before = self._models.get(name, _Model())
            before.latencies.extend(found["latencies"])
            known = {"latencies": before.latencies, "errors": Counter(found["errors"]), "stored": before.stored}
            self._models[name] = _Model(**(found | known))
        self._requests, self._tokens, self._paid_usd = since["spent"]
        self._open = {int(number): SentRequest(**request) for number, request in since["open"].items()}
        self._last = since["last"]

    def dump(self) -> dict[str, Any]:
        """Return the sums as plain JSON, for `add`."""
        return {
            name: {**vars(model), "latencies": list(model.latencies), "errors": dict(model.errors)}
            for name, model in self._models.items()
        }

    @property
    def sent(self) -> int:
        """Calls for which something was sent."""
        return sum(len(model.latencies) + model.errors.total() for model in self._models.values())

    @property
    def spent(self) -> tuple[int, int, float]:
        """Requests, tokens and US dollars that a budget has paid; what was sent and is not known at its worst case."""
        return self._requests, self._tokens, self._paid_usd

    @property
    def possibly_billed(self) -> int:
        """Requests that the vendors may have billed beside `cost_usd`."""
        return sum(model.possibly_billed for model in self._models.values())

    @property
    def known_usd(self) -> float:
        """What is known to have been paid, whether or not all is known."""
        return round(sum(model.cost_usd for model in self._models.values()), 10)

    @property
    def unpriced(self) -> int:
        """Calls whose price is not known."""
        return sum(model.unpriced for model in self._models.values())

    @property
    def cost_usd(self) -> float | None:
        """What is known to have been paid, or None when a price is not known, or nothing is known."""
        return None if self.unpriced else known_cost(self.known_usd, self.possibly_billed)

    def models(self) -> list[ModelSummary]:
        """Sum up each model, the one with the most calls first."""
        found = []
        for name, model in self._models.items():
            latencies, failed = sorted(model.latencies), model.errors.total()
            found.append(
                ModelSummary(
                    model=name,
                    calls=len(latencies) + failed,
                    failed=failed,
                    requests=model.requests,
                    p50_s=_percentile(latencies, 0.5),
                    p95_s=_percentile(latencies, 0.95),
                    cost_usd=None if model.unpriced else known_cost(round(model.cost_usd, 10), model.possibly_billed),
                    possibly_billed=model.possibly_billed,
                    errors=dict(model.errors.most_common()),
                    stored=model.stored,
                    input_tokens=model.input_tokens,
                    cached_input_tokens=model.cached_input_tokens,
                    batch_calls=model.batch_calls,
                    batch_usd=round(model.batch_usd, 10),
                )
            )
        return sorted(found, key=lambda one: (-one.calls, one.model))


def _percentile(ordered: list[float], share: float) -> float | None:
    """Return the nearest-rank percentile of numbers in ascending order."""
    if not ordered:
        return None
    return round(ordered[max(0, -(-int(share * 100) * len(ordered) // 100) - 1)], 4)
