"""What a row of the output says of its run, and what all rows come to."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field

from consensus_flows.tasks.batches.rows import BadRow, Row
from consensus_flows.tasks.batches.totals import ModelSummary, Totals
from consensus_flows.tasks.record import Record, TakenOut

NOT_STARTED = "not_started"
SHOWN_FAILURES = 5
"""Rows without an answer that a summary names."""
BINS = 10
"""Columns of the histogram of agreement, each a tenth wide."""


class RowResult(BaseModel):
    """The columns that every output begins with, in order. Those named like a field of the record hold that field.

    A new column is a new field here, and nothing else.
    """

    id: str
    answer: str | None = None
    status: str = NOT_STARTED
    degraded: bool = False
    confidence: float | None = None
    agreement: float | None = None
    cost_usd: float | None = None
    calls: int = 0
    cached_calls: int = 0
    error: str | None = None
    warnings: str | None = None
    duration_s: float | None = None
    possibly_billed: int = 0


RESULT_COLUMNS: dict[str, type] = {
    name: (get_args(field.annotation) or (field.annotation,))[0] for name, field in RowResult.model_fields.items()
}
"""The names of these columns, and what is in them."""


def outcome(row: Row, record: Record) -> dict[str, Any]:
    """Return the columns that a finished run gives a row of the output."""
    values = {name: getattr(record, name) for name in RESULT_COLUMNS if hasattr(record, name)}
    values |= {"id": row.id, "warnings": "; ".join(dict.fromkeys(map(str, record.warnings))) or None}
    return RowResult.model_validate(values).model_dump()


def not_started(row: Row, error: str | None = None) -> dict[str, Any]:
    """Return the columns of a row that was left, and why."""
    return RowResult(id=row.id, error=error).model_dump()


def describe(bad: BadRow) -> str:
    """Say what is wrong with a row of the input."""
    return f"{bad.where}: {bad.message}"


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
        if result["status"] == NOT_STARTED:
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


class Progress(RowSums):
    """How far a batch is: sums over the rows that this run has ended."""

    algorithm: str = ""
    wanted: int = 0
    """Rows that there are."""
    resumed: int = 0
    """Rows that an earlier run had finished."""

    @property
    def finished(self) -> int:
        """Rows that are finished, by this run and by earlier ones."""
        return self.resumed + self.done + self.failed

    def add_shard(self, sums: Mapping[str, Any]) -> None:
        """Count the rows of a shard that has ended, those of its earlier runs among them."""
        for name in ("rows", "done", "failed", "degraded", "not_started", "calls", "cached_calls"):
            setattr(self, name, getattr(self, name) + sums.get(name, 0))


class BatchSummary(RowSums):
    """What a batch came to; sums over its rows, those of earlier runs that were killed included."""

    flow: str = "batch"
    flow_run_id: str | None = None
    algorithm: str = ""
    input: str = ""
    output: str = ""
    status: Literal["finished", "budget", "stopped"] = "finished"
    """`budget`: it ended before all rows were done. `stopped`: row after row failed, so the rest was left."""
    error: str | None = None
    bad: int = 0
    """Rows of the input that cannot be used; they are in no other number here."""
    bad_rows: list[str] = Field(default_factory=list)
    """The first of them, each with its line and what is wrong with it."""
    failures: list[str] = Field(default_factory=list)
    """The first rows without an answer, each with its id and why."""
    resumed: int = 0
    """Rows that an earlier run had finished."""
    sent_calls: int = 0
    """Calls for which something was sent, which is what was paid for."""
    cost_usd: float | None = None
    """What is known to have been paid; None where a price is not known, or nothing is known."""
    possibly_billed: int = 0
    """Requests that the vendors may have billed beside that: their response was lost, or their run was killed."""
    models: list[ModelSummary] = Field(default_factory=list)
    requests: int = 0
    """Requests that were sent for these calls, retries included."""
    never_answered: list[str] = Field(default_factory=list)
    """The models that were asked and have not answered once."""
    taken_out: list[TakenOut] = Field(default_factory=list)
    """The models that kept failing, and were not asked for the rest of the run."""
    duration_s: float = 0.0
    """Seconds that this run took."""
    calls_per_s: float = 0.0
    """Calls of this run by its seconds, stored ones included."""

    def add(self, result: Mapping[str, Any]) -> None:
        """Count a row of the output, and note why it has no answer."""
        super().add(result)
        if result["answer"] is None and result["status"] != NOT_STARTED and len(self.failures) < SHOWN_FAILURES:
            self.failures.append(f"{result['id']}: {result['error'] or result['status']}"[:500])

    def add_bill(self, totals: Totals) -> None:
        """Say what was sent and paid, by all runs of the batch."""
        self.sent_calls, self.models = totals.sent, totals.models()
        self.requests = sum(model.requests for model in self.models)
        self.never_answered = [model.model for model in self.models if model.never_answered]
        self.cost_usd, self.possibly_billed = totals.cost_usd, totals.possibly_billed
