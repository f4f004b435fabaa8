"""The rows that a person should look at, and what becomes of them."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter

from consensus_flows.flows.batch import batch
from consensus_flows.tasks.batches.addresses import dated
from consensus_flows.tasks.batches.results import RowResult
from consensus_flows.tasks.batches.review import Decision, abstained, decided, reasons, worst
from consensus_flows.tasks.batches.summary import BatchSummary
from tests.kits.batch_kit import read
from tests.kits.command_kit import Command, commands
from tests.vendors import LoopbackVendors, Reply


def result(**fields: Any) -> dict[str, Any]:
    return RowResult.model_validate({"id": "1", "answer": "A", "status": "finished"} | fields).model_dump(mode="json")


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({}, []),
        ({"answer": None, "status": "not_started"}, []),
        ({"answer": None, "status": "failed", "degraded": True}, ["failed", "degraded"]),
        ({"answer": None, "status": "abstained", "share": 0.5}, ["abstained", "low_agreement"]),
        ({"status": "tie", "tie": True, "share": 0.3}, ["tie", "low_agreement"]),
        ({"share": 0.6, "agreement": 0.2}, []),
        ({"share": 1, "answers": {"a/x": {"answer": "A"}, "b/y": {}}}, ["few_votes"]),
        ({"share": 1, "answers": {"a/x": {"answer": "A"}, "b/y": {"answer": "A"}, "c/z": {}}}, []),
        ({"status": "max_iterations", "dissent": "no"}, ["not_confident", "dissent"]),
        ({"hazards": {"a/x": ["script"]}, "degraded": True}, ["hazard", "degraded"]),
    ],
)
def test_reasons(fields, kinds):
    assert reasons(result(**fields)) == kinds


def test_the_worst_rows_come_first():
    rows = [
        result(id="fine"),
        result(id="tie", tie=True),
        result(id="bad", answer=None),
        result(id="tie2", tie=True, agreement=-1),
    ]
    assert [row["id"] for row in worst(rows, 3)] == ["bad", "tie2", "tie"]


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


def test_a_tie_that_a_person_decided_is_none():
    tie, decision = result(status="tie", tie=True), Decision("digest", "B", "ann", "2026-11-27T08:00:00+00:00")
    left, settled = BatchSummary(), BatchSummary()
    left.add(tie)
    settled.add(decided(tie, decision))
    assert (left.ties, left.to_review, settled.ties, settled.to_review) == (1, 1, 0, 0)


PANEL = ["--flow", "vote", "-m", "openai/one", "-m", "anthropic/two", "-m", "google/three", "--extract", "number"]


@pytest.fixture
def consensus(results: str, vendors: LoopbackVendors, monkeypatch, capsys) -> Command:
    return commands(monkeypatch, capsys)


def says(number: int) -> Reply:
    return Reply(text=f"The answer is {number}. ![<b>x</b>](https://evil.example/a)")


@pytest.mark.usefixtures("results")
async def test_the_page_and_the_message_of_a_batch_name_its_files_so_that_they_can_be_opened(
    vendors, tmp_path, monkeypatch
):
    """A notification has the message, and nothing else of the batch; it is read elsewhere than the batch was started."""
    monkeypatch.chdir(tmp_path)
    for name, number in (("one", 1), ("two", 2), ("three", 3)):
        vendors.script(name, then=says(number))
    (tmp_path / "prompts.csv").write_text("prompt\nWhy?\nHow?\n")
    config = {"members": ["openai/one", "anthropic/two", "google/three"], "extract": "number"}
    given = {"input": "prompts.csv", "output": "answers-{date}.jsonl", "flow": "vote", "config": config}
    plain = await batch(**given, return_state=True)
    answers = tmp_path / dated("answers-{date}.jsonl")
    assert plain.message.endswith(f" · {answers} · 2 to review")
    state = await batch(**given, review="review.csv", return_state=True)
    assert state.name == "Tie" and state.message.endswith(f" · {answers} · 2 to review in {tmp_path / 'review.csv'}")
    summary = await state.result()
    assert (summary.output, summary.review_file) == (str(answers), str(tmp_path / "review.csv"))
    async with get_client() as client:
        mine = FlowRunFilter.model_validate({"id": {"any_": [summary.flow_run_id]}})
        page = ArtifactFilter.model_validate({"key": {"any_": ["batch-summary"]}})
        (found,) = await client.read_artifacts(artifact_filter=page, flow_run_filter=mine)
    assert f"The answers are in `{answers}`, the rows to look at in `{tmp_path / 'review.csv'}`." in found.data
    assert "[the run before](/runs/flow-run/" in found.data, "it is still the same batch"


def test_from_a_review_file_to_decisions_that_last(consensus, vendors, tmp_path):
    for name, number in (("one", 1), ("two", 2), ("three", 3)):
        vendors.script(name, then=lambda seen, number=number: says(number if "split" in seen.prompt else 7))
    source, out, review = tmp_path / "in.csv", tmp_path / "out.csv", tmp_path / "review.csv"
    source.write_text("id,prompt\na,=split 1\nb,same\nc,split 2\n")
    batch = ["batch", source, "-o", out, *PANEL, "--wide", "--abstain-below", "0.5", "--review", review]
    ran = consensus(*batch, "--json")
    summary = json.loads(ran.out)
    batch_id = summary["flow_run_id"]
    assert (ran.code, summary["done"], summary["failed"], summary["abstained"], summary["ties"]) == (0, 1, 0, 2, 2)
    first, second, _ = read(out)
    assert (first["answer"], first["status"], first["panel_answer"]) == ("", "abstained", "1")
    assert (first["openai/one"], first["anthropic/two"], second["openai/one"]) == (
        "1",
        "2",
        "7",
    ) and "answers" not in first
    rows = read(review)
    assert [row["id"] for row in rows] == ["a", "b", "c"], "the second one because of its hazard"
    assert rows[0]["question"] == "'=split 1", "no spreadsheet calculates it"
    assert rows[0]["reasons"].startswith("abstained, tie, low_agreement") and rows[1]["reasons"] == "hazard"
    page = review.with_suffix(".html").read_text()
    assert (
        "&lt;b&gt;x&lt;/b&gt;" in page and "<img" not in page and "default-src 'none'" in page and "3 of 3 rows" in page
    )

    rows[0]["decision"], rows[2]["decision"] = "42", ""
    _write(review, [*rows, {**rows[0], "id": "unknown"}])
    applied = consensus("review", "apply", review, "--by", "ann")
    assert applied.code == 0 and applied.out.strip() == str(out) and "unknown" in applied.err
    first = read(out)[0]
    assert (first["answer"], first["status"], first["panel_answer"], first["decided_by"]) == (
        "42",
        "decided",
        "1",
        "ann",
    )
    assert first["decided_at"] and read(out)[1]["answer"] == "7"
    shown = consensus("batches", "show", batch_id).out
    assert "1 row is decided by a person, and not among the rows to review" in shown and "suspicious text" in shown

    rows[2]["decision"] = "later"
    _write(review, rows)
    ran = consensus(*batch)
    assert ran.code == 0, "run again, it keeps decisions, and those that were not applied yet"
    assert "0 failed, 1 abstained, 0 not started" in ran.err
    shown = consensus("batches", "show", batch_id)
    assert f"has written {out} since: `consensus batches show " in shown.err and "suspicious text" not in shown.out
    assert [row["status"] for row in read(out)] == ["decided", "finished", "abstained"]
    assert [row["decision"] for row in read(review)] == ["42", "", "later"]
    source.write_text("id,prompt\na,split of another kind\nb,same\nc,split 2\n")
    assert consensus(*batch).code == 0 and read(out)[0]["status"] == "abstained", "of another question"

    empty = consensus("review", "apply", source)
    assert empty.code == 2 and "no column 'question'" in empty.err


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
