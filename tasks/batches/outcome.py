"""What a row of the output says of its run, and what a whole batch came to."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field

from consensus_flows.tasks.batches.row import BadRow, Row
from consensus_flows.tasks.batches.totals import ModelSummary, RowSums, Totals
from consensus_flows.tasks.record import Record

NOT_STARTED = "not_started"
SHOWN_FAILURES = 5
"""Rows without an answer that a summary names."""


class Progress(NamedTuple):
    """What a batch begins with: the algorithm, the rows that there are, and those that an earlier run has finished."""

    algorithm: str
    rows: int
    finished: int


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
        self.cost_usd, self.possibly_billed = totals.cost_usd, totals.possibly_billed


def outcome(row: Row, record: Record) -> dict[str, Any]:
    """Return the columns that a finished run gives a row of the output."""
    return {
        "id": row.id,
        "answer": record.answer,
        "status": record.status,
        "degraded": record.degraded,
        "confidence": record.confidence,
        "agreement": record.agreement,
        "cost_usd": record.cost_usd,
        "possibly_billed": record.possibly_billed,
        "calls": record.calls,
        "cached_calls": record.cached_calls,
        "error": record.error,
        "warnings": "; ".join(dict.fromkeys(warning.message for warning in record.warnings)) or None,
        "duration_s": record.duration_s,
    }


def not_started(row: Row) -> dict[str, Any]:
    """Return the columns of a row that was left."""
    empty = dict.fromkeys(outcome(row, Record(flow="", prompt="")))
    return {
        **empty,
        "id": row.id,
        "status": NOT_STARTED,
        "degraded": False,
        "possibly_billed": 0,
        "calls": 0,
        "cached_calls": 0,
    }


def told(bad: BadRow) -> str:
    """Say what is wrong with a row of the input."""
    return f"{bad.where}: {bad.message}"
