"""The loop of the consortium: when it stops, what reaches the next round, and what is returned."""

import json

import pytest

from consensus_flows.blocks.consortium import Consortium
from consensus_flows.flows.consortium import consortium, run_consortium
from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.record import Record
from tests.kits.consortium_kit import ARBITER, asked, config, judged, say
from tests.kits.kinds import kinds
from tests.vendors import Reply, faults

pytestmark = [
    pytest.mark.usefixtures("results"),
    # Most tests call the algorithm without the flow around it, where Prefect has nowhere to send its logs.
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]


async def test_it_stops_when_the_arbiter_is_confident(vendors):
    vendors.script("arbiter", judged(60, "first"), judged(85, "second"), judged(99, "third"))
    record = await run_consortium("What?", config(max_iterations=5))
    assert (record.status, record.answer, record.confidence) == ("confident", "second", 0.85)
    assert [one.number for one in record.iterations] == [1, 2]
    assert record.best_iteration == 2
    assert vendors.count("one") == 2
    assert vendors.count("arbiter") == 2
    assert not record.degraded
    assert record.warnings == []


async def test_it_goes_on_until_the_fewest_iterations(vendors):
    vendors.script("arbiter", judged(95), judged(90), judged(85), judged(85))
    record = await run_consortium("What?", config(max_iterations=5, min_iterations=3))
    assert len(record.iterations) == 3
    assert (record.status, record.confidence, record.best_iteration) == ("confident", 0.95, 1)


async def test_it_stops_at_the_most_iterations(vendors):
    vendors.script("arbiter", then=judged(10))
    record = await run_consortium("What?", config(max_iterations=2))
    assert (record.status, len(record.iterations), record.confidence) == ("max_iterations", 2, 0.1)


@pytest.mark.parametrize(("keep", "answer", "best"), [("best", "better", 1), ("last", "worse", 2)])
async def test_the_best_iteration_is_kept_unless_the_last_is_wanted(vendors, keep, answer, best):
    vendors.script("arbiter", judged(70, "better"), judged(30, "worse"))
    record = await run_consortium("What?", config(max_iterations=2, keep=keep))
    assert (record.answer, record.best_iteration) == (answer, best)
    assert record.confidence == record.iterations[best - 1].synthesis.confidence


async def test_of_equals_the_later_one_is_kept(vendors):
    vendors.script("arbiter", judged(70, "early"), judged(70, "late"))
    assert (await run_consortium("What?", config(max_iterations=2))).answer == "late"


async def test_what_was_missing_reaches_members_and_arbiter(vendors):
    first = judged(
        50, "it is $five {x}", dissent="a minority says six", refinement_areas=["check the sum", "check units"]
    )
    vendors.script("arbiter", first, judged(90, "it is six"))
    say(vendors, one="five", two="six", three="seven")
    await run_consortium("How many?", config(max_iterations=2, system="Be brief."))
    for model, own in (("one", "five"), ("two", "six"), ("three", "seven")):
        early, late = asked(vendors, model)
        assert early.params["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "How many?"},
        ]
        assert [turn["role"] for turn in late.params["messages"]] == ["system", "user", "assistant", "user"]
        assert late.params["messages"][2]["content"] == own, "each member goes on from its own answer"
        for text in ("it is $five {x}", "a minority says six", "- check the sum\n- check units"):
            assert text in late.prompt
    early, late = asked(vendors, "arbiter")
    assert "How many?" in early.prompt
    assert "Be brief." in early.prompt, "the arbiter knows what the members were told"
    assert "earlier rounds" not in early.prompt
    assert "[round 1 " in late.prompt
    assert "confidence 50" not in late.prompt, "its own earlier confidence would anchor it"
    assert "independently" in early.prompt
    assert "independently" not in late.prompt, "they have seen what came of the round before"
    assert "it is $five {x}" in late.prompt
    assert "How many?" in late.prompt


async def test_a_member_that_failed_takes_part_in_the_next_rounds(vendors):
    vendors.script("three", faults.bad_request(), faults.bad_request(), Reply(text="here I am"))
    vendors.script(
        "arbiter", judged(10, "one", refinement_areas=["old"]), judged(10, "two", refinement_areas=["new"]), judged(90)
    )
    record = await run_consortium("What?", config(max_iterations=3))
    assert [one.responses[2].answered for one in record.iterations] == [False, False, True]
    last = asked(vendors, "three")[-1].params["messages"]
    assert [turn["role"] for turn in last] == ["user"]
    assert last[0]["content"].startswith("What?\n\n")
    assert "- new" in last[0]["content"]
    assert "- old" not in last[0]["content"], "only the latest guidance is given"
    assert record.degraded
    assert ("bad_request", "openai/three#1", 1) in kinds(record)


async def test_one_that_failed_later_goes_on_from_its_last_answer(vendors):
    vendors.script("three", Reply(text="early"), faults.bad_request(), Reply(text="late"))
    vendors.script("arbiter", judged(10, "s1"), judged(10, "s2"), judged(90))
    await run_consortium("What?", config(max_iterations=3))
    last = asked(vendors, "three")[-1].params["messages"]
    assert [turn["role"] for turn in last] == ["user", "assistant", "user"]
    assert last[1]["content"] == "early"
    assert "s2" in last[2]["content"]
    assert "s1" not in last[2]["content"]


async def test_instructions_come_first_and_once_wherever_they_stood(vendors):
    vendors.script("arbiter", judged(90))
    earlier = (
        Message(role="user", content="Hello"),
        Message(role="system", content="Speak Latin."),
        Message(role="assistant", content="Salve"),
    )
    await run_consortium("What?", config(system="Be brief."), conversation=earlier)
    for model in ("one", "arbiter"):
        sent = asked(vendors, model)[0].params["messages"]
        assert [turn["role"] for turn in sent] == ["system", "user", "assistant", "user"]
        assert sent[1]["content"] == "Hello"
    assert asked(vendors, "one")[0].system == "Be brief.\n\nSpeak Latin."
    assert "Be brief.\n\nSpeak Latin." in asked(vendors, "arbiter")[0].prompt


async def test_settings_reach_the_wire(vendors):
    vendors.script("arbiter", judged(90))
    settings = {
        "sampling": {"temperature": 0.7, "max_output_tokens": 50},
        "member_settings": {"openai/two": {"temperature": 0.1, "extra": {"service_tier": "flex"}}},
        "arbiter_settings": {"temperature": 0, "seed": 3},
    }
    await run_consortium("What?", config(**settings))
    first, second, arbiter = (asked(vendors, model)[0].params for model in ("one", "two", "arbiter"))
    assert (first["temperature"], first["max_tokens"]) == (0.7, 50)
    assert (second["temperature"], second["max_tokens"], second["service_tier"]) == (0.1, 50, "flex")
    assert (arbiter["temperature"], arbiter["seed"]) == (0, 3)
    assert "max_tokens" not in arbiter


async def test_a_saved_configuration_is_run_by_its_name(vendors):
    vendors.script("arbiter", judged(90))
    settings = {"sampling": {"max_output_tokens": 50}, "member_settings": {"openai/two": {"temperature": 0.1}}}
    await Consortium(config=config(**settings)).save("three-of-mine", overwrite=True)
    record = await consortium("What?", config="three-of-mine")
    assert record.answer == "the synthesis"
    sent = asked(vendors, "two")[0].params
    assert (sent["temperature"], sent["max_tokens"]) == (0.1, 50), "a member's settings lie over those of all"
    with pytest.raises(ConfigurationError, match="no configuration is saved as 'nothing'"):
        await consortium("What?", config="nothing")


async def test_instances_of_one_model_are_asked_apart(vendors):
    vendors.script("one", Reply(text="a"), Reply(text="b"), Reply(text="c"))
    vendors.script("arbiter", judged(90))
    record = await run_consortium("What?", config(members=["openai/one:2", "openai/one"]))
    assert vendors.count("one") == 3
    assert sorted(response.text for response in record.iterations[0].responses) == ["a", "b", "c"]
    assert [response.member for response in record.iterations[0].responses] == [
        "openai/one#1",
        "openai/one#2",
        "openai/one#3",
    ]


async def test_the_second_run_sends_nothing(vendors):
    vendors.script("arbiter", judged(50), judged(90))
    first = await run_consortium("What?", config(max_iterations=2))
    sent = vendors.count()
    assert sent == 8
    second = await run_consortium("What?", config(max_iterations=2))
    assert vendors.count() == sent
    assert second.answer == first.answer
    assert (second.calls, second.cached_calls, second.requests, second.cost_usd) == (8, 8, 0, 0)
    assert all(call.cached for call in second.calls_made())
    fresh = await run_consortium("What?", config(max_iterations=1, fresh=True))
    assert vendors.count() == sent + 4
    assert fresh.cached_calls == 0


async def test_an_arbiter_that_is_a_member_is_warned_of(vendors):
    vendors.script("arbiter", Reply(text="as a member"), judged(90))
    record = await run_consortium("What?", config(members=[ARBITER, "openai/two"]))
    assert kinds(record) == [("self_preference", None, None)]
    assert record.status == "confident"


@pytest.mark.parametrize(
    ("prompt", "settings", "cause"),
    [
        (" \n", {}, "prompt is empty"),
        ("What?", {"members": ["nobody/x", "openai/one"]}, "unknown provider 'nobody'"),
        ("What?", {"arbiter": "huggingface/x"}, "no key for huggingface: set HF_TOKEN"),
        ("What?", {"fallback_arbiters": ["nobody/y"]}, "unknown provider 'nobody'"),
    ],
)
async def test_what_cannot_be_asked_is_found_before_any_call(vendors, prompt, settings, cause):
    with pytest.raises(ConfigurationError, match=cause):
        await run_consortium(prompt, config(**settings))
    state = await consortium(prompt, config(**settings), return_state=True)
    assert state.is_failed()
    assert cause in state.message
    assert vendors.count() == 0


async def test_the_record_is_the_contract(vendors):
    vendors.script("arbiter", judged(92, dissent="one says no", refinement_areas=["units"]))
    vendors.script("three", then=faults.unauthorized())
    record = await consortium("What?", config())
    plain = json.loads(record.model_dump_json())
    assert {
        "flow": "consortium",
        "prompt": "What?",
        "answer": "the synthesis",
        "status": "confident",
        "degraded": True,
        "confidence": 0.92,
        "best_iteration": 1,
        "calls": 4,
        "cached_calls": 0,
    }.items() <= plain.items()
    assert set(plain) >= {"flow_run_id", "warnings", "agreement", "usage", "cost_usd", "duration_s"}
    (iteration,) = plain["iterations"]
    assert set(iteration) >= {"number", "responses", "synthesis"}
    good, _, bad = iteration["responses"]
    assert set(good) >= {
        *("member", "provider", "model", "instance", "text", "finish_reason", "latency_s", "attempts", "cached"),
        *("usage", "cost_usd", "error"),
    }
    assert (good["member"], good["provider"], good["model"], good["instance"]) == ("openai/one#1", "openai", "one", 1)
    assert set(good["usage"]) >= {"input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens"}
    assert good["error"] is None
    assert bad["text"] is None
    assert bad["error"]["kind"] == "auth"
    assert set(bad["error"]) == {"kind", "message", "retryable"}
    assert {
        "text": "the synthesis",
        "confidence": 0.92,
        "analysis": "the analysis",
        "dissent": "one says no",
        "needs_iteration": False,
        "refinement_areas": ["units"],
    }.items() <= iteration["synthesis"].items()
    assert Record.model_validate(plain) == record
    assert plain["flow_run_id"]


async def test_a_megabyte_of_answer_is_no_trouble(vendors):
    vendors.script("one", then=Reply(text="word " * 200_000))
    vendors.script("arbiter", judged(90))
    record = await consortium("What?", config())
    assert len(record.iterations[0].responses[0].text) == 1_000_000
