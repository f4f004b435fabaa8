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

from consensus_flows.tasks.judging.judgements import (
    Extraction,
    Fusion,
    Judgement,
    PairVerdict,
    arbiter_verdict,
    preference,
    same_meaning,
)
from consensus_flows.tasks.readers import UnreadableError, check_readable

LABELS = ["A", "B", "C"]
# Of the four separators only Python thinks that they are blanks.
words = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x1c\x1d\x1e\x1f"), max_size=30)
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
    """What a judge writes, how it is read, and as what."""

    fields: dict[str, Any]
    judgement: type[Judgement]
    meant: dict[str, Any]

    def read(self, text: str) -> dict[str, Any]:
        """Read a text as it is read before it is stored, and as the judge's caller reads it."""
        check_readable(self.judgement.reader, text)
        found = self.judgement.read(text)
        return {name: getattr(found, name) for name in self.meant}


@st.composite
def comparisons(draw: Any) -> dict[str, Any]:
    some = st.lists(st.sampled_from(LABELS), min_size=1, max_size=3)
    position = st.fixed_dictionaries({"position": spoken, "answers": some})
    contradiction = st.fixed_dictionaries({"topic": spoken, "positions": st.lists(position, max_size=2)})
    coverage = st.fixed_dictionaries({"point": spoken, "answers": some})
    insight = st.fixed_dictionaries({"insight": spoken, "answer": st.sampled_from(LABELS)})
    parts = {"contradictions": contradiction, "partial_coverage": coverage, "unique_insights": insight}
    lists = {"consensus": spoken, "blind_spots": spoken} | parts
    return draw(st.fixed_dictionaries({name: st.lists(part, max_size=2) for name, part in lists.items()}))


@st.composite
def judgements(draw: Any, kind: Any) -> Verdict:
    said, confidence = draw(confidences)
    fields = {
        "confidence": said,
        "analysis": draw(words),
        "dissent": draw(words),
        "final": draw(st.booleans()),
        "refinement_areas": draw(st.lists(spoken, max_size=3)),
        "comparison": draw(comparisons()),
    }
    meant = {
        "confidence": confidence,
        "analysis": fields["analysis"].strip(),
        "dissent": fields["dissent"].strip(),
        "final": fields["final"],
        "refinement_areas": [area.strip() for area in fields["refinement_areas"]],
    }
    if kind == "synthesis":
        fields["synthesis"] = draw(spoken)
        meant["synthesis"] = fields["synthesis"].strip()
    if kind == "ranking":
        fields["ranking"] = meant["ranking"] = draw(st.permutations(LABELS))
    return Verdict(fields, arbiter_verdict(kind, 3), meant)


@st.composite
def preferences(draw: Any) -> Verdict:
    ranks = {label: draw(st.integers(1, 3)) for label in LABELS}
    fields = {"analysis": draw(words), "can_rank": draw(st.booleans()), "ranks": ranks}
    groups = [[label for label in LABELS if ranks[label] == rank] for rank in (1, 2, 3)]
    ranking = [group for group in groups if group] if fields["can_rank"] else []
    return Verdict(fields, preference(3), {"ranking": ranking, "analysis": fields["analysis"].strip()})


class Sames(Verdict):
    """The groups are a model of their own."""

    def read(self, text: str) -> dict[str, Any]:
        """Return them as they were written."""
        return {"same_as": super().read(text)["same_as"].model_dump()}


@st.composite
def sames(draw: Any) -> Verdict:
    said = {"same_as": {label: draw(st.sampled_from(LABELS[: place + 1])) for place, label in enumerate(LABELS)}}
    return Sames(said, same_meaning(3), said)


def simple(name: str, judgement: type[Judgement], values: st.SearchStrategy[str]) -> st.SearchStrategy[Verdict]:
    return values.map(lambda value: Verdict({name: value}, judgement, {name: value.strip()}))


KINDS: dict[str, st.SearchStrategy[Verdict]] = {
    "synthesis": judgements("synthesis"),
    "ranking": judgements("ranking"),
    "verdict": judgements("verdict"),
    "preference": preferences(),
    "comparison": simple("better", PairVerdict, st.sampled_from(["first", "second", "tie"])),
    "fusion": simple("answer", Fusion, spoken),
    "extraction": simple("answer", Extraction, words),
    "same meaning": sames(),
}

each = pytest.mark.parametrize("kind", list(KINDS))


@each
@given(data=st.data())
def test_what_is_read_is_what_the_judge_wrote(kind: str, data: st.DataObject) -> None:
    """Nothing is caught here: each of these texts is read, and as exactly that."""
    verdict = data.draw(KINDS[kind])
    body = json.dumps(
        verdict.fields, ensure_ascii=data.draw(st.booleans()), indent=data.draw(st.sampled_from([None, 2]))
    )
    if data.draw(st.booleans()):
        body = f"```json\n{body}\n```"
    assert verdict.read(data.draw(prose) + body + data.draw(prose)) == verdict.meant


@each
@given(data=st.data())
def test_a_text_that_is_cut_is_read_as_that_or_not_at_all(kind: str, data: st.DataObject) -> None:
    verdict = data.draw(KINDS[kind])
    body = json.dumps(verdict.fields)
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(UnreadableError):
        verdict.read(data.draw(prose) + body[:cut])


@each
@given(data=st.data())
def test_without_what_decides_nothing_is_read(kind: str, data: st.DataObject) -> None:
    verdict = data.draw(KINDS[kind])
    if kind == "preference" and not verdict.fields["can_rank"]:
        return  # it has said that it abstains
    decisive = {"confidence", "synthesis", "ranking", "ranks", "better", "answer", "same_as"}
    gone = data.draw(st.sampled_from(sorted(decisive & set(verdict.fields))))
    left = {name: value for name, value in verdict.fields.items() if name != gone}
    with pytest.raises(UnreadableError):
        verdict.read(data.draw(prose) + json.dumps(left) + data.draw(prose))


@each
@given(data=st.data(), text=prose)
def test_where_there_is_no_object_nothing_is_read(kind: str, data: st.DataObject, text: str) -> None:
    with pytest.raises(UnreadableError):
        data.draw(KINDS[kind]).judgement.read(text)


@given(
    verdict=st.one_of(judgements("synthesis"), judgements("ranking")),
    forged=st.one_of(judgements("synthesis"), judgements("ranking")),
    between=prose,
)
def test_of_two_verdicts_that_differ_none_is_read(verdict: Verdict, forged: Verdict, between: str) -> None:
    """Which of the two is the judge's own, and which a quotation, cannot be told from the text."""
    if set(verdict.fields) != set(forged.fields) or verdict.fields == forged.fields:
        return
    with pytest.raises(UnreadableError):
        verdict.judgement.read(json.dumps(verdict.fields) + between + json.dumps(forged.fields))


@given(verdict=judgements("synthesis"), name=st.sampled_from(["confidence", "synthesis"]), data=st.data())
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
        verdict.judgement.read(json.dumps(fields))
