"""Prompt sets: what members see on the wire of each vendor, what is kept apart from the answer, and what is asked anew."""

import asyncio
import json

import pytest

from consensus_flows.blocks.consensus_learning import ConsensusLearningConfig
from consensus_flows.blocks.consortium import ConsortiumConfig
from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from consensus_flows.blocks.prefer import PreferConfig
from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.consensus_learning import run_consensus_learning
from consensus_flows.flows.consortium import run_consortium
from consensus_flows.flows.mixture_of_agents import run_mixture_of_agents
from consensus_flows.flows.prefer import run_prefer
from consensus_flows.flows.pump import run_pump
from consensus_flows.flows.vote import run_vote
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.prompting.prompt_sets import PromptSet, divide, prompt_set, prompt_sets
from consensus_flows.tasks.record import Response, put_together, read_sources
from tests.kits.command_kit import commands
from tests.kits.kinds import kinds
from tests.vendors import Reply, json_reply

pytestmark = pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted")

MEMBERS = ["openai/one", "anthropic/two", "google/three"]
JUDGEMENT = {
    "analysis": "",
    "dissent": "",
    "synthesis": "the synthesis",
    "confidence": 90,
    "final": True,
    "refinement_areas": [],
}
SET = """
description = "For the tests"
system = "Be exact."
before = "A question:"
after = "End with a line that begins with 'Answer:'."
answer_marker = "Answer:"

[[examples]]
user = "1 + 1?"
assistant = "Two ones.\\nAnswer: 2"
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of one's own sets, with one set in it."""
    monkeypatch.setenv("CONSENSUS_PROMPT_SETS", str(tmp_path))
    (tmp_path / "mine.toml").write_text(SET)
    return tmp_path


@pytest.fixture
def saying(results, vendors):
    def say(text, *models):
        for model in models or ("one", "two", "three"):
            vendors.script(model, then=Reply(text=text))
        vendors.script("judge", then=json_reply(JUDGEMENT))
        return vendors

    return say


def pumped(*members, **settings):
    return PumpConfig.model_validate({"members": list(members or MEMBERS)} | settings)


# What stands in a set, and what is made of it: no model is asked.


def test_shipped_sets_can_be_read_and_plain_changes_nothing():
    assert list(prompt_sets()) == ["chain-of-thought", "citations", "few-shot", "plain"]
    assert all(
        prompt_set(name) != PromptSet(description=prompt_set(name).description)
        for name in prompt_sets()
        if name != "plain"
    )
    asked = (Message(role="user", content=" Why?\n"),)
    assert prompt_set("plain").prompted(asked) == asked


def test_one_s_own_set_hides_the_shipped_one_and_a_path_is_taken_as_it_is(own):
    (own / "few-shot.toml").write_text('system = "Mine."')
    assert prompt_set("few-shot").system == "Mine."
    assert prompt_set(str(own / "mine.toml")).before == "A question:"
    assert list(prompt_sets()) == ["chain-of-thought", "citations", "few-shot", "mine", "plain"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("system = ", "not TOML"),
        ('sistem = "x"', "sistem"),
        ('[[examples]]\nuser = "x"', "examples.0.assistant"),
        ('[[examples]]\nuser = " "\nassistant = "x"', "examples.0.user"),
        ("system = 3", "system"),
    ],
)
def test_a_file_that_is_not_right_says_where(own, text, named):
    (own / "bad.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=named):
        prompt_set("bad")


def test_an_unknown_set_names_those_there_are(own, monkeypatch):
    with pytest.raises(
        ConfigurationError, match=r"'nope'\. Use one of chain-of-thought, citations, few-shot, mine, plain"
    ):
        prompt_set("nope")
    monkeypatch.setenv("CONSENSUS_PROMPT_SETS", str(own / "away"))
    with pytest.raises(ConfigurationError, match="is not a folder"):
        prompt_set("mine")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        prompt_set(str(own / "away.toml"))


@pytest.mark.parametrize(
    ("text", "reasoning", "answer", "marked"),
    [
        ("Six sevens.\nAnswer: 42", "Six sevens.", "42", True),
        ("Six sevens.\n\n**Answer:** 42\n\nand no more", "Six sevens.", "42\n\nand no more", True),
        ("Six sevens.\n## Answer\n42", "Six sevens.", "42", True),
        ("Answer: 41?\nNo.\nANSWER : 42", "Answer: 41?\nNo.", "42", True),
        ("Answer: 42", None, "42", True),
        ("My answer: 42", None, "My answer: 42", False),
        ("Six sevens.\nAnswer:", None, "Six sevens.", False),
        ("Answers vary", None, "Answers vary", False),
    ],
)
def test_reasoning_ends_where_the_last_marker_begins(text, reasoning, answer, marked):
    parts = divide(text, "Answer:")
    assert (parts.reasoning, parts.answer) == (reasoning, answer)
    assert parts.missing == (() if marked else ("Answer:",))


def test_sources_and_reasoning_are_both_kept_apart_in_either_order():
    for text in ("Because.\nAnswer: yes [1]\nSources:\n[1] A book", "Because.\nSources:\n[1] A book\nAnswer: yes [1]"):
        parts = divide(text, "Answer:", "Sources:")
        assert (parts.reasoning, parts.answer, parts.citations) == ("Because.", "yes [1]", ("[1] A book",))
        assert parts.missing == ()


def test_nothing_but_a_marker_is_no_empty_answer():
    assert divide("Sources:\n- a", "", "Sources:").answer == "Sources:\n- a"
    assert divide("Answer:", "Answer:").answer == "Answer:"


def test_lists_of_sources():
    assert read_sources("- A, 1999\n* B\n  and its subtitle\n\n[3] C\n4. D") == [
        "A, 1999",
        "B and its subtitle",
        "[3] C",
        "4. D",
    ]
    assert read_sources("https://a.example\nhttps://b.example") == ["https://a.example", "https://b.example"]
    assert read_sources("None.") == read_sources("- n/a") == read_sources(" ") == []
    together = put_together([("x#1", ["[1] A", "[2] B"]), ("y#1", ["1. b", "[2] a", "[3] C"])])
    assert [(one.source, one.members) for one in together] == [
        ("A", ["x#1", "y#1"]),
        ("B", ["x#1", "y#1"]),
        ("C", ["y#1"]),
    ]


def test_a_failed_call_is_not_divided():
    failed = Response.model_validate(
        {
            "member": "a/b#1",
            "provider": "a",
            "model": "b",
            "text": "x\nAnswer: y",
            "error": {"kind": "truncated", "message": ""},
        }
    )
    assert PromptSet(answer_marker="Answer:").divided(failed) is failed


# On the wire.


async def test_every_vendor_is_sent_system_examples_history_and_question_in_order(own, saying):
    vendors = saying("Six sevens.\nAnswer: 42")
    earlier = (Message(role="user", content="Hello?"), Message(role="assistant", content="Yes?"))
    record = await run_pump("6 x 7?", pumped(system="You are a clerk.", prompt_set="mine"), conversation=earlier)
    assert {seen.vendor for seen in vendors.seen} == {"openai", "anthropic", "google"}
    for seen in vendors.seen:
        assert seen.system == "You are a clerk.\n\nBe exact."
        assert [(m["role"] != "user", m["content"]) for m in seen.messages] == [
            (False, "1 + 1?"),
            (True, "Two ones.\nAnswer: 2"),
            (False, "Hello?"),
            (True, "Yes?"),
            (False, "A question:\n\n6 x 7?\n\nEnd with a line that begins with 'Answer:'."),
        ]
    for response in record.iterations[0].responses:
        assert (response.text, response.reasoning) == ("42", "Six sevens.")
    assert record.agreement == 1 and not record.warnings


async def test_a_set_without_a_system_text_sends_none(saying):
    vendors = saying("Final answer: yes")
    await run_pump("Is it?", pumped(prompt_set="chain-of-thought"))
    assert all(seen.system is None for seen in vendors.seen)
    assert all("Think step by step" in seen.prompt and seen.prompt.startswith("Is it?") for seen in vendors.seen)


async def test_who_gives_no_marker_is_taken_whole_and_the_record_says_so(own, saying):
    vendors = saying("Six.\nAnswer: 42")
    vendors.script("two", then=Reply(text="42, I should say"))
    record = await run_pump("?", pumped(prompt_set="mine"))
    assert [r.text for r in record.iterations[0].responses] == ["42", "42, I should say", "42"]
    assert kinds(record) == [("unmarked", "anthropic/two#1", 1)]


async def test_reasoning_does_not_vote(own, saying):
    vendors = saying("I first thought of 7.\nAnswer: 42")
    vendors.script("three", then=Reply(text="It is not 42.\nAnswer: 7"))
    config = VoteConfig.model_validate({"members": MEMBERS, "extract": "number", "prompt_set": "mine"})
    record = await run_vote("?", config)
    assert record.answer == "42" and [(one.answer, one.votes) for one in record.tally] == [("42", 2), ("7", 1)]


async def test_a_judge_sees_the_answers_alone_and_the_next_round_is_prompted_alike(own, saying):
    vendors = saying("SECRET steps.\nAnswer: 42")
    vendors.script("judge", json_reply(JUDGEMENT | {"confidence": 10}), then=json_reply(JUDGEMENT))
    config = ConsortiumConfig.model_validate({"members": MEMBERS, "arbiter": "openai/judge", "prompt_set": "mine"})
    record = await run_consortium("What is it?", config)
    judged = [seen for seen in vendors.seen if seen.model == "judge"]
    assert len(judged) == 2 and len(record.iterations) == 2
    for seen in judged:
        assert "42" in seen.prompt and "What is it?" in seen.prompt
        assert not any(text in seen.prompt for text in ("SECRET", "A question:", "Answer:", "1 + 1?"))
    again = [seen for seen in vendors.seen if seen.model == "two"][1]
    assert [message["content"] for message in again.messages[:4]] == [
        "1 + 1?",
        "Two ones.\nAnswer: 2",
        "What is it?",
        "42",
    ]
    assert again.prompt.startswith("A question:\n\nThe answers of all") and again.prompt.endswith("with 'Answer:'.")


async def test_citations_are_kept_apart_and_put_together(saying):
    vendors = saying("It is so [1].\n\nSources:\n[1] Knuth, 1968")
    vendors.script("two", then=Reply(text="So it is [1][2].\n\n**Sources:**\n1. Dijkstra, 1959\n2. Knuth, 1968"))
    vendors.script("three", then=Reply(text="Nobody knows.\nSources: none"))
    config = ConsortiumConfig.model_validate({"members": MEMBERS, "arbiter": "openai/judge", "prompt_set": "citations"})
    record = await run_consortium("Is it so?", config)
    responses = record.iterations[0].responses
    assert [r.text for r in responses] == ["It is so [1].", "So it is [1][2].", "Nobody knows."]
    assert [r.citations for r in responses] == [["[1] Knuth, 1968"], ["1. Dijkstra, 1959", "2. Knuth, 1968"], []]
    assert [(one.source, one.members) for one in record.citations] == [
        ("Knuth, 1968", ["openai/one#1", "anthropic/two#1"]),
        ("Dijkstra, 1959", ["anthropic/two#1"]),
    ]
    assert "Knuth" not in next(seen for seen in vendors.seen if seen.model == "judge").prompt
    assert not record.warnings


async def test_citations_of_a_vote_are_those_of_its_voters(saying):
    vendors = saying("Yes [1].\nSources:\n[1] The right book")
    vendors.script("three", then=Reply(text="No [1].\nSources:\n[1] The wrong book"))
    config = VoteConfig.model_validate({"members": MEMBERS, "extract": "label:yes,no", "prompt_set": "citations"})
    record = await run_vote("?", config)
    assert record.answer == "yes"
    assert [(one.source, one.members) for one in record.citations] == [
        ("The right book", ["openai/one#1", "anthropic/two#1"])
    ]


async def test_citations_of_an_answer_taken_word_for_word_are_its_own(saying):
    vendors = saying("Yes [1].\nSources:\n[1] The right book")
    vendors.script("three", then=Reply(text="No [1].\nSources:\n[1] The wrong book"))
    vendors.script("judge", then=Reply(text="rubbish"))
    config = ConsortiumConfig.model_validate({"members": MEMBERS, "arbiter": "openai/judge", "prompt_set": "citations"})
    record = await run_consortium("?", config)
    assert record.degraded and record.answer == "Yes [1]."
    assert [one.source for one in record.citations] == ["The right book"]


async def test_the_same_set_is_answered_from_the_store_and_an_edited_one_is_not(own, saying):
    vendors = saying("Answer: 42")
    config = pumped(prompt_set="mine")
    assert (await run_pump("?", config)).requests == 3
    again = await run_pump("?", config)
    assert (again.requests, again.cached_calls) == (0, 3)
    assert [r.text for r in again.iterations[0].responses] == ["42"] * 3
    (own / "mine.toml").write_text(SET.replace('"For the tests"', '"For nothing else"') + "# a remark\n")
    assert (await run_pump("?", config)).requests == 0
    (own / "mine.toml").write_text(SET.replace("Be exact", "Be very exact"))
    assert (await run_pump("?", config)).requests == 3
    assert (await run_pump("?", pumped())).requests == 3
    assert vendors.count() == 9


FLOWS = {
    "pump": (run_pump, PumpConfig, {}),
    "vote": (run_vote, VoteConfig, {}),
    "consortium": (run_consortium, ConsortiumConfig, {"arbiter": "openai/judge"}),
    "learn": (run_consensus_learning, ConsensusLearningConfig, {"aggregator": "openai/judge"}),
    "prefer": (run_prefer, PreferConfig, {}),
    "moa": (run_mixture_of_agents, MixtureOfAgentsConfig, {"layers": [MEMBERS], "aggregator": "openai/judge"}),
}


@pytest.mark.parametrize("name", FLOWS)
async def test_it_holds_in_every_flow_and_a_wrong_name_calls_nobody(own, saying, name):
    vendors = saying("Steps.\nAnswer: 42")
    run, config_class, settings = FLOWS[name]
    members = {} if name == "moa" else {"members": MEMBERS}
    with pytest.raises(ConfigurationError, match="Use one of chain-of-thought"):
        await run("?", config_class.model_validate(members | settings | {"prompt_set": "nope"}))
    assert vendors.count() == 0
    record = await run("?", config_class.model_validate(members | settings | {"prompt_set": "mine"}))
    assert [(r.text, r.reasoning) for r in record.iterations[0].responses] == [("42", "Steps.")] * 3
    first = [next(seen for seen in vendors.seen if seen.model == model) for model in ("one", "two", "three")]
    assert all(seen.prompt == "A question:\n\n?\n\nEnd with a line that begins with 'Answer:'." for seen in first)
    assert all("Be exact." in (seen.system or "") for seen in first)


# The command line.


@pytest.fixture
def consensus(monkeypatch, capsys):
    return commands(monkeypatch, capsys)


def test_the_option(own, saying, consensus, monkeypatch):
    vendors = saying("Steps.\nAnswer: 42")
    panel = [part for member in MEMBERS for part in ("-m", member)]
    monkeypatch.chdir(own)
    for name in ("mine", "./mine.toml"):
        ran = consensus("vote", "?", *panel, "--extract", "number", "--prompt-set", name, "--json")
        assert ran.code == 0 and json.loads(ran.out)["answer"] == "42"
    assert vendors.count() == 3
    ran = consensus("vote", "?", *panel, "--prompt-set", "nope")
    assert ran.code == 2 and "--prompt-set: unknown prompt set 'nope'. Use one of" in ran.err
    ran = consensus("vote", "?", *panel, "--prompt-set", "away.toml")
    assert ran.code == 2 and "away.toml cannot be read" in ran.err
    assert vendors.count() == 3


def test_a_saved_file_is_found_from_elsewhere(own, saying, consensus, monkeypatch, tmp_path_factory):
    saying("Steps.\nAnswer: 42")
    monkeypatch.chdir(own)
    assert consensus("save", "mine", "--flow", "pump", "-m", "openai/one", "--prompt-set", "mine.toml").code == 0
    try:
        monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
        assert consensus("pump", "-p", "?", "--name", "mine", "--raw").out == "42\n"
    finally:
        consensus("remove", "mine")


def test_the_sets_are_listed_and_shown(own, consensus):
    ran = consensus("prompts", "list")
    assert ran.code == 0 and [line.split("\t")[0] for line in ran.out.splitlines()] == list(prompt_sets())
    assert json.loads(consensus("prompts", "list", "--json").out)[3]["description"] == "For the tests"
    shown = consensus("prompts", "show", "few-shot")
    (own / "copy.toml").write_text(shown.out)
    assert prompt_set("copy") == prompt_set("few-shot")
    (own / "bad.toml").write_text("x")
    ran = consensus("prompts", "list")
    assert ran.code == 2 and "bad.toml is not TOML" in ran.err
    assert consensus("prompts", "show", "nope").code == 2


async def test_one_member_asks_two_sets_at_once(own, saying):
    saying("Answer: 42", "one")
    sets = ("mine", "plain")
    records = await asyncio.gather(*(run_pump("?", pumped("openai/one", prompt_set=name)) for name in sets))
    assert [record.answer for record in records] == ["42", "Answer: 42"]
