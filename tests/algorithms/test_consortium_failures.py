"""Members that fail, members that are slow, and budgets that run out: what is lost, and what Prefect shows of it."""

import asyncio
import time

import pytest
from prefect.client.orchestration import get_client

from consensus_flows.flows.consortium import consortium, run_consortium
from consensus_flows.tasks.errors import QuorumError
from tests.kits.consortium_kit import asked, config, judged, say
from tests.kits.kinds import kinds
from tests.vendors import Reply, faults

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]


async def task_runs(flow_run_id, count):
    """The task runs of a flow run, as the server shows them; it learns of them a moment later."""
    async with get_client() as client:
        for _ in range(600):
            body = {"flow_runs": {"id": {"any_": [str(flow_run_id)]}}}
            runs = (await client.request("POST", "/task_runs/filter", json=body)).json()
            if len(runs) >= count and all(run["state_type"] in {"COMPLETED", "FAILED", "CRASHED"} for run in runs):
                break
            await asyncio.sleep(0.1)
    return {run["name"]: run["state"] for run in runs}


async def test_below_the_quorum_the_run_fails_with_every_cause(vendors):
    say(vendors, one="fine")
    vendors.script("two", then=faults.unauthorized())
    vendors.script("three", then=faults.bad_request("no such thing"))
    state = await consortium("What?", config(), return_state=True)
    assert state.is_failed()
    for text in (
        "1 of 3 members answered, and the quorum is 2",
        "openai/two#1: openai/two: auth: HTTP 401",
        "no such thing",
    ):
        assert text in state.message
    with pytest.raises(QuorumError) as raised:
        await state.aresult()
    record = raised.value.record
    assert (record.status, record.answer, record.error) == ("failed", None, raised.value.message)
    assert vendors.count("arbiter") == 0
    # Nothing that was paid for is lost.
    say(vendors, two="two", three="three")
    vendors.script("arbiter", judged(90))
    record = await consortium("What?", config())
    assert record.answer == "the synthesis"
    assert [vendors.count(model) for model in ("one", "two", "three", "arbiter")] == [1, 2, 2, 1]


async def test_all_members_fail(vendors):
    for model in ("one", "two", "three"):
        vendors.script(model, then=faults.insufficient_quota())
    with pytest.raises(QuorumError) as raised:
        await consortium("What?", config())
    for member in ("openai/one#1", "openai/two#1", "openai/three#1"):
        assert f"{member}: " in raised.value.message
    assert raised.value.message.count("quota: HTTP 429") == 3


async def test_a_quorum_lost_later_keeps_the_earlier_answer(vendors):
    for model in ("one", "two"):
        vendors.script(model, Reply(text="early"), faults.unauthorized())
    vendors.script("arbiter", judged(50, "of the first round"))
    record = await consortium("What?", config(max_iterations=3))
    assert (record.answer, record.best_iteration, record.status) == ("of the first round", 1, "finished")
    assert record.degraded
    (unfinished,) = [warning for warning in record.warnings if warning.kind == "unfinished"]
    assert unfinished.iteration == 2
    assert "openai/one#1: openai/one: auth" in unfinished.message, "it says why"
    assert len(record.iterations) == 2
    assert record.iterations[1].synthesis is None


async def test_one_failure_within_the_quorum_is_named_and_does_not_end_the_run(vendors):
    vendors.script("two", then=faults.refusal("I will not."))
    vendors.script("arbiter", judged(90))
    record = await run_consortium("What?", config())
    assert (record.status, record.degraded) == ("confident", True)
    assert record.iterations[0].responses[1].error.kind == "content_filter"
    assert ("content_filter", "openai/two#1", 1) in kinds(record)


async def test_a_straggler_is_cut_named_and_no_crash(vendors, caplog):
    vendors.script("two", then=faults.hang())
    vendors.script("arbiter", judged(90))
    started = time.monotonic()
    record = await consortium("What?", config(straggler_grace=5, timeout=60))
    assert time.monotonic() - started < 10
    slow = record.iterations[0].responses[1]
    assert slow.error.kind == "straggler"
    assert slow.error.retryable
    assert (slow.attempts, slow.possibly_billed) == (1, 1)
    assert (record.status, record.degraded, record.answer) == ("confident", True, "the synthesis")
    assert ("straggler", "openai/two#1", 1) in kinds(record)
    assert vendors.count("two") == 1, "a cut call is not tried again"
    states = await task_runs(record.flow_run_id, 4)
    cut = states["ask openai/two #1 · iteration 1"]
    assert cut["type"] == "FAILED"
    assert "openai/two: straggler: cut after" in cut["message"]
    assert "Crash" not in caplog.text
    # The next run asks the one that was cut, and the arbiter, who has more to judge then.
    say(vendors, two="at last")
    vendors.script("arbiter", judged(95))
    second = await consortium("What?", config(straggler_grace=5, timeout=60))
    assert [vendors.count(model) for model in ("one", "two", "three", "arbiter")] == [1, 2, 1, 2]
    assert not second.degraded


async def test_a_straggler_between_two_attempts_does_not_hold_the_run_up(vendors, monkeypatch):
    monkeypatch.setenv("CONSENSUS_BACKOFF_S", "30")
    vendors.script("two", then=faults.server_error())
    vendors.script("arbiter", judged(90))
    started = time.monotonic()
    record = await consortium("What?", config(straggler_grace=5))
    assert time.monotonic() - started < 10
    slow = record.iterations[0].responses[1]
    assert (slow.error.kind, slow.possibly_billed) == ("straggler", 0)
    assert record.status == "confident"


async def test_a_call_held_back_is_no_reason_to_cut_the_others(vendors):
    """All are held back by one Retry-After; measured by the last attempt alone, the slowest would be cut at once."""
    vendors.script("one", faults.rate_limit(retry_after=0.6), Reply(text="one"))
    vendors.script("two", faults.after(0.05, faults.rate_limit(retry_after=0.6)), Reply(text="two"))
    vendors.script("three", faults.after(0.05, faults.rate_limit(retry_after=0.6)), Reply(text="three", delay=0.4))
    vendors.script("arbiter", judged(90))
    record = await run_consortium("What?", config(straggler_grace=3))
    assert [response.error for response in record.iterations[0].responses] == [None, None, None]


async def test_a_budget_ends_the_run_with_the_best_answer_so_far(vendors):
    vendors.script("arbiter", then=judged(50, "so far"))
    record = await consortium("What?", config(max_iterations=3, budget={"max_calls": 6}))
    assert vendors.count() == 6
    assert (record.status, record.answer, record.best_iteration) == ("budget", "so far", 1)
    assert record.degraded
    refused = [r for r in record.iterations[1].responses if r.error]
    assert [(r.error.kind, r.attempts, r.cost_usd) for r in refused] == [("budget", 0, 0)]


async def test_a_budget_that_does_not_reach_the_arbiter_gives_the_nearest_answer(vendors):
    say(vendors, one="red green", two="red blue", three="red")
    record = await consortium("What?", config(max_iterations=3, budget={"max_calls": 3}))
    assert vendors.count() == 3
    assert (record.status, record.answer, record.confidence, record.degraded) == ("budget", "red", None, True)


async def test_a_budget_below_the_quorum_still_gives_what_it_paid_for(vendors):
    record = await consortium("What?", config(budget={"max_calls": 1}))
    assert vendors.count() == 1
    (paid,) = [r for r in record.iterations[0].responses if r.answered]
    assert (record.status, record.answer, record.degraded) == ("budget", paid.text, True)
    assert record.iterations[0].synthesis.chosen == paid.member


async def test_a_budget_that_pays_for_nothing_fails(vendors):
    state = await consortium("What?", config(budget={"max_tokens": 10}), return_state=True)
    assert state.is_failed()
    assert vendors.count() == 0
    assert state.message.count("the budget of 10 tokens has 10 left") == 3
    with pytest.raises(QuorumError) as raised:
        await state.aresult()
    assert raised.value.record.status == "failed"


async def test_task_runs_and_the_flow_run_have_names_that_can_be_read(vendors):
    vendors.script("arbiter", judged("?"), judged(50), judged(90))
    question = "How many roads\nmust a man walk down before you can call him a man, in all?"
    record = await consortium(question, config(members=["openai/one:2"], max_iterations=2))
    async with get_client() as client:
        run = await client.read_flow_run(record.flow_run_id)
    assert run.name == "How many roads must a man walk down before you can call him…"
    assert set(await task_runs(record.flow_run_id, 7)) == {
        "ask openai/one #1 · iteration 1",
        "ask openai/one #2 · iteration 1",
        "ask arbiter openai/arbiter · iteration 1",
        "ask arbiter openai/arbiter · iteration 1 · again",
        "ask openai/one #1 · iteration 2",
        "ask openai/one #2 · iteration 2",
        "ask arbiter openai/arbiter · iteration 2",
    }
    assert len(asked(vendors, "one")) == 4
