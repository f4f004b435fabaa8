"""Waiting for a panel: until all have answered, or until the quorum has and the rest took too long."""

import asyncio
import time

import pytest

from consensus_flows.tasks.asking import gather_panel, missed_quorum
from consensus_flows.tasks.calls.ask import Straggler, failing_when_cancelled
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.errors import ModelError
from consensus_flows.tasks.record import CallError, Response

REQUEST = Request(provider="p", model="m", messages=(Message(role="user", content="?"),))


async def answer(seconds=0.0, instance=1, **fields):
    await asyncio.sleep(seconds)
    return Response(member=f"p/m#{instance}", provider="p", model="m", instance=instance, attempts=1, **fields)


async def failure(seconds=0.0, instance=1):
    return await answer(seconds, instance, error=CallError(kind="auth", message="p/m: auth: no"))


async def cut_inside(instance=1):
    """A call as `ask` makes it: cut in the middle, it is an entry in the record."""
    try:
        with failing_when_cancelled("p/m"):
            await asyncio.sleep(60)
    except ModelError as error:
        cause = CallError(kind=error.kind, message=error.message, retryable=error.retryable)
        return await answer(0, instance, error=cause)


async def broken():
    raise RuntimeError("the server of Prefect has gone, key sk-abcdefghijkl")


def gather(*calls, quorum=2, grace=None):
    return gather_panel([(REQUEST, number, call) for number, call in enumerate(calls, 1)], quorum, grace)


def kinds(responses):
    return [response.error and response.error.kind for response in responses]


async def test_without_a_grace_all_are_waited_for_and_keep_their_order():
    found = await gather(answer(0.1, 1), answer(0, 2), answer(0.05, 3))
    assert [response.instance for response in found] == [1, 2, 3]


async def test_a_straggler_is_cut_and_named():
    started = time.monotonic()
    found = await gather(answer(0.05, 1), answer(60, 2), answer(0.05, 3), cut_inside(4), grace=3)
    assert time.monotonic() - started < 20, "not the minute that the straggler takes"
    assert kinds(found) == [None, "straggler", None, "straggler"]
    for straggler in (found[1], found[3]):
        assert "cut after 0." in straggler.error.message
        assert straggler.error.retryable
        assert straggler.attempts == 1


async def test_below_the_quorum_nobody_is_cut():
    found = await gather(answer(0, 1), failure(0, 2), answer(0.3, 3), quorum=2, grace=0.01)
    assert kinds(found) == [None, "auth", None]


async def test_failures_do_not_count_as_answers_nor_for_the_median():
    found = await gather(failure(0, 1), failure(0, 2), answer(0.1, 3), answer(0.2, 4), answer(0.25, 5), grace=2)
    assert kinds(found) == ["auth", "auth", None, None, None]


async def test_time_spent_on_retries_counts():
    """Measured by the last attempt alone the median would be 0.01 s, and the third member cut as the second came in."""
    found = await gather(answer(0.2, 1, latency_s=0.01), answer(0.2, 2, latency_s=0.01), answer(0.3, 3), grace=3)
    assert kinds(found) == [None, None, None]


async def test_an_answer_from_the_store_counts_as_long_as_it_once_took():
    stored = {"cached": True, "latency_s": 0.2}
    found = await gather(answer(0, 1, **stored), answer(0, 2, **stored), answer(0.2, 3), answer(60, 4), grace=2)
    assert kinds(found) == [None, None, None, "straggler"]


async def test_an_exception_of_one_call_is_data():
    found = await gather(broken(), answer(0, 2), answer(0, 3), grace=2)
    assert kinds(found) == ["unknown", None, None]
    assert "RuntimeError: the server of Prefect has gone" in found[0].error.message
    assert "sk-abc" not in found[0].error.message


async def test_cancelling_the_panel_cancels_the_calls():
    calls = [asyncio.ensure_future(answer(60, number)) for number in (1, 2)]
    panel = asyncio.ensure_future(gather(*calls, grace=2))
    await asyncio.sleep(0.05)
    panel.cancel()
    with pytest.raises(asyncio.CancelledError):
        await panel
    assert all(call.cancelled() for call in calls)


async def test_only_a_cut_is_a_failure_any_other_cancellation_stays_one():
    first, second = (asyncio.ensure_future(cut_inside(number)) for number in (1, 2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second.cancel(Straggler("cut after 1.0 s"))
    assert (await second).error.message == "p/m: straggler: cut after 1.0 s"
    assert second.cancelling() == 0


def test_the_quorum_error_lists_every_cause():
    failed = CallError(kind="auth", message="p/m: auth: wrong key")
    slow = CallError(kind="timeout", message="p/m: timeout: none in 3 s")
    fine = Response(member="p/m#1", provider="p", model="m", text="x")
    responses = [
        fine,
        fine.model_copy(update={"member": "p/m#2", "error": failed}),
        fine.model_copy(update={"member": "p/m#3", "error": slow}),
    ]
    assert missed_quorum(responses, 1) is None
    assert missed_quorum(responses, 2) == (
        "1 of 3 members answered, and the quorum is 2. p/m#2: p/m: auth: wrong key; p/m#3: p/m: timeout: none in 3 s"
    )
