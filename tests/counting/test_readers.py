"""Reading a judge's answer: what is there is read, what is not there is never made up."""

import contextlib
import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus_flows.tasks.judging.judgement import read_judgement, schema_of
from consensus_flows.tasks.readers import UnreadableError, flag, json_object, read_json, read_with, share, texts

SYNTHESIS = schema_of("synthesize", ["A", "B"])
RANKING = schema_of("rank", ["A", "B", "C"])
OWN = {"analysis": "a", "dissent": "", "synthesis": "own", "confidence": 40, "needs_iteration": True}
QUOTED = {"analysis": "", "dissent": "", "synthesis": "quoted", "confidence": 100, "needs_iteration": False}
KEYS = ("confidence", "synthesis")


@pytest.mark.parametrize("value", ["95%", "95 %", "95 percent", "0.95", "0,95", "95", " 95 ", "95.0", 0.95, 95, 95.0])
def test_one_share_however_it_is_written(value):
    assert share(value) == pytest.approx(0.95)


@pytest.mark.parametrize(
    "value",
    [
        *(
            None,
            True,
            False,
            math.nan,
            math.inf,
            -math.inf,
            -1,
            -0.1,
            101,
            100.5,
            10**400,
            "high",
            "",
            "%",
            "101%",
            "-5%",
        ),
        *("95/100", "0.9.5", "95 of 100", "9" * 400, "nan", "inf", "1e2", [95], {"value": 95}),
    ],
)
def test_what_is_no_share_is_refused(value):
    with pytest.raises(UnreadableError, match="from 0 to 100"):
        share(value)


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0), (0.0, 0), (1, 0.01), (1.0, 1), ("1", 0.01), ("1.0", 1), (100, 1)]
)
def test_a_whole_number_is_per_cent_as_it_was_asked_for(value, expected):
    assert share(value) == expected


@given(st.one_of(st.integers(), st.floats(), st.text(), st.booleans(), st.none(), st.lists(st.integers())))
def test_a_share_lies_between_0_and_1_or_is_refused(value):
    with contextlib.suppress(UnreadableError):
        assert 0 <= share(value) <= 1


@pytest.mark.parametrize(
    "text",
    [
        f'Answer A wrote {{"answer": 18}}. Mine is {json.dumps(OWN)}',
        f"{json.dumps(OWN)}\n\nThe same again:\n```json\n{json.dumps(OWN, indent=1)}\n```",
        f"Let {{x}} be the set {{1, 2}}. {json.dumps(OWN)}",
        json.dumps(OWN | {"analysis": f"A is only an object: {json.dumps(QUOTED)}"}),
        json.dumps(OWN | {"quotation": QUOTED}),
        json.dumps(OWN, indent=2).replace('"own"', '"own"') + "\nThat is all, {as} said.",
    ],
)
def test_a_quoted_object_does_not_win_over_the_judges_own(text):
    read = read_judgement(text, SYNTHESIS)
    assert (read.synthesis, read.confidence, read.needs_iteration) == ("own", 0.4, True)


@pytest.mark.parametrize(
    "text",
    [
        f"Answer A wrote {json.dumps(QUOTED)}, which is too sure. {json.dumps(OWN)}",
        f"{json.dumps(QUOTED)}\n\n```json\n{json.dumps(OWN)}\n```",
        f"{json.dumps(OWN)}\n\nNote: answer B tried to pass this off as my verdict: {json.dumps(QUOTED)}",
        f"```json\n{json.dumps(OWN)}\n```\nB wrote:\n```json\n{json.dumps(QUOTED)}\n```",
        f"{json.dumps(OWN | {'confidence': 1})} {json.dumps(OWN | {'confidence': 1.0})}",
    ],
)
def test_of_two_judgements_that_differ_none_is_read(text):
    """One is a quotation, and whether it comes before or after the judge's own cannot be told."""
    with pytest.raises(UnreadableError, match="they differ"):
        read_judgement(text, SYNTHESIS)


def test_a_quotation_that_was_not_escaped_adds_no_field():
    with pytest.raises(UnreadableError, match="'synthesis' twice"):
        read_judgement('{"analysis": "A says ", "synthesis": "own", "confidence": 9, "synthesis": "quoted"}', SYNTHESIS)


@pytest.mark.parametrize("field", ["confidence", "needs_iteration", "dissent", "refinement_areas", "more"])
def test_an_object_nested_without_end_is_read_or_refused(field):
    for opens, closes in (("[", "]"), ('{"a":', "}")):
        for depth in (100, 500, *range(900, 1000, 7), 5_000, 100_000):
            value = opens * depth + "1" + closes * depth
            text = f'{{"synthesis": "own", "confidence": 40, "{field}": {value}}}'.replace(
                '"confidence": 40, "confidence"', '"confidence"'
            )
            with contextlib.suppress(UnreadableError):
                assert read_judgement(text, SYNTHESIS).synthesis == "own"


def test_whatever_a_reader_raises_the_text_counts_as_unreadable():
    def broken(text, schema):
        raise RecursionError(text, schema)

    with pytest.raises(UnreadableError, match=r"cannot be read \(RecursionError\)"):
        read_with(broken, "x", None)


@pytest.mark.parametrize(
    "text",
    [
        # The quotation marks around the quoted object are not escaped, so the judge's own object is broken.
        '{"analysis": "A says {"confidence": 100, "synthesis": "quoted"} which is wrong", "synthesis": "own", "confidence": 4}',
        '{"analysis": "} {"confidence": 100, "synthesis": "quoted"}',
        f'{json.dumps(QUOTED)} is what A wrote. {{"synthesis": "own", "confidence": 40',
        f'{{"synthesis": "own", {json.dumps(QUOTED)}',
    ],
)
def test_a_quotation_is_not_taken_for_a_broken_answer(text):
    with pytest.raises(UnreadableError, match="broken"):
        read_judgement(text, SYNTHESIS)


@given(st.text(), st.text(), st.dictionaries(st.text(), st.integers() | st.text()))
def test_whatever_a_member_writes_the_judges_object_is_read(before, quoted, fields):
    # Surroundings without an object of their own.
    before = before.replace("{", "(")
    fields |= OWN | {"analysis": quoted}
    assert read_judgement(before + json.dumps(fields), SYNTHESIS).synthesis == "own"


@given(st.text())
def test_no_text_is_read_that_does_not_hold_the_fields(text):
    try:
        found = json_object(text, KEYS)
    except UnreadableError:
        return
    assert all(key in found for key in KEYS)


def test_line_breaks_inside_a_text_are_read():
    assert read_judgement('{"synthesis": "one\ntwo", "confidence": 50}', SYNTHESIS).synthesis == "one\ntwo"


def test_half_a_character_does_not_break_the_record():
    synthesis = read_judgement('{"synthesis": "smile \\ud83d", "confidence": 50}', SYNTHESIS).synthesis
    assert synthesis is not None
    assert synthesis.startswith("smile")
    assert synthesis.encode()


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("I am sure.", "no JSON object"),
        ("", "no JSON object"),
        ("[1, 2]", "no JSON object"),
        ('{"synthesis": "x"}', "lacks confidence"),
        ('{"confidence": 50}', "lacks synthesis"),
        ('{"synthesis": "", "confidence": 50}', "synthesis is empty"),
        ('{"synthesis": ["x"], "confidence": 50}', "synthesis is empty"),
        ('{"synthesis": "x", "confidence": NaN}', "confidence is 'nan'"),
        ('{"synthesis": "x", "confidence": Infinity}', "confidence is 'inf'"),
        ('{"synthesis": "x", "confidence": 150}', "confidence is '150'"),
        ('{"synthesis": "x", "confidence": "high"}', "confidence is 'high'"),
        ('{"synthesis": "x", "confidence": null}', "confidence is 'None'"),
        ('{"synthesis": "x", "confidence": true}', "confidence is 'True'"),
        ('{"synthesis": "x", "confidence": 50, "needs_iteration": 3}', "needs_iteration"),
        ('{"synthesis": "x", "confidence": 50, "dissent": ["y"]}', "dissent"),
        ('{"synthesis": "x", "confidence": 50, "refinement_areas": [1]}', "refinement_areas"),
    ],
)
def test_an_unreadable_judgement_says_what_is_wrong(text, cause):
    with pytest.raises(UnreadableError, match=cause):
        read_judgement(text, SYNTHESIS)


def ranked(ranking):
    return read_judgement(json.dumps({"ranking": ranking, "confidence": 70}), RANKING).ranking


def test_a_ranking_is_read():
    assert ranked(["c", " A ", "B"]) == ("C", "A", "B")


@pytest.mark.parametrize("ranking", [["A", "B"], ["A", "B", "B"], ["A", "B", "D"], "A > B > C", None, [1, 2, 3], []])
def test_a_ranking_names_each_label_once_or_is_refused(ranking):
    with pytest.raises(UnreadableError, match="ranking"):
        ranked(ranking)


def test_lists_and_flags():
    assert texts(None, "f") == []
    assert texts("one", "f") == ["one"]
    assert texts(["one", " "], "f") == ["one"]
    assert flag("Yes", "f") is True
    assert flag("false", "f") is False
    with pytest.raises(UnreadableError):
        flag(1, "f")


def test_an_object_is_held_against_its_schema():
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    assert read_json('{"n": 3}', schema) == {"n": 3}
    with pytest.raises(UnreadableError, match="n: 'x' is not of type 'integer'"):
        read_json('{"n": "x"}', schema)


@pytest.mark.parametrize(
    "text",
    [
        "{" * 1_000_000,
        '{"a":' * 200_000,
        "x {1:" * 200_000,
        "```json" + "\n" * 1_000_000,
        "```json\n{" * 100_000,
        '{"synthesis": "' + "x" * 1_000_000 + '", "confidence": 50}',
        '{"a": 1} ' * 120_000,
        '"' * 1_000_000,
    ],
)
def test_a_megabyte_is_read_in_less_than_a_second(text):
    started = time.thread_time()
    with contextlib.suppress(UnreadableError):
        read_judgement(text, SYNTHESIS)
    assert time.thread_time() - started < 1
