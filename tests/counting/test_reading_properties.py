"""What is read of a judge's answer stands in what the judge wrote; whatever is done to the text, nothing is invented.

Each reader has what a judge would write, and what it must be read as. The text is then wrapped, cut and changed.
"""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus_flows.tasks.calls import embeddings
from consensus_flows.tasks.judging import text_hearing
from consensus_flows.tasks.judging.extract_by_model import read_extraction
from consensus_flows.tasks.judging.judgement import Judgement, read_judgement, schema_of
from consensus_flows.tasks.judging.pairwise import read_comparison, read_fusion
from consensus_flows.tasks.judging.preference_judgement import Preference, preference_schema, read_preference
from consensus_flows.tasks.judging.same_meaning import read_same, same_schema
from consensus_flows.tasks.readers import UnreadableError, _readers, read_json

LABELS = ["A", "B", "C"]
words = st.text(alphabet=st.characters(codec="utf-8"), max_size=30)
spoken = words.filter(lambda text: text.strip())
prose = st.text(alphabet=string.ascii_letters + string.digits + " .,:;%\n*#()<>/`\"'", max_size=60)
"""What a judge says beside its JSON object: no braces, which would be objects of their own."""
confidences = st.one_of(
    st.integers(0, 100).map(lambda value: (value, value / 100)),
    st.integers(0, 100).map(lambda value: (f"{value}%", value / 100)),
    st.floats(0, 1).map(lambda value: (value, value)),
)


@dataclass
class Verdict:
    """What a judge writes, and what it is read as."""

    fields: dict[str, Any]
    schema: dict[str, Any]
    meant: Any


@st.composite
def judgements(draw: Any, method: Any) -> Verdict:
    said, confidence = draw(confidences)
    fields = {
        "confidence": said,
        "analysis": draw(words),
        "dissent": draw(words),
        "needs_iteration": draw(st.booleans()),
        "refinement_areas": draw(st.lists(spoken, max_size=3)),
    }
    result: Any = draw(spoken) if method == "synthesize" else draw(st.permutations(LABELS))
    fields["synthesis" if method == "synthesize" else "ranking"] = result
    meant = Judgement(
        confidence=confidence,
        analysis=fields["analysis"].strip(),
        dissent=fields["dissent"].strip(),
        needs_iteration=fields["needs_iteration"],
        refinement_areas=fields["refinement_areas"],
        synthesis=result if method == "synthesize" else None,
        ranking=() if method == "synthesize" else tuple(result),
    )
    return Verdict(fields, schema_of(method, LABELS), meant)


@st.composite
def preferences(draw: Any) -> Verdict:
    ranks = {label: draw(st.integers(1, 3)) for label in LABELS}
    fields = {"analysis": draw(words), "can_rank": draw(st.booleans()), "ranks": ranks}
    groups = [tuple(label for label in LABELS if ranks[label] == rank) for rank in (1, 2, 3)]
    ranking = tuple(group for group in groups if group) if fields["can_rank"] else ()
    return Verdict(fields, preference_schema(LABELS), Preference(ranking, fields["analysis"].strip()))


@st.composite
def sames(draw: Any) -> Verdict:
    said = {label: draw(st.sampled_from(LABELS[: place + 1])) for place, label in enumerate(LABELS)}
    return Verdict({"same_as": said}, same_schema(LABELS), said)


def simple(name: str, values: st.SearchStrategy[str]) -> st.SearchStrategy[Verdict]:
    return values.map(lambda value: Verdict({name: value}, {}, value.strip()))


@st.composite
def objects(draw: Any) -> Verdict:
    fields = {"a": draw(words), "b": draw(st.integers(-9, 9))}
    properties = {"a": {"type": "string"}, "b": {"type": "integer"}}
    return Verdict(fields, {"type": "object", "properties": properties, "required": ["a", "b"]}, fields)


KINDS: dict[str, tuple[str, Any, st.SearchStrategy[Verdict]]] = {
    "synthesis": ("judgement", read_judgement, judgements("synthesize")),
    "ranking": ("judgement", read_judgement, judgements("rank")),
    "preference": ("preference", read_preference, preferences()),
    "comparison": ("comparison", read_comparison, simple("better", st.sampled_from(["first", "second", "tie"]))),
    "fusion": ("fusion", read_fusion, simple("answer", spoken)),
    "extraction": ("extraction", read_extraction, simple("answer", words)),
    "same meaning": ("same_meaning", read_same, sames()),
    "any object": ("json", read_json, objects()),
}
NO_OBJECT = {embeddings.READER, text_hearing.READER}
"""Readers of something else than a judge's JSON object."""

each = pytest.mark.parametrize("kind", list(KINDS))


def test_no_reader_is_left_out() -> None:
    assert {name for name, _, _ in KINDS.values()} | NO_OBJECT == set(_readers)


@each
@given(data=st.data())
def test_what_is_read_is_what_the_judge_wrote(kind: str, data: st.DataObject) -> None:
    """Nothing is caught here: each of these texts is read, and as exactly that."""
    _, read, verdicts = KINDS[kind]
    verdict = data.draw(verdicts)
    body = json.dumps(
        verdict.fields, ensure_ascii=data.draw(st.booleans()), indent=data.draw(st.sampled_from([None, 2]))
    )
    if data.draw(st.booleans()):
        body = f"```json\n{body}\n```"
    assert read(data.draw(prose) + body + data.draw(prose), verdict.schema) == verdict.meant


@each
@given(data=st.data())
def test_a_text_that_is_cut_is_read_as_that_or_not_at_all(kind: str, data: st.DataObject) -> None:
    _, read, verdicts = KINDS[kind]
    verdict = data.draw(verdicts)
    body = json.dumps(verdict.fields)
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(UnreadableError):
        read(data.draw(prose) + body[:cut], verdict.schema)


@each
@given(data=st.data())
def test_without_what_decides_nothing_is_read(kind: str, data: st.DataObject) -> None:
    _, read, verdicts = KINDS[kind]
    verdict = data.draw(verdicts)
    if kind == "preference" and not verdict.fields["can_rank"]:
        return  # it has said that it abstains
    decisive = {"confidence", "synthesis", "ranking", "ranks", "better", "answer", "same_as", "a", "b"}
    gone = data.draw(st.sampled_from(sorted(decisive & set(verdict.fields))))
    left = {name: value for name, value in verdict.fields.items() if name != gone}
    with pytest.raises(UnreadableError):
        read(data.draw(prose) + json.dumps(left) + data.draw(prose), verdict.schema)


@each
@given(text=prose)
def test_where_there_is_no_object_nothing_is_read(kind: str, text: str) -> None:
    with pytest.raises(UnreadableError):
        KINDS[kind][1](text, preference_schema(LABELS) if kind == "preference" else schema_of("synthesize", LABELS))


@given(
    verdict=st.one_of(judgements("synthesize"), judgements("rank")),
    forged=st.one_of(judgements("synthesize"), judgements("rank")),
    between=prose,
)
def test_of_two_verdicts_that_differ_none_is_read(verdict: Verdict, forged: Verdict, between: str) -> None:
    """Which of the two is the judge's own, and which a quotation, cannot be told from the text."""
    if set(verdict.fields) != set(forged.fields) or verdict.fields == forged.fields:
        return
    with pytest.raises(UnreadableError):
        read_judgement(json.dumps(verdict.fields) + between + json.dumps(forged.fields), verdict.schema)


@given(verdict=judgements("synthesize"), name=st.sampled_from(["confidence", "synthesis"]), data=st.data())
def test_a_field_of_another_kind_is_not_read(verdict: Verdict, name: str, data: st.DataObject) -> None:
    wrong = {
        "confidence": st.one_of(
            st.none(),
            st.booleans(),
            st.integers(max_value=-1),
            st.integers(min_value=101),
            st.floats(allow_nan=True).filter(lambda value: not 0 <= value <= 100),
            st.sampled_from(["", "high", "-1%", "101%", "1e9"]),
            st.lists(st.integers(), max_size=2),
        ),
        "synthesis": st.one_of(
            st.none(), st.booleans(), st.integers(), st.sampled_from(["", "  \n"]), st.lists(words, max_size=2)
        ),
    }
    fields = verdict.fields | {name: data.draw(wrong[name])}
    with pytest.raises(UnreadableError):
        read_judgement(json.dumps(fields), verdict.schema)
