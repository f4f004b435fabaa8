"""Labeled rows: what is read of them, what is refused before any call, and what answers cost."""

import base64
import json

import pytest

from consensus_flows.blocks.calibration import Calibration
from consensus_flows.flows.evaluate import from_recorded
from consensus_flows.tasks.batches.source import Source
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.evaluation.labelled import (
    Question,
    calibrated_on,
    ids_digest,
    read_answers,
    read_prices,
    read_questions,
    read_recorded,
)
from tests.kits.evaluation_kit import recorded_rows, write_rows

A, B = "openai/a", "openai/b"


def answered(path, extract=None, members=(), prices=None):
    return read_answers(read_recorded(str(path), "gold", extract, None, None), members, extract, prices)


def labeled(path, rows):
    return write_rows(path, ({"id": n, "prompt": f"What is {n}?", "gold": str(n)} | row for n, row in enumerate(rows)))


def test_texts_are_read_like_votes_and_answers_that_were_read_are_taken_as_they_are(tmp_path):
    rows = [
        {
            "id": n,
            "gold": "18",
            "answers": {
                A: {"answer": None, "text": 'So {"answer": "$18.00"}'},
                B: {"answer": "18"},
            },
        }
        for n in range(10)
    ]
    path = write_rows(tmp_path / "out.jsonl", rows)
    assert all(one.answer == row.label for row in answered(path, "json:answer").rows for one in row.answers)
    plain = answered(path)
    assert [one.answer == plain.rows[0].label for one in plain.rows[0].answers] == [False, True]


def test_the_order_of_the_members_is_that_which_is_given(tmp_path):
    path = recorded_rows(tmp_path / "out.jsonl", {A: lambda n: 1, B: lambda n: 2})
    assert answered(path).members == (A, B)
    assert answered(path, members=[B, A]).members == (B, A)
    with pytest.raises(ConfigurationError, match="no answer of openai/c is recorded; recorded are openai/a, openai/b"):
        answered(path, members=[A, "openai/c"])


def test_a_first_id_of_zero_is_an_id(tmp_path):
    rows = [{"id": n, "gold": 7, "answers": {A: {"answer": 7}, B: {"answer": 8}}} for n in range(10)]
    assert answered(write_rows(tmp_path / "out.jsonl", rows)).rows[0].id == "0"


def test_missing_and_failed_answers_are_counted_and_are_no_votes(tmp_path):
    rows = [
        {"id": n, "gold": 7, "answers": {A: {"answer": 7}} | ({B: {"answer": 7, "error": "timeout"}} if n else {})}
        for n in range(10)
    ]
    found = answered(write_rows(tmp_path / "out.jsonl", rows))
    assert found.missing == {B: 1} and found.failed == {B: 9}
    assert all(row.answers[1].answer is None for row in found.rows)
    assert {note.kind: note.count for note in found.notes} == {"missing": 1, "failed": 9, "unpriced": 1}


def test_an_answer_costs_what_the_row_says_else_its_tokens_times_a_price(tmp_path):
    tokens = {"input_tokens": 1_000_000, "output_tokens": 2_000_000}
    said = {
        "openai/gpt-4o": {"answer": 7, "cost_usd": 0.25},
        "openai/gpt-4o-mini": {"answer": 7, **tokens},
        "mine/llama": {"answer": 7, **tokens},
        "mine/other": {"answer": 7, **tokens},
    }
    path = write_rows(tmp_path / "out.jsonl", ({"id": n, "gold": 7, "answers": said} for n in range(10)))
    prices = tmp_path / "prices.json"
    prices.write_text(json.dumps({"llama": {"input": 1, "output": 2, "source": "of a page"}}))
    found = answered(path, prices=read_prices(prices))
    assert [one.cost_usd for one in found.rows[0].answers] == [0.25, pytest.approx(0.15 + 1.2), 5.0, None]
    kinds = [(note.kind, note.source, note.members) for note in found.notes]
    assert kinds == [("prices", "file", []), ("prices", "table", []), ("unpriced", None, ["mine/other"])]


def test_rows_without_a_label_and_duplicates_are_left_out_and_named(tmp_path):
    rows = [{}] * 12 + [{"gold": ""}, {"prompt": "  what IS 3? "}]
    found = read_questions(Source(str(labeled(tmp_path / "in.jsonl", rows))), "gold", "number")
    assert len(found.questions) == 12
    assert [(note.kind, note.ids) for note in found.notes] == [("unlabelled", ["12"]), ("duplicates", ["13"])]


@pytest.mark.parametrize(
    ("rows", "label", "extract", "message"),
    [
        (
            [{}] * 12,
            "golden",
            "number",
            "label: no column 'golden'. Did you mean gold? The columns are 'id', 'prompt', 'gold'",
        ),
        ([{}] * 11 + [{"gold": "B or C"}], "gold", "number", "label: 1 labels cannot be read as number"),
        ([{}] * 9, "gold", "number", "label: only 9 rows have a label"),
        ([{}] * 12, "gold", "numbers", "extract: unknown extraction 'numbers'"),
        ([{}] * 11 + [{"prompt": ""}], "gold", "number", "input: 1 of 12 rows are invalid"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(rows, label, extract, message, tmp_path):
    with pytest.raises(ConfigurationError) as refused:
        read_questions(Source(str(labeled(tmp_path / "in.jsonl", rows))), label, extract)
    assert refused.value.message.startswith(message)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"openai/a": "7"}, "from: row r0 has no 'answers'"),
        ({"answers": {A: {"answer": "7", "input_tokens": "many"}}}, "from: row r0: answers: input_tokens"),
    ],
)
def test_what_is_no_output_of_a_batch_is_refused(row, message, tmp_path):
    with pytest.raises(ConfigurationError) as refused:
        read_recorded(str(write_rows(tmp_path / "x.jsonl", [{"id": "r0", "gold": 7} | row])), "gold", None, None, None)
    assert refused.value.message.startswith(message)


def test_texts_without_a_way_to_read_them_are_refused(tmp_path):
    said = {A: {"text": "Seven: 7"}, B: {"text": "It is 7."}}
    path = write_rows(tmp_path / "x.jsonl", ({"id": n, "gold": 7, "answers": said} for n in range(10)))
    with pytest.raises(ConfigurationError, match="--extract says how to read the texts"):
        from_recorded(str(path), "gold")
    assert from_recorded(str(path), "gold", extract="number").unanimous.right == 10


def test_a_calibration_knows_its_questions_by_their_text_or_else_by_their_ids():
    def asked(name, prompt):
        return Question(name, prompt, None, None, {})

    def known(*calibrated):
        packed = base64.b64encode(b"".join(one.hashes()[0] for one in calibrated)).decode()
        return Calibration(
            rows=1,
            ids_digest="0",
            date="2026-11-27",
            extract="text",
            accuracy=1,
            interval=[0, 1],
            calls=1,
            unanimous=1,
            sure=0,
            questions=packed,
        )

    new = [asked("1", "What is one?"), asked("2", "What is two?"), asked("3", "What is three?")]
    assert calibrated_on(known(asked("7", " what IS two?")), new) == ["2"]
    assert calibrated_on(known(asked("1", "What is four?")), new) == [], "the number of a row is not a question"
    assert calibrated_on(known(asked("3", None)), new) == ["3"]


def test_the_digest_of_ids_does_not_depend_on_their_order():
    assert ids_digest(["a", "b"]) == ids_digest(["b", "a"]) != ids_digest(["a,b"])
