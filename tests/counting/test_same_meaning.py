"""Readings that say the same in other words are one answer: asked of the model that reads, and never made up."""

import json
from typing import Any

import pytest

from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.vote import run_vote
from consensus_flows.tasks.counting.extraction.extract import extract_all
from consensus_flows.tasks.judging.judgements import same_meaning
from consensus_flows.tasks.judging.readings import comparable, distinct, grouped
from consensus_flows.tasks.readers import UnreadableError
from consensus_flows.tasks.record import Record
from tests.kits.consortium_kit import asked, say
from tests.kits.kinds import kinds
from tests.vendors import LoopbackVendors, Reply, SeenRequest, json_reply

MEMBERS = ["openai/one", "openai/two", "openai/three", "openai/four", "openai/five"]


def read(*texts: str | None) -> list[Any]:
    return extract_all(texts, parse_extraction("llm"))


def heads(texts: list[str], said: dict[str, str]) -> list[str]:
    different = distinct(read(*texts))
    return [found.text for found in grouped(different, said).values()]


# What is read and grouped.


def test_each_label_is_itself_or_one_before_it():
    schema: Any = same_meaning(3).json_schema()
    assert schema["properties"]["same_as"]["properties"]["B"]["enum"] == ["A", "B"]
    said = {"A": "A", "B": "A", "C": "C"}
    assert same_meaning(3).read(json.dumps({"same_as": said})).same_as.model_dump() == said


@pytest.mark.parametrize(
    "said",
    [
        {"A": "A", "B": "A"},
        {"A": "B", "B": "B", "C": "C"},
        {"A": "A", "B": "A", "C": "France"},
        {"A": "A", "B": "A", "C": None},
        {"A": "A", "B": "A", "C": "C", "D": "A"},
        ["A", "A", "C"],
    ],
)
def test_nothing_else_can_be_said(said):
    with pytest.raises(UnreadableError, match="same_as"):
        same_meaning(3).read(json.dumps({"same_as": said}))


def test_a_group_is_shown_as_its_first():
    said = {"A": "A", "B": "A", "C": "B", "D": "D"}
    assert heads(["USA", "United States", "America", "Canada"], said) == ["USA", "USA", "USA", "Canada"]


def test_numbers_that_differ_are_never_one_answer():
    assert heads(["twelve", "12", "13"], {"A": "A", "B": "A", "C": "A"}) == ["twelve", "twelve", "13"]
    assert heads(["12", "13", "twelve"], {"A": "A", "B": "A", "C": "A"}) == ["12", "13", "12"]
    assert heads(["12", "13", "a baker's dozen"], {"A": "A", "B": "A", "C": "B"}) == ["12", "13", "13"]


def test_only_what_may_be_one_answer_is_asked_about():
    assert comparable(distinct(read("Paris", "Rome", "paris")))
    assert not comparable(distinct(read("Paris", "paris", None)))
    assert not comparable(distinct(read("12", "12.0", "13"))), "two numbers are equal or not"
    assert comparable(distinct(read("12", "twelve")))
    assert not comparable([])


# In a vote.

pytest_calls = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
SAME = {"USA": "America", "United States": "America", "the US": "America", "Canada": "Canada"}


def reader(seen: SeenRequest) -> Reply:
    """Reads a country out of a text, and knows which are the same."""
    if "same_as" not in (seen.schema or {}).get("properties", {}):
        return json_reply({"answer": next((name for name in SAME if name in seen.prompt), "")})
    fields = seen.schema["properties"]["same_as"]["required"] if seen.schema else []
    shown = [line for line in seen.prompt.splitlines() if line in SAME]
    first = {meaning: label for label, meaning in reversed(list(zip(fields, map(SAME.get, shown), strict=True)))}
    return json_reply({"same_as": {label: first[SAME[name]] for label, name in zip(fields, shown, strict=True)}})


async def elect(vendors: LoopbackVendors, *texts: str, **settings: Any) -> Record:
    names = ["one", "two", "three", "four", "five"][: len(texts)]
    say(vendors, **dict(zip(names, texts, strict=True)))
    given = {"members": MEMBERS[: len(texts)], "extract": "llm", "extractor": "openai/reader"}
    return await run_vote("Where?", VoteConfig.model_validate(given | settings))


def comparisons(vendors: LoopbackVendors) -> list[SeenRequest]:
    return [seen for seen in asked(vendors, "reader") if "same_as" in (seen.schema or {}).get("properties", {})]


class TestVote:
    pytestmark = pytest_calls

    async def test_two_names_of_one_answer_outvote_another(self, vendors):
        vendors.script("reader", then=reader)
        texts = ("It is Canada, eh", "In the USA", "Canada!", "The United States, surely", "Why, the US")
        record = await elect(vendors, *texts)
        assert (record.answer, record.tie, record.agreement) == ("USA", False, 0.6)
        assert [(one.answer, one.votes) for one in record.tally] == [("USA", 3), ("Canada", 2)]
        assert [one.answer for one in record.votes] == ["Canada", "USA", "Canada", "USA", "USA"]
        assert record.full_text == "In the USA"
        assert record.iterations[0].judgements[-1].member == "openai/reader compares 4 readings"
        assert record.calls == len(record.calls_made()) == vendors.count() == 11
        (compared,) = comparisons(vendors)
        assert compared.prompt.count("Canada") == 1, "nobody is told how many said it"
        assert "one#1" not in compared.prompt
        assert "openai" not in compared.prompt
        again = await elect(vendors, *texts)
        assert (vendors.count(), again.answer, again.cached_calls) == (11, "USA", again.calls)

    async def test_one_answer_is_not_compared(self, vendors):
        vendors.script("reader", then=reader)
        record = await elect(vendors, "Canada", "Canada it is", "Canada, Canada")
        assert (record.unanimous, len(comparisons(vendors))) == (True, 0)

    async def test_it_may_stop_early_on_one_answer_in_two_wordings(self, vendors):
        vendors.script("reader", then=reader)
        record = await elect(vendors, "the USA", "the United States", "Canada", stop_when=2)
        assert (record.status, record.answer, vendors.count("three")) == ("agreed", "USA", 0)
        assert len(comparisons(vendors)) == 1

    async def test_a_wave_without_a_new_answer_asks_nothing(self, vendors):
        vendors.script("reader", then=reader)
        record = await elect(vendors, "the USA", "Canada", "in Canada", "oh Canada", stop_when=3)
        assert (record.answer, len(comparisons(vendors))) == ("Canada", 1)

    async def test_what_cannot_be_compared_counts_as_it_is_written(self, vendors):
        def rubbish(seen: SeenRequest) -> Reply:
            said = reader(seen)
            return Reply(text="rubbish") if seen in comparisons(vendors) or "same_as" in seen.prompt else said

        vendors.script("reader", then=rubbish)
        record = await elect(vendors, "the USA", "the United States", "Canada", "Canada, I say")
        assert (record.answer, record.degraded) == ("Canada", True)
        assert [one.votes for one in record.tally] == [2, 1, 1]
        assert ("not_merged", "openai/reader", None) in kinds(record)
