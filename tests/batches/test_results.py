"""The columns of the output: what a panel is for, in every format."""

import json
from typing import Any

import pyarrow.parquet as pq
import pytest

from consensus_flows.tasks.batches.results import RESULT_COLUMNS, MemberAnswer, outcome, output_columns
from consensus_flows.tasks.batches.rows import Row
from consensus_flows.tasks.record import Iteration, Option, Record, Response, Synthesis, Vote
from tests.kits.batch_kit import ROOT, read
from tests.kits.command_kit import Command, commands
from tests.vendors import LoopbackVendors, Reply, faults

VOTE = ["--flow", "vote", "-m", "openai/one:2", "-m", "anthropic/two", "-m", "google/dead", "--extract", "number"]


@pytest.fixture
def consensus(results: str, vendors: LoopbackVendors, monkeypatch, capsys) -> Command:
    return commands(monkeypatch, capsys)


def test_every_column_says_what_it_means():
    assert [one.name for one in output_columns()] == list(RESULT_COLUMNS)
    assert all(one.meaning.endswith(".") for one in output_columns())


def test_who_said_what_and_how_the_vote_stood(consensus, vendors, tmp_path):
    vendors.script("one", then=Reply(text="It is 1.", usage=None))
    vendors.script("two", then=Reply(text="Surely 2."))
    vendors.script("dead", then=faults.not_found())
    source = tmp_path / "prompts.csv"
    source.write_text("prompt\nA?\n")
    for ending in (".jsonl", ".csv", ".parquet"):
        assert consensus("batch", source, "-o", tmp_path / f"out{ending}", *VOTE).code == 4, "a member never answered"
    row = read(tmp_path / "out.jsonl")[0]
    assert (row["id"], row["answer"], row["status"], row["tie"]) == ("1", "1", "finished", False)
    assert row["votes"] == {"1": 2, "2": 1} and list(row["votes"]) == ["1", "2"]
    assert (row["share"], row["margin"], row["dissent"], row["hazards"]) == (0.6667, 0.3333, None, None)
    said = row["answers"]
    assert list(said) == ["openai/one", "openai/one#2", "anthropic/two", "google/dead"]
    assert set(said["openai/one"]) == set(MemberAnswer.model_fields)
    assert [one["answer"] for one in said.values()] == ["1", "1", "2", None]
    assert said["anthropic/two"]["text"] == "Surely 2." and said["anthropic/two"]["output_tokens"] > 0
    assert said["google/dead"]["error"]["kind"] == "not_found" and said["google/dead"]["text"] is None

    shown = consensus("run", row["run_id"], "--json")
    assert shown.code == 0 and json.loads(shown.out)["prompt"] == "A?"

    flat = read(tmp_path / "out.csv")[0]
    assert json.loads(flat["answers"])["anthropic/two"]["answer"] == "2" and json.loads(flat["votes"]) == {
        "1": 2,
        "2": 1,
    }
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column("answers").to_pylist()[0] == said, (
        "the same as in JSON lines, though the answers are stored ones now"
    )
    assert table.schema.field("answers").type.field("openai/one#2").type.field("cost_usd").type == "double"


def response(member: str, **fields: Any) -> Response:
    name, instance = member.split("#")
    provider, model = name.split("/")
    return Response(member=member, provider=provider, model=model, instance=int(instance), **fields)


def test_a_tie_never_looks_like_a_result():
    responses = [response("a/x#1", text="1"), response("b/y#1", text="2")]
    record = Record(
        flow="vote",
        prompt="?",
        answer="1",
        tie=True,
        margin=0.0,
        best_iteration=1,
        votes=[Vote(member="a/x#1", answer="1"), Vote(member="b/y#1", answer="2", weight=0.5)],
        tally=[
            Option(answer="1", votes=1.0, share=0.5, members=["a/x#1"]),
            Option(answer="2", votes=0.5, share=0.5, members=["b/y#1"]),
        ],
        iterations=[Iteration(number=1, responses=responses)],
    )
    row = Row(0, 1, "r", "?", {})
    made = outcome(row, record)
    assert (made["status"], made["tie"], made["votes"]) == ("tie", True, {"1": 1, "2": 0.5})
    assert outcome(row, record.model_copy(update={"status": "budget"}))["status"] == "budget"


def test_a_warning_that_is_the_same_for_all_rows_is_in_none_of_them():
    record = Record(flow="vote", flow_run_id=None, prompt="?")
    record.warn("calibration", "the panel was calibrated with extract choice, not number: calibrate it again")
    assert outcome(Row(0, 1, "r", "?", {}), record)["warnings"] is None
    record.warn("abstained", "a/x abstains")
    assert outcome(Row(0, 1, "r", "?", {}), record)["warnings"] == "a/x abstains"


def test_the_answers_are_those_of_the_iteration_that_was_returned():
    stored = response("a/x#1", text="best", cached=True, cost_usd=0.0, stored_cost_usd=0.5, hazards=["script"])
    later = response("a/x#1", text="later")
    record = Record(
        flow="consortium",
        prompt="?",
        answer="best",
        best_iteration=1,
        iterations=[
            Iteration(number=1, responses=[stored], synthesis=Synthesis(text="best", dissent=" one of them differs ")),
            Iteration(number=2, responses=[later], synthesis=Synthesis(text="later")),
        ],
    )
    made = outcome(Row(0, 1, "r", "?", {}), record)
    assert made["dissent"] == "one of them differs" and made["hazards"] == {"a/x": ["script"]}
    assert (made["votes"], made["share"], made["tie"]) == (None, None, None)
    said = made["answers"]["a/x"]
    assert (said["answer"], said["text"], said["cost_usd"]) == (None, "best", 0.5)


def test_the_docs_list_the_columns_as_the_code_has_them():
    text = (ROOT / "docs" / "batch_files.md").read_text()
    assert all(f"| `{one.name}` | {one.meaning} |\n" in text for one in output_columns())
