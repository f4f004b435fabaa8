"""`vote --extract json`: what members are asked, who is asked again, what the record, the batch and its review show."""

import json
import re

import pytest

from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.vote import run_vote
from consensus_flows.tasks.record import Record
from consensus_flows.tasks.reports.verdict import of_run
from consensus_flows.tasks.reports.vote_report import artifacts, field_lines
from tests.kits.batch_kit import read
from tests.kits.command_kit import commands
from tests.kits.consortium_kit import asked, say
from tests.kits.kinds import kinds
from tests.vendors import ANY, Reply, faults

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "total": {"type": "number"}, "note": {"type": "string"}},
    "required": ["name", "total"],
}


def voting(*members, **settings):
    given = {
        "members": [*(members or ["openai/a", "openai/b", "openai/c"])],
        "extract": "json",
        "answer_schema": SCHEMA,
    }
    return VoteConfig.model_validate(given | settings)


def answers(vendors, **values):
    say(vendors, **{name: json.dumps(value) for name, value in values.items()})


async def test_the_answer_is_put_together_from_the_fields(vendors):
    answers(
        vendors,
        a={"name": "Acme", "total": 1},
        b={"name": "Acme", "total": 2, "note": "x"},
        c={"name": "Beta", "total": 2},
    )
    record = await run_vote("Extract.", voting())
    assert json.loads(record.answer) == {"name": "Acme", "total": 2}
    assert [(one.field, one.agreement, one.tie) for one in record.fields] == [
        ("name", 0.6667, False),
        ("total", 0.6667, False),
        ("note", 0.6667, False),
    ]
    total = record.fields[1]
    assert [(one.value, one.members) for one in total.options] == [
        (2, ["openai/b#1", "openai/c#1"]),
        (1, ["openai/a#1"]),
    ]
    assert record.fields[2].options[0].left_out and record.fields[2].options[1].value == "x"
    assert record.agreement == 0.6667 and record.unanimous is False and record.tie is False and not record.degraded
    assert record.iterations[0].synthesis.chosen is None, "nobody gave just this answer"
    assert [json.loads(vote.answer)["name"] for vote in record.votes] == ["Acme", "Acme", "Beta"]
    assert all(seen.schema["properties"].keys() == SCHEMA["properties"].keys() for seen in vendors.seen)
    assert Record.model_validate_json(record.model_dump_json()) == record
    assert field_lines(record)[1] == "total = 2 (67 %); 1: openai/a#1"
    table = {one.key: one.content for one in artifacts(record, record.iterations[0])}["vote-fields"]
    assert table[1] == {
        "field": "total",
        "value": "2",
        "agreement": "67 %",
        "split": "",
        "other values": "1: openai/a#1",
    }
    assert "3 fields, agreement 67 %" in of_run(record).message


async def test_a_tie_is_named_by_its_field(vendors):
    answers(vendors, a={"name": "Acme", "total": 1}, b={"name": "Acme", "total": 2})
    record = await run_vote("Extract.", voting("openai/a", "openai/b"))
    assert json.loads(record.answer)["total"] == 1 and record.tie
    assert [one.field for one in record.fields if one.tie] == ["total"]
    assert ("tie", None) in {one[:2] for one in kinds(record)} and "split: total" in of_run(record).message
    assert (
        json.loads((await run_vote("Extract.", voting("openai/a", "openai/b", tie_order=["openai/b"]))).answer)["total"]
        == 2
    )


async def test_who_does_not_satisfy_the_schema_is_asked_again_once(vendors):
    good = json.dumps({"name": "Acme", "total": 1})
    answers(vendors, a={"name": "Acme", "total": 1})
    vendors.script("b", Reply(text='{"name": "Acme"}'), Reply(text=good))
    vendors.script("c", then=Reply(text="I would rather not."))
    record = await run_vote("Extract.", voting())
    first, second = asked(vendors, "b")
    assert "'total' is a required property" in second.prompt and second.messages[0] == first.messages[0]
    assert vendors.count("c") == 2
    assert record.calls == record.requests == vendors.count() == 5
    assert json.loads(record.answer) == {"name": "Acme", "total": 1}
    unread = record.iterations[0].responses[2]
    assert unread.error.kind == "malformed" and record.votes[2].answer is None and record.degraded
    assert record.fields[0].agreement == 1.0 and record.unanimous is False
    again = await run_vote("Extract.", voting())
    assert vendors.count("b") == 3 or again.cached_calls, "what does not satisfy the schema is not stored"


async def test_without_a_quorum_there_is_no_answer(vendors):
    answers(vendors, a={"name": "Acme", "total": 1})
    vendors.script("b", then=faults.not_found())
    vendors.script("c", then=Reply(text="no"))
    record = await run_vote("Extract.", voting())
    assert (record.status, record.answer) == ("failed", None) and "the quorum is 2" in record.error


async def test_members_can_be_panels(vendors):
    answers(vendors, a={"name": "Acme", "total": 1}, b={"name": "Acme", "total": 2}, c={"name": "Acme", "total": 2})
    night = {"flow": "vote", "config": {"members": ["openai/a", "openai/b", "openai/c"]}}
    night["config"] |= {"extract": "json", "answer_schema": SCHEMA}
    record = await run_vote("Extract.", voting("panel/night", "openai/b", panels={"night": night}))
    assert json.loads(record.answer) == {"name": "Acme", "total": 2} and record.unanimous
    assert [one.field for one in record.iterations[0].responses[0].panel.fields] == ["name", "total", "note"]


def test_an_extraction_job_over_100_rows(vendors, results, tmp_path, monkeypatch, capsys):
    """Three members; in every tenth row one differs about the total, in every 25th all do."""

    def extracted(seen):
        number = int(re.search(r"Invoice (\d+)", seen.prompt)[1])
        total = number + {"a": 0, "b": number % 10 == 0, "c": 2 * (number % 25 == 0)}[seen.model]
        return Reply(
            text=json.dumps({"name": f"Vendor {number}", "total": total + (seen.model == "b" and number % 25 == 0)})
        )

    vendors.script(ANY, then=extracted)
    consensus = commands(monkeypatch, capsys)
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    rows = tmp_path / "rows.csv"
    rows.write_text("id,prompt\n" + "".join(f"r{n},Invoice {n}\n" for n in range(1, 101)))
    out, review = tmp_path / "out.jsonl", tmp_path / "review.csv"
    panel = ["--flow", "vote", "-m", "openai/a", "-m", "openai/b", "-m", "openai/c", "--extract", "json"]
    ran = consensus("batch", rows, "-o", out, *panel)
    assert ran.code == 2 and "--schema" in ran.err and vendors.count() == 0
    panel += ["--schema", tmp_path / "schema.json"]
    ran = consensus("batch", rows, "-o", out, "--review", review, *panel, "--json")
    assert ran.code == 0 and json.loads(ran.out)["sent_calls"] == 300, ran.err
    found = {row["id"]: row for row in read(out)}
    assert json.loads(found["r7"]["answer"]) == {"name": "Vendor 7", "total": 7} and found["r7"]["split_fields"] is None
    assert found["r10"]["fields"]["total"] == {
        "value": 10,
        "agreement": 0.6667,
        "tie": False,
        "votes": {"10": 2, "11": 1},
    }
    split = {name for name, row in found.items() if row["split_fields"]}
    assert split == {"r25", "r75"} and found["r25"]["split_fields"] == "total" and found["r25"]["share"] == 0.3333
    text = review.read_text()
    assert text.count("\n") == 3 and "split_fields" in text.splitlines()[0]
    assert "total" in text.splitlines()[1] and "total: " in (tmp_path / "review.html").read_text()
    ran = consensus("batch", rows, "-o", tmp_path / "out.csv", *panel, "--limit", "1")
    assert ran.code == 0 and '""total"": {""value"": 1' in (tmp_path / "out.csv").read_text()
    ran = consensus("vote", "Invoice 10", *panel[2:])
    assert ran.code == 0 and json.loads(ran.out)["total"] == 10 and "total = 10 (67 %); 11: openai/b#1" in ran.err
