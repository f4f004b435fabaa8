"""The rows that a person should look at, and what becomes of them."""

from typing import Any

import pytest

from consensus_flows.tasks.batches.results import RowResult
from consensus_flows.tasks.batches.review import Decision, abstained, decided, reasons


def result(**fields: Any) -> dict[str, Any]:
    return RowResult(id="1", **({"answer": "A", "status": "finished"} | fields)).model_dump(mode="json")


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({}, []),
        ({"answer": None, "status": "not_started"}, []),
        ({"answer": None, "status": "failed", "degraded": True}, ["failed", "degraded"]),
        ({"answer": None, "status": "abstained", "share": 0.5}, ["abstained", "low_agreement"]),
        ({"status": "tie", "tie": True, "share": 0.3}, ["tie", "low_agreement"]),
        ({"share": 0.6, "agreement": 0.2}, []),
        ({"status": "max_iterations", "dissent": "no"}, ["not_confident", "dissent"]),
        ({"hazards": {"a/x": ["script"]}, "degraded": True}, ["hazard", "degraded"]),
    ],
)
def test_reasons(fields, kinds):
    assert reasons(result(**fields)) == kinds


def test_no_answer_below_a_share_and_a_decision_above_all():
    row = result(share=0.5, agreement=0.9)
    assert abstained(row, None) == abstained(row, 0.5) == row
    left = abstained(row, 0.51)
    assert (left["answer"], left["status"], left["panel_answer"]) == (None, "abstained", "A")
    assert abstained(result(agreement=0.4), 0.5)["status"] == "abstained", "where no votes are counted"
    assert abstained(result(), 0.5)["answer"] == "A", "what agreement there is, is not known"

    first = decided(left, Decision("digest", "B", "ann", "2026-11-27T08:00:00+00:00"))
    again = decided(first, Decision("digest", "C", "bob", "2026-11-27T09:00:00+00:00"))
    assert (again["answer"], again["status"], again["panel_answer"], again["decided_by"]) == (
        "C",
        "decided",
        "A",
        "bob",
    )
    assert decided(row, None) == row
