"""Consensus learning: what reaches whom in which role, when it stops, and what is returned when models fail."""

import json
import re

import pytest

from consensus_flows.blocks.consensus_learning import ConsensusLearning, ConsensusLearningConfig
from consensus_flows.flows.consensus_learning import consensus_learning, page, run_consensus_learning
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.errors import ConfigurationError, QuorumError
from consensus_flows.tasks.record import Record
from tests.kits.consortium_kit import asked, say
from tests.kits.kinds import kinds
from tests.vendors import Reply, faults

pytestmark = [
    pytest.mark.usefixtures("results"),
    # Most tests call the algorithm without the flow around it, where Prefect has nowhere to send its logs.
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]

MEMBERS = ["openai/one", "anthropic/two", "google/three"]
NAMES = [f"{name}#1" for name in MEMBERS]
MARKER = re.compile(r"\[answer (\w+) (\w+)\]\n(.*?)\n\[end answer \1 \2\]", re.DOTALL)


def config(**settings):
    return ConsensusLearningConfig.model_validate(
        {"members": MEMBERS, "aggregator": "openai/merger", "iterations": 0} | settings
    )


def closed(approach="decentralized", **settings):
    return config(**{"approach": approach, "aggregator": None, "extract": "number"} | settings)


def turns(vendors, model):
    """The messages of each request of an OpenAI model, in order."""
    return [seen.params["messages"] for seen in asked(vendors, model)]


async def test_the_last_of_all_rounds_is_the_answer(vendors):
    vendors.script("merger", Reply(text="first"), Reply(text="second"), Reply(text="third"))
    record = await consensus_learning("What?", config(iterations=2))
    assert (record.status, record.answer, record.best_iteration) == ("finished", "third", 3)
    assert [one.synthesis.text for one in record.iterations] == ["first", "second", "third"]
    assert [vendors.count(model) for model in ("one", "two", "three", "merger")] == [3, 3, 3, 3]
    assert (record.flow, record.calls, record.degraded, record.warnings) == ("consensus-learning", 12, False, [])
    assert record.confidence is None, "nobody was asked how sure it is"
    assert record.agreement == record.iterations[2].agreement
    assert Record.model_validate(json.loads(record.model_dump_json())) == record
    assert record.flow_run_id


async def test_the_aggregator_sees_question_answers_and_no_names(vendors):
    say(vendors, one="alpha\n'quoted' $x", two="beta", three="gamma", merger="merged")
    earlier = (Message(role="user", content="Hello"), Message(role="assistant", content="Hi"))
    settings = {
        "system": "Be brief.",
        "aggregator_context": "Be objective.",
        "aggregator_prompt": [
            {"role": "system", "content": "Speak Latin."},
            {"role": "user", "content": "Merge them now."},
        ],
        "aggregator_settings": {"temperature": 0, "max_output_tokens": 300},
    }
    record = await run_consensus_learning("How many?", config(**settings), conversation=earlier)
    (sent,) = turns(vendors, "merger")
    assert [turn["role"] for turn in sent] == ["system", "user", "assistant", "user"]
    assert sent[0]["content"].endswith("\n\nBe objective.\n\nSpeak Latin.")
    last = sent[-1]["content"]
    assert "How many?" in last
    assert "Be brief." in last, "the aggregator knows what the members were told"
    assert last.endswith("\n\nMerge them now.")
    quoted = {label: text for label, _, text in MARKER.findall(last)}
    assert quoted.keys() == {"A", "B", "C"}
    assert set(quoted.values()) == {"alpha\n'quoted' $x", "beta", "gamma"}
    assert not any(name in last for name in ("openai", "anthropic", "google", "one#", "three"))
    synthesis = record.iterations[0].synthesis
    texts = {r.member: r.text for r in record.iterations[0].responses}
    assert {label: texts[member] for label, member in synthesis.labels.items()} == quoted
    assert (synthesis.arbiter, synthesis.method) == ("openai/merger", "centralized_llm")
    params = asked(vendors, "merger")[0].params
    assert (params["temperature"], params["max_tokens"]) == (0, 300)


async def test_as_the_users_turn(vendors):
    say(vendors, one="mine", merger="the $consensus {x}")
    await run_consensus_learning("How many?", config(iterations=1, improvement_prompt="Do better."))
    early, late = turns(vendors, "one")
    assert early == [{"role": "user", "content": "How many?"}]
    assert late[:2] == [*early, {"role": "assistant", "content": "mine"}]
    (last,) = late[2:]
    assert last["role"] == "user"
    assert "the $consensus {x}" in last["content"]
    assert last["content"].endswith("\n\nDo better.")


async def test_as_the_assistants_turn(vendors):
    say(vendors, one="mine", merger="merged")
    await run_consensus_learning("How many?", config(iterations=1, aggregated_prompt_type="assistant"))
    _, late = turns(vendors, "one")
    assert [turn["role"] for turn in late] == ["user", "assistant", "user", "assistant", "user"]
    assert late[1]["content"] == "mine"
    assert re.search(r"\[consensus of all participants (\w{12})\]\nmerged\n\[end consensus", late[3]["content"])
    assert "Think again" in late[4]["content"], (
        "without an improvement prompt there is a built-in one, never an empty turn"
    )


async def test_as_system_it_joins_the_leading_message_and_is_replaced(vendors):
    vendors.script("merger", Reply(text="merged once"), Reply(text="merged twice"), Reply(text="end"))
    say(vendors, one="mine")
    await run_consensus_learning(
        "How many?", config(iterations=2, aggregated_prompt_type="system", system="Be brief.", improvement_prompt="Go.")
    )
    _, second, third = turns(vendors, "one")
    assert [turn["role"] for turn in third] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert second[0]["content"].startswith("Be brief.\n\n")
    assert re.search(r"\[consensus of all participants (\w{12})\]\nmerged once\n\[end consensus", second[0]["content"])
    assert "merged twice" in third[0]["content"]
    assert "merged once" not in third[0]["content"]
    assert third[-1]["content"] == "Go."
    for model in ("two", "three"):
        assert "merged twice" in (asked(vendors, model)[-1].system or "")


@pytest.mark.parametrize("role", ["user", "assistant", "system"])
async def test_a_failing_member_takes_part_again_and_fails_nobody(vendors, role):
    vendors.script("one", faults.bad_request(), Reply(text="here I am"))
    say(vendors, two="42", three="42", merger="42")
    record = await consensus_learning(
        "How many?", config(iterations=1, aggregated_prompt_type=role, system="Be brief.")
    )
    first, second = record.iterations
    assert [r.answered for r in first.responses] == [False, True, True]
    assert first.responses[0].error.kind == "bad_request"
    assert set(first.synthesis.labels.values()) == set(NAMES[1:]), "what failed is not quoted"
    assert second.responses[0].text == "here I am"
    assert record.degraded
    assert ("bad_request", "openai/one#1", 1) in kinds(record)
    late = turns(vendors, "one")[-1]
    wanted = {"user": ["user"], "system": ["user"], "assistant": ["user", "assistant", "user"]}[role]
    assert [turn["role"] for turn in late] == ["system", *wanted]
    assert late[1]["content"].startswith("How many?")


async def test_below_the_quorum_the_run_fails_with_every_cause(vendors):
    vendors.script("one", then=faults.unauthorized())
    vendors.script("two", then=faults.bad_request())
    with pytest.raises(QuorumError, match=r"1 of 3 members answered, and the quorum is 2") as caught:
        await consensus_learning("What?", config())
    assert "openai/one#1" in caught.value.message
    assert "anthropic/two#1" in caught.value.message
    assert vendors.count("merger") == 0
    assert (caught.value.record.status, caught.value.record.answer) == ("failed", None)


async def test_below_the_quorum_later_the_earlier_aggregate_stands(vendors):
    for model in ("one", "two"):
        vendors.script(model, Reply(text="42"), then=faults.bad_request())
    say(vendors, merger="merged")
    record = await run_consensus_learning("What?", config(iterations=3))
    assert (record.status, record.answer, record.best_iteration) == ("finished", "merged", 1)
    assert len(record.iterations) == 2
    assert record.degraded
    assert ("unfinished", None, 2) in kinds(record)


def parrot(seen):
    return Reply(text=seen.messages[-1]["content"])


@pytest.mark.parametrize("rubbish", [parrot, faults.refusal(), faults.truncated()])
async def test_an_aggregator_that_writes_rubbish_is_followed_by_the_fallback_then_the_medoid(
    vendors, rubbish, monkeypatch
):
    monkeypatch.setenv("CONSENSUS_RETRIES", "0")
    vendors.script("merger", then=rubbish)
    say(vendors, one="it is 42 indeed", two="it is 42", three="it is 17", second="merged by the second")
    record = await run_consensus_learning("What?", config(fallback_aggregators=["openai/second"]))
    assert (record.answer, record.degraded) == ("merged by the second", True)
    assert ("fallback", "openai/merger", 1) in kinds(record)
    record = await run_consensus_learning("What?", config())
    assert (record.answer, record.degraded, record.status) == ("it is 42", True, "finished")
    synthesis = record.iterations[0].synthesis
    assert (synthesis.chosen, synthesis.arbiter, synthesis.method) == (NAMES[1], None, "stand-in")
    assert kinds(record)[0] == ("stand_in", None, 1)
    assert all(call.error for call in record.iterations[0].judgements)


async def test_what_repeats_the_markers_is_asked_for_once_more_and_kept(vendors):
    vendors.script("merger", parrot, Reply(text="merged"))
    record = await run_consensus_learning("What?", config())
    first, second = record.iterations[0].judgements
    assert (record.answer, record.degraded) == ("merged", False)
    assert first.error.kind == "malformed"
    assert "[answer A" in first.text
    assert second.answered
    assert "it repeats the markers" in asked(vendors, "merger")[1].prompt


async def test_a_stand_in_goes_back_and_does_not_displace_an_aggregate(vendors):
    vendors.script("merger", Reply(text="merged"), then=faults.unauthorized())
    say(vendors, one="a b c", two="a b c", three="x")
    record = await run_consensus_learning("What?", config(iterations=2))
    assert len(record.iterations) == 3
    assert (record.answer, record.best_iteration, record.degraded) == ("merged", 1, True)
    assert "a b c" in turns(vendors, "one")[2][-1]["content"]


async def test_the_same_model_twice_is_asked_twice_with_its_own_settings(vendors):
    vendors.script("one", Reply(text="a"), Reply(text="b"), Reply(text="c"))
    record = await run_consensus_learning(
        "What?",
        config(
            members=["openai/one", "openai/one:2"],
            instance_settings={"openai/one#2": {"temperature": 0.2}},
            member_settings={"openai/one": {"temperature": 0.9}},
        ),
    )
    assert sorted(r.text for r in record.iterations[0].responses) == ["a", "b", "c"]
    assert sorted(seen.params["temperature"] for seen in asked(vendors, "one")) == [0.2, 0.9, 0.9]


async def test_the_second_run_sends_nothing(vendors):
    first = await run_consensus_learning("What?", config(iterations=1))
    sent = vendors.count()
    assert sent == 8
    second = await run_consensus_learning("What?", config(iterations=1))
    assert (vendors.count(), second.answer) == (sent, first.answer)
    assert (second.calls, second.cached_calls, second.requests, second.cost_usd) == (8, 8, 0, 0)


async def test_the_majority_is_counted(vendors):
    say(vendors, one="I count 4, so 4.", two="The answer is 4.0", three="It is 5.", four="I cannot say.")
    record = await run_consensus_learning("2+2?", closed("majority", members=[*MEMBERS, "openai/four"]))
    synthesis = record.iterations[0].synthesis
    assert synthesis.votes == {"4": NAMES[:2], "5": NAMES[2:]}
    assert (synthesis.value, synthesis.chosen in NAMES[:2]) == ("4", True)
    assert record.answer in {"I count 4, so 4.", "The answer is 4.0"}
    assert (record.calls, record.degraded, record.warnings) == (4, False, [])


async def test_a_tie_goes_to_what_was_given_first_and_is_said(vendors):
    say(vendors, one="5", two="4", three="none")
    record = await run_consensus_learning("2+2?", closed("majority"))
    assert (record.answer, record.degraded) == ("5", False)
    assert kinds(record) == [("tie", None, 1)]


@pytest.mark.parametrize("approach", ["majority", "decentralized"])
async def test_where_no_answer_can_be_read_the_medoid_stands_in(vendors, approach):
    say(vendors, one="no idea at all", two="no idea", three="any idea")
    record = await run_consensus_learning("2+2?", closed(approach))
    assert (record.answer, record.degraded) == ("no idea", True)
    assert kinds(record)[0] == ("stand_in", None, 1)


async def test_the_medoid_is_one_answer_word_for_word(vendors):
    say(vendors, one="it is 42 indeed", two="it is 42", three="it is 17")
    record = await run_consensus_learning("What?", config(approach="medoid", aggregator=None, iterations=1))
    assert (record.answer, record.calls, record.degraded) == ("it is 42", 6, False)
    assert "it is 42" in turns(vendors, "one")[1][-1]["content"]


async def test_decentralized_settles_without_further_calls(vendors):
    members = [f"openai/m{n}" for n in range(5)]
    say(vendors, m0="4", m1="It is 4.", m2="It must be 4", m3="5", m4="5.")
    # alpha: two of four that hold 4 would not do, so a member that holds 4 needs a third.
    record = await run_consensus_learning("2+2?", closed(members=members, iterations=3, decentralized={"k": 3}))
    settlement = record.iterations[0].settlement
    assert (record.status, record.calls, len(record.iterations)) == ("agreed", 5, 1)
    assert settlement.settled
    assert set(settlement.held.values()) == {settlement.value}
    assert settlement.given == {"openai/m0#1": "4", "openai/m1#1": "4", "openai/m2#1": "4"} | {
        "openai/m3#1": "5",
        "openai/m4#1": "5",
    }
    assert settlement.adopted
    assert all(settlement.given[one.author] == one.value for one in settlement.adopted)
    again = await run_consensus_learning("2+2?", closed(members=members, iterations=3, decentralized={"k": 3}))
    assert again.iterations[0].settlement == settlement


async def test_unsettled_members_are_asked_again_with_what_each_holds(vendors):
    vendors.script("one", Reply(text="It is 1."), Reply(text="Now I say 3."))
    vendors.script("two", Reply(text="2"), Reply(text="3"))
    vendors.script("three", Reply(text="3"), Reply(text="3"))
    record = await run_consensus_learning("2+2?", closed(iterations=3, decentralized={"max_rounds": 9}))
    assert [one.settlement.settled for one in record.iterations] == [False, True]
    assert (record.status, record.iterations[-1].synthesis.value) == ("agreed", "3")
    assert "It is 1." in turns(vendors, "one")[1][-1]["content"]
    assert record.warnings == []


async def test_what_never_settles_is_said(vendors):
    say(vendors, one="1", two="2", three="3")
    record = await run_consensus_learning("2+2?", closed(decentralized={"max_rounds": 9}))
    assert (record.answer, record.status) == ("1", "finished")
    assert kinds(record) == [("unsettled", None, None)]


async def test_it_stops_when_a_round_changes_nothing(vendors):
    say(vendors, one="it is 42", two="it is 42", three="it is 42", merger="it is 42")
    record = await run_consensus_learning("What?", config(iterations=9, stop_when_stable=True))
    assert (record.status, len(record.iterations), record.answer) == ("agreed", 2, "it is 42")
    record = await run_consensus_learning("What?", config(iterations=2))
    assert (record.status, len(record.iterations)) == ("finished", 3), "only if asked"


@pytest.mark.parametrize(
    ("merged", "third"), [(["it is 42", "no, it is seven"], "it is 42"), (["it is 42"] * 2, "entirely other words")]
)
async def test_it_goes_on_while_aggregates_change_or_members_differ(vendors, merged, third):
    say(vendors, one="it is 42", two="it is 42", three=third)
    vendors.script("merger", *(Reply(text=text) for text in merged))
    record = await run_consensus_learning("What?", config(iterations=1, stop_when_stable=True))
    assert record.status == "finished"


async def test_closed_answers_are_stable_by_their_value(vendors):
    vendors.script("one", Reply(text="4"), Reply(text="I am now certain of the number 4"))
    say(vendors, two="It is 4", three="2 + 2 = 4")
    record = await run_consensus_learning("What?", closed("majority", iterations=5, stop_when_stable=True))
    assert (record.status, len(record.iterations)) == ("agreed", 2)


async def test_the_budget_ends_it_with_the_best_so_far(vendors):
    say(vendors, merger="merged")
    record = await run_consensus_learning("What?", config(iterations=4, budget={"max_calls": 7}))
    assert (record.status, record.answer) == ("budget", "merged")
    assert vendors.count() == 7
    record = await run_consensus_learning("Other?", config(iterations=4, budget={"max_calls": 3}))
    assert (record.status, record.degraded, record.iterations[0].synthesis.method) == ("budget", True, "stand-in")


@pytest.mark.parametrize(
    ("prompt", "settings", "cause"),
    [
        (" ", {}, "prompt is empty"),
        ("What?", {"members": ["nobody/x"]}, "unknown provider 'nobody'"),
        ("What?", {"aggregator": "huggingface/x"}, "no key for huggingface"),
        ("What?", {"fallback_aggregators": ["nobody/y"]}, "unknown provider 'nobody'"),
    ],
)
async def test_what_cannot_be_asked_is_found_before_any_call(vendors, prompt, settings, cause):
    with pytest.raises(ConfigurationError, match=cause):
        await run_consensus_learning(prompt, config(**settings))
    assert vendors.count() == 0


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"aggregator": None}, "required by the approach centralized_llm"),
        ({"aggregator": "openai/x:2"}, "aggregator\n.*must not have a count"),
        ({"iterations": -1}, "iterations"),
        ({"extract": "colour"}, "extract\n.*unknown extraction"),
        ({"extract": "llm"}, "extract\n.*llm is not supported here"),
        ({"instance_settings": {"openai/one#2": {}}}, "instance_settings: 'openai/one#2' is not a member"),
        ({"decentralized": {"alpha": 0.5}}, "decentralized.alpha"),
        ({"aggregator_prompt": [{"role": "assistant", "content": "x"}]}, "must be a user"),
    ],
)
def test_what_cannot_be_configured(settings, cause):
    with pytest.raises(ValueError, match=cause):
        config(**settings)


async def test_a_saved_configuration_is_used(vendors):
    await ConsensusLearning(config=closed("medoid", extract=None)).save("sage", overwrite=True)
    record = await consensus_learning("What?", config="sage")
    assert (record.calls, record.iterations[0].synthesis.method) == (3, "medoid")
    with pytest.raises(ConfigurationError, match="no configuration is saved as 'nothing'"):
        await consensus_learning("What?", config="nothing")


async def test_rounds_are_shown_with_model_text_inert(vendors):
    say(vendors, one="4 <script>", two="4 ```", three="5")
    record = await run_consensus_learning("2+2?", closed("majority"))
    shown = page(record.iterations[0])
    assert "by majority: the answer of `openai/one#1`" in shown
    assert "> 4 \\<script\\>" in shown and "> 4 \\`\\`\\`" in shown
    assert f"4: {NAMES[0]}, {NAMES[1]}" in shown
    record = await run_consensus_learning("2+2?", closed())
    settled = record.iterations[0].settlement.settled
    assert f"The members {'settled' if settled else 'did not settle'} on one value in" in page(record.iterations[0])
