"""Two outputs of batches compared row by row."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, Field

_COMPARED = ("answer", "status", "agreement", "cost_usd")


class ChangedRow(BaseModel):
    """A row whose answer is another one."""

    id: str
    before: str | None
    after: str | None
    status_before: str
    status_after: str
    agreement_before: float | None
    agreement_after: float | None


class Difference(BaseModel):
    """How two outputs differ; rows are matched by their ids. `before` is the first output, `after` the second."""

    rows_before: int = 0
    rows_after: int = 0
    matched: int = 0
    changed: int = 0
    only_before: list[str] = Field(default_factory=list)
    only_after: list[str] = Field(default_factory=list)
    answered_before: int = 0
    answered_after: int = 0
    agreement_before: float | None = None
    """Mean over the rows in which it was measured."""
    agreement_after: float | None = None
    cost_before_usd: float | None = None
    """Sum over all rows; None where the cost of one is not known."""
    cost_after_usd: float | None = None
    changes: list[ChangedRow] = Field(default_factory=list)


def difference(before: Iterable[Mapping[str, Any]], after: Iterable[Mapping[str, Any]]) -> Difference:
    """Compare two outputs.

    Args:
        before: Rows of the first.
        after: Rows of the second.
    """
    first, second = _by_id(before), _by_id(after)
    changes = list(_changes(first, second))
    return Difference(
        rows_before=len(first),
        rows_after=len(second),
        matched=len(first.keys() & second.keys()),
        changed=len(changes),
        only_before=[name for name in first if name not in second],
        only_after=[name for name in second if name not in first],
        answered_before=sum(row["answer"] is not None for row in first.values()),
        answered_after=sum(row["answer"] is not None for row in second.values()),
        agreement_before=_mean([row["agreement"] for row in first.values()]),
        agreement_after=_mean([row["agreement"] for row in second.values()]),
        cost_before_usd=_sum([row["cost_usd"] for row in first.values()]),
        cost_after_usd=_sum([row["cost_usd"] for row in second.values()]),
        changes=changes,
    )


def _by_id(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Keep what is compared of each row, and not its texts."""
    return {str(row.get("id")): {name: row.get(name) for name in _COMPARED} for row in rows}


def _changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[ChangedRow]:
    for name, one in first.items():
        other = second.get(name)
        if other is not None and one["answer"] != other["answer"]:
            yield ChangedRow(
                id=name,
                before=one["answer"],
                after=other["answer"],
                status_before=one["status"] or "",
                status_after=other["status"] or "",
                agreement_before=one["agreement"],
                agreement_after=other["agreement"],
            )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 4) if known else None


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known), 10) if len(known) == len(values) else None
