"""Reading a judge's answer: what is there is read, what is not there is never made up."""

import contextlib
import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus_flows.tasks.judging.judgements import arbiter_verdict
from consensus_flows.tasks.readers import UnreadableError, json_object, read_with, share

SYNTHESIS = arbiter_verdict("synthesis", 2)
RANKING = arbiter_verdict("ranking", 3)
OWN = {"analysis": "a", "dissent": "", "synthesis": "own", "confidence": 40, "final": False}
QUOTED = {"analysis": "", "dissent": "", "synthesis": "quoted", "confidence": 100, "final": True}
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
    read = SYNTHESIS.read(text)
    assert (read.synthesis, read.confidence, read.final) == ("own", 0.4, False)


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
        SYNTHESIS.read(text)


def test_a_quotation_that_was_not_escaped_adds_no_field():
    with pytest.raises(UnreadableError, match="'synthesis' twice"):
        SYNTHESIS.read('{"analysis": "A says ", "synthesis": "own", "confidence": 9, "synthesis": "quoted"}')


@pytest.mark.parametrize("field", ["confidence", "final", "dissent", "refinement_areas", "more"])
def test_an_object_nested_without_end_is_read_or_refused(field):
    for opens, closes in (("[", "]"), ('{"a":', "}")):
        for depth in (100, 500, *range(900, 1000, 7), 5_000, 100_000):
            value = opens * depth + "1" + closes * depth
            text = f'{{"synthesis": "own", "confidence": 40, "{field}": {value}}}'.replace(
                '"confidence": 40, "confidence"', '"confidence"'
            )
            with contextlib.suppress(UnreadableError):
                assert SYNTHESIS.read(text).synthesis == "own"


def test_whatever_a_reader_raises_the_text_counts_as_unreadable():
    def broken(text):
        raise RecursionError(text)

    with pytest.raises(UnreadableError, match=r"cannot be read \(RecursionError\)"):
        read_with(broken, "x")


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
        SYNTHESIS.read(text)


@given(st.text(), st.text(), st.dictionaries(st.text(), st.integers() | st.text()))
def test_whatever_a_member_writes_the_judges_object_is_read(before, quoted, fields):
    # Surroundings without an object of their own.
    before = before.replace("{", "(")
    fields |= OWN | {"analysis": quoted}
    assert SYNTHESIS.read(before + json.dumps(fields)).synthesis == "own"


@given(st.text())
def test_no_text_is_read_that_does_not_hold_the_fields(text):
    try:
        found = json_object(text, KEYS)
    except UnreadableError:
        return
    assert all(key in found for key in KEYS)


def test_line_breaks_inside_a_text_are_read():
    assert SYNTHESIS.read('{"synthesis": "one\ntwo", "confidence": 50}').synthesis == "one\ntwo"


def test_half_a_character_does_not_break_the_record():
    synthesis = SYNTHESIS.read('{"synthesis": "smile \\ud83d", "confidence": 50}').synthesis
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
        ('{"synthesis": "", "confidence": 50}', "synthesis: String should have at least 1 character"),
        ('{"synthesis": ["x"], "confidence": 50}', "synthesis: Input should be a valid string"),
        ('{"synthesis": "x", "confidence": NaN}', "confidence is 'nan'"),
        ('{"synthesis": "x", "confidence": Infinity}', "confidence is 'inf'"),
        ('{"synthesis": "x", "confidence": 150}', "confidence is '150'"),
        ('{"synthesis": "x", "confidence": "high"}', "confidence is 'high'"),
        ('{"synthesis": "x", "confidence": null}', "confidence is 'None'"),
        ('{"synthesis": "x", "confidence": true}', "confidence is 'True'"),
        ('{"synthesis": "x", "confidence": 50, "final": 3}', "final: Input should be a valid boolean"),
        ('{"synthesis": "x", "confidence": 50, "dissent": ["y"]}', "dissent"),
        ('{"synthesis": "x", "confidence": 50, "refinement_areas": [1]}', "refinement_areas"),
    ],
)
def test_an_unreadable_judgement_says_what_is_wrong(text, cause):
    with pytest.raises(UnreadableError, match=cause):
        SYNTHESIS.read(text)


def ranked(ranking):
    return tuple(RANKING.read(json.dumps({"ranking": ranking, "confidence": 70})).ranking)


def test_a_ranking_is_read():
    assert ranked(["c", " A ", "B"]) == ("C", "A", "B")


@pytest.mark.parametrize("ranking", [["A", "B"], ["A", "B", "B"], ["A", "B", "D"], "A > B > C", None, [1, 2, 3], []])
def test_a_ranking_names_each_label_once_or_is_refused(ranking):
    with pytest.raises(UnreadableError, match="ranking"):
        ranked(ranking)


def test_remarks_are_read_as_judges_write_them():
    def read(**fields):
        return SYNTHESIS.read(json.dumps({"synthesis": " x ", "confidence": 50} | fields))

    assert (read().synthesis, read().final, read().comparison, read().refinement_areas) == ("x", True, None, [])
    assert read(refinement_areas=None).refinement_areas == []
    assert read(refinement_areas="one").refinement_areas == ["one"]
    assert read(refinement_areas=["one", ""]).refinement_areas == ["one"]
    assert read(dissent=None).dissent == ""
    assert read(final="no").final is False


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
        SYNTHESIS.read(text)
    assert time.thread_time() - started < 1
