"""Which rows a person should look at, and why; and what becomes of a row by a rule or by a person's decision."""

import heapq
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, get_args

from consensus_flows.tasks.batches.results import ABSTAINED, DECIDED, NOT_STARTED, UNSURE
from consensus_flows.tasks.record import LOW_SHARE

ReasonKind = Literal[
    "failed",
    "abstained",
    "unsure",
    "tie",
    "split_fields",
    "few_votes",
    "low_agreement",
    "not_confident",
    "dissent",
    "hazard",
    "degraded",
]
WORDS: dict[ReasonKind, str] = {
    "failed": "no answer",
    "abstained": "below --abstain-below",
    "unsure": "the probability is below --review-below",
    "tie": "tie",
    "split_fields": "members differ about a field",
    "few_votes": "few members gave an answer that could be read",
    "low_agreement": "low agreement",
    "not_confident": "no answer was confident enough and final",
    "dissent": "a minority disagrees",
    "hazard": "suspicious text",
    "degraded": "a call failed or a stand-in answered",
}


def reasons(result: Mapping[str, Any]) -> list[ReasonKind]:
    """Return why a person should look at a row, the weightiest reason first; nothing where it is fine, was not started or is decided.

    Args:
        result: The row's columns; see `RowResult`.
    """
    if result["status"] in {NOT_STARTED, DECIDED}:
        return []
    abstained = result["status"] == ABSTAINED
    share = result.get("share")
    answers = result.get("answers") or {}
    voted = sum(one["answer"] is not None for one in answers.values())
    said: dict[ReasonKind, Any] = {
        "failed": result["answer"] is None and not abstained,
        "abstained": abstained,
        "unsure": result["status"] == UNSURE,
        "tie": result.get("tie") and not result.get("fields"),
        "split_fields": result.get("split_fields"),
        "few_votes": share is not None and bool(answers) and 2 * voted <= len(answers),
        "low_agreement": share is not None and share < LOW_SHARE and not result.get("fields"),
        "not_confident": result["status"] == "max_iterations",
        "dissent": result.get("dissent"),
        "hazard": result.get("hazards"),
        "degraded": result["degraded"],
    }
    return [kind for kind, so in said.items() if so]


def abstained(result: Mapping[str, Any], below: float | None) -> dict[str, Any]:
    """Return a row without its answer if too few agree: by the share of votes, or where none are counted by the agreement.

    Args:
        result: The row's columns.
        below: The least share with which the answer stands; None for any.
    """
    share = result["agreement"] if result.get("share") is None else result["share"]
    if below is None or result["answer"] is None or share is None or share >= below:
        return dict(result)
    return {**result, "answer": None, "status": ABSTAINED, "panel_answer": result["answer"]}


def unsure(result: Mapping[str, Any], below: float | None) -> dict[str, Any]:
    """Return a row marked as one to look at if its answer is not probable enough, or nobody knows how probable it is.

    Args:
        result: The row's columns.
        below: The least probability with which an answer needs no look; None for any.
    """
    if below is None or result["answer"] is None or (result["confidence"] or 0.0) >= below:
        return dict(result)
    return {**result, "status": UNSURE}


class Decision(NamedTuple):
    """What a person decided about a row."""

    question: str
    """Digest of the prompt, so that it holds for no other question of the same id."""
    answer: str
    by: str
    at: str


def decided(result: Mapping[str, Any], decision: Decision | None) -> dict[str, Any]:
    """Return a row with the answer that a person decided on; what the panel answered stays beside it."""
    if decision is None:
        return dict(result)
    panel = result.get("panel_answer") if result["status"] in {ABSTAINED, DECIDED} else result["answer"]
    return {
        **result,
        "answer": decision.answer,
        "status": DECIDED,
        "error": None,
        "panel_answer": panel,
        "decided_by": decision.by,
        "decided_at": decision.at,
    }


def now() -> str:
    """Return the time as it is written beside a decision."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def worst(rows: Iterable[Mapping[str, Any]], most: int) -> list[dict[str, Any]]:
    """Return the rows that need a look most: by the weightiest reason, then by the least agreement.

    Args:
        rows: Rows of an output.
        most: How many.
    """
    order = list(get_args(ReasonKind))
    found = ((order.index(why[0]), row.get("agreement") or 0.0, dict(row)) for row in rows if (why := reasons(row)))
    return [row for _, _, row in heapq.nsmallest(most, found, key=lambda one: one[:2])]
