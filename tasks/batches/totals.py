"""Sums over the rows and calls of a batch, in constant memory but for eight bytes a call."""

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, Field

BINS = 10
"""Columns of the histogram of agreement, each a tenth wide."""


class ModelSummary(BaseModel):
    """How one model did in a batch. Only what was sent counts, not what came from the store."""

    model: str
    calls: int = 0
    failed: int = 0
    requests: int = 0
    p50_s: float | None = None
    """Median latency of the answered calls in seconds."""
    p95_s: float | None = None
    cost_usd: float | None = None
    """None when the price of one answered call is not known."""
    errors: dict[str, int] = Field(default_factory=dict)
    """Failed calls by kind."""


class RowSums(BaseModel):
    """Sums over the rows of a batch."""

    rows: int = 0
    done: int = 0
    """Rows with an answer."""
    failed: int = 0
    degraded: int = 0
    not_started: int = 0
    """Rows that were left: the budget ended, or the batch was stopped."""
    calls: int = 0
    cached_calls: int = 0
    agreement: list[int] = Field(default_factory=lambda: [0] * BINS)
    """How many rows have an agreement from 0 to 0.1, from 0.1 to 0.2, and so on."""

    def add(self, result: Mapping[str, Any]) -> None:
        """Count a row of the output."""
        self.rows += 1
        if result["status"] == "not_started":
            self.not_started += 1
        elif result["answer"] is None:
            self.failed += 1
        else:
            self.done += 1
            self.degraded += bool(result["degraded"])
        self.calls += result["calls"] or 0
        self.cached_calls += result["cached_calls"] or 0
        if result["agreement"] is not None:
            self.agreement[min(BINS - 1, int(result["agreement"] * BINS))] += 1


@dataclass
class _Model:
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    """Of the answered calls, in seconds."""
    requests: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0
    errors: Counter[str] = field(default_factory=Counter)


class Totals:
    """Sums over the calls of a batch, those of earlier runs of it included."""

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}

    def add_call(self, call: Mapping[str, Any]) -> None:
        """Count a call, as the journal has it."""
        model = self._models.setdefault(call["call"], _Model())
        model.requests += call["requests"]
        model.tokens += call["tokens"]
        if call["error"]:
            model.errors[call["error"]] += 1
        else:
            model.latencies.append(call["s"])
        if call["usd"] is None:
            model.unpriced += 1
        else:
            model.cost_usd += call["usd"]

    def add(self, other: Mapping[str, Any]) -> None:
        """Add what `dump` has made of other sums."""
        for name, found in other.items():
            model = self._models.setdefault(name, _Model())
            model.latencies.extend(found["latencies"])
            model.requests += found["requests"]
            model.tokens += found["tokens"]
            model.cost_usd += found["cost_usd"]
            model.unpriced += found["unpriced"]
            model.errors.update(found["errors"])

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
        """Requests, tokens and US dollars, as far as they are known: what a budget has paid already."""
        models = self._models.values()
        return (
            sum(model.requests for model in models),
            sum(model.tokens for model in models),
            sum(model.cost_usd for model in models),
        )

    @property
    def cost_usd(self) -> float | None:
        """What was paid, or None when a price is not known."""
        if any(model.unpriced for model in self._models.values()):
            return None
        return round(sum(model.cost_usd for model in self._models.values()), 10)

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
                    cost_usd=None if model.unpriced else round(model.cost_usd, 10),
                    errors=dict(model.errors.most_common()),
                )
            )
        return sorted(found, key=lambda one: (-one.calls, one.model))


def _percentile(ordered: list[float], share: float) -> float | None:
    """Return the nearest-rank percentile of numbers in ascending order."""
    if not ordered:
        return None
    return round(ordered[max(0, -(-int(share * 100) * len(ordered) // 100) - 1)], 4)
