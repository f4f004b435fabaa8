"""An answer that the extractor could not be asked about is not an abstention; and what the extractor knows."""

import pytest

from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.vote import run_vote
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.counting.extraction.extract import extract
from consensus_flows.tasks.record import Vote
from tests.kits.consortium_kit import asked, say
from tests.kits.kinds import kinds
from tests.vendors import Reply, faults, json_reply

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
MEMBERS = ["openai/one", "openai/two", "openai/three"]


def config(**settings):
    return VoteConfig.model_validate({"members": MEMBERS, "extract": "llm", "extractor": "openai/reader"} | settings)


def reading(fault, *unread):
    """An extractor that fails on texts with one of `unread` in them, and reads the last word of the others."""

    def reply(seen):
        if "same_as" in seen.schema["properties"]:
            labels = seen.schema["properties"]["same_as"]["required"]
            return json_reply({"same_as": {label: label for label in labels}})
        text = next(turn["content"] for turn in seen.messages if "[text " in turn["content"])
        text = text.split("[text ")[1].split("\n")[1]
        if any(word in text for word in unread):
            return fault if isinstance(fault, Reply) else fault(seen)
        return json_reply({"answer": text.split()[-1]})

    return reply


async def test_one_voice_of_three_elects_nobody(vendors):
    say(vendors, one="It is seven", two="I say eight", three="surely 42")
    vendors.script("reader", then=reading(faults.unauthorized(), "seven", "eight"))
    record = await run_vote("How many?", config())
    assert (record.answer, record.status, record.degraded) == (None, "failed", True)
    assert "1 of 3 members could be parsed, and the quorum is 2. openai/one#1: openai/reader: auth" in record.error
    assert [(vote.answer, vote.heard) for vote in record.votes] == [(None, False), (None, False), ("42", True)]
    assert "abstained" not in {kind for kind, _, _ in kinds(record)}


async def test_where_enough_are_heard_the_cause_is_named(vendors):
    say(vendors, one="It is 42", two="I say 42", three="surely seven")
    vendors.script("reader", then=reading(faults.unauthorized(), "seven"))
    record = await run_vote("How many?", config())
    assert (record.answer, record.status, record.degraded, record.unanimous) == ("42", "finished", True, False)
    assert ("unparsed", "openai/three#1", None) in kinds(record)
    assert "abstained" not in {kind for kind, _, _ in kinds(record)}
    assert [vote.heard for vote in record.votes] == [True, True, False]


async def test_no_answer_is_an_abstention_and_was_heard(vendors):
    say(vendors, one="It is 42", two="I say 42", three="who knows")
    vendors.script("reader", then=lambda seen: json_reply({"answer": "" if "who knows" in seen.prompt else "42"}))
    record = await run_vote("How many?", config(quorum=3))
    assert (record.answer, record.degraded, [vote.heard for vote in record.votes]) == ("42", False, [True] * 3)
    assert kinds(record) == [("abstained", "openai/three#1", None)]


async def test_a_failed_member_was_not_heard_and_rubbish_is_no_abstention(vendors):
    vendors.script("one", then=faults.bad_request())
    say(vendors, two="It is 42", three="I say 42")
    vendors.script("reader", then=reading(Reply(text="rubbish"), "say"))
    record = await run_vote("How many?", config(quorum=1))
    assert (record.answer, record.degraded, [vote.heard for vote in record.votes]) == ("42", True, [False, True, False])
    assert ("unparsed", "openai/three#1", None) in kinds(record)


async def test_a_quorum_that_is_asked_for_is_one_of_those_who_are_heard(vendors):
    say(vendors, one="It is 42", two="I say 42", three="surely 42")
    vendors.script("reader", then=reading(faults.unauthorized(), "say"))
    record = await run_vote("How many?", config(quorum=2, stop_when=1))
    assert (record.answer, record.status, len(record.votes)) == ("42", "agreed", 3)


async def test_a_budget_that_ends_at_the_extractor(vendors):
    say(vendors, one="It is 42", two="I say 42", three="surely 42")
    vendors.script("reader", then=reading(Reply(text="rubbish")))
    record = await run_vote("How many?", config(budget={"max_calls": 4}))
    assert (record.answer, record.status, sum(vote.heard for vote in record.votes)) == ("42", "budget", 1)
    assert [kind for kind, _, _ in kinds(record)].count("unparsed") == 2


async def test_the_extractor_knows_the_conversation_and_the_instructions(vendors):
    say(vendors, one="It was Paris", two="I'd say Vichy", three="Vichy, surely")
    vendors.script("reader", then=reading(Reply(text="rubbish")))
    earlier = (
        Message(role="user", content="What was the capital of France in 1900?"),
        Message(role="assistant", content="Paris."),
    )
    record = await run_vote("And in 1942?", config(system="One word."), conversation=earlier)
    calls = asked(vendors, "reader")
    assert len(calls) == 4, "three texts, and whether two of the readings mean the same"
    for seen in calls:
        turns = seen.params["messages"]
        assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
        assert turns[1]["content"] == earlier[0].content
        assert "And in 1942?" in turns[-1]["content"]
        assert "The answers had to follow these instructions:\nOne word." in turns[-1]["content"]
    assert record.answer == "surely" or record.tie
    sent = vendors.count()
    await run_vote("And in 1942?", config(system="One word."), conversation=earlier)
    assert vendors.count() == sent
    # Another conversation is another question, though the members say the same.
    other = (earlier[0], Message(role="assistant", content="Lyon."))
    await run_vote("And in 1942?", config(system="One word."), conversation=other)
    assert len(asked(vendors, "reader")) == 8
    await run_vote("And in 1942?", config(system="Two words."), conversation=earlier)
    assert len(asked(vendors, "reader")) == 12


def test_a_vote_of_an_earlier_version_was_heard():
    assert Vote.model_validate({"member": "openai/one#1", "answer": None, "weight": 1}).heard
    assert extract("Vichy", parse_extraction("llm")).text == "Vichy"
