"""A budget covers a call before it is sent, and calls at once never overshoot."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from consensus_flows.blocks import Budget, Sampling
from consensus_flows.tasks.calls.budget import ASSUMED_OUTPUT_TOKENS, spending
from consensus_flows.tasks.calls.pricing import priced as given_prices
from consensus_flows.tasks.calls.request import Answer, Request
from consensus_flows.tasks.errors import BudgetError
from tests.kits.asking import asking, outcome, question
from tests.vendors import LoopbackVendors, Reply, Usage, faults

MODEL = "claude-haiku-4-5"
"""One dollar for a million tokens in, five for a million out."""


@pytest.fixture(scope="module")
def server(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackVendors]:
    with asking(tmp_path_factory.mktemp("budget")) as vendors:
        yield vendors


def priced(text: str, sample: int = 0, **settings: Any) -> Request:
    return question("anthropic", text, model=MODEL, sample=sample, sampling=Sampling(**settings))


async def kinds(*requests: Request) -> list[str]:
    found = [result for result, _ in await asyncio.gather(*(outcome(request) for request in requests))]
    return sorted("answer" if isinstance(result, Answer) else result.kind for result in found)


async def test_calls(server: LoopbackVendors) -> None:
    request = question()
    with spending(Budget(max_calls=2)) as budget:
        found = await kinds(*(request.model_copy(update={"sample": n}) for n in range(5)))
        assert budget.calls == 2
    assert found == ["answer"] * 2 + ["budget"] * 3
    assert server.count(request.model) == 2


async def test_calls_count_retries(server: LoopbackVendors) -> None:
    request = question()
    server.script(request.model, then=faults.server_error())
    with spending(Budget(max_calls=2)):
        error, _ = await outcome(request)
    assert isinstance(error, BudgetError)
    assert server.count(request.model) == 2


async def test_calls_count_repairs(server: LoopbackVendors) -> None:
    request = question(sampling=Sampling(temperature=0.5))
    server.script(request.model, faults.unsupported_parameter("temperature"))
    with spending(Budget(max_calls=1)):
        error, _ = await outcome(request)
    assert isinstance(error, BudgetError)
    assert server.count(request.model) == 1


async def test_a_stored_answer_takes_nothing(server: LoopbackVendors) -> None:
    request = question()
    await outcome(request)
    with spending(Budget(max_calls=1)) as budget:
        assert await kinds(request, request, request) == ["answer"] * 3
        assert (budget.calls, budget.tokens, budget.cost_usd) == (0, 0, 0.0)


async def test_tokens_are_reserved_and_settled(server: LoopbackVendors) -> None:
    request = question(sampling=Sampling(max_output_tokens=100))
    server.script(request.model, then=Reply(text="x", usage=Usage(input=10, output=20), delay=0.1))
    requests = [request.model_copy(update={"sample": n}) for n in range(6)]
    # The worst case of one is 20 in and 100 out: two fit at once. What they did not use is free again for the others,
    # until the worst case of the sixth does not fit beside what five have really used.
    with spending(Budget(max_tokens=240)) as budget:
        assert await kinds(*requests) == ["answer"] * 5 + ["budget"]
        assert budget.tokens == 150


async def test_the_answer_of_a_call_without_a_limit_is_assumed(server: LoopbackVendors) -> None:
    with spending(Budget(max_tokens=ASSUMED_OUTPUT_TOKENS)):
        error, _ = await outcome(question())
    assert isinstance(error, BudgetError)
    assert f"the budget of {ASSUMED_OUTPUT_TOKENS} tokens has {ASSUMED_OUTPUT_TOKENS} left" in error.message


async def test_dollars_never_overshoot(server: LoopbackVendors) -> None:
    server.script(MODEL, then=Reply(text="x", usage=Usage(input=10, output=1000), delay=0.05))
    requests = [priced("Dollars?", n, max_output_tokens=1000) for n in range(8)]
    with spending(Budget(max_cost_usd=0.0161)) as budget:
        assert await kinds(*requests) == ["answer"] * 3 + ["budget"] * 5
        assert budget.cost_usd == pytest.approx(3 * (1000 * 5e-6 + 10 * 1e-6))
        assert budget.cost_usd <= 0.0161


async def test_a_refused_call_costs_nothing(server: LoopbackVendors) -> None:
    request = priced("Refused?", max_output_tokens=1000)
    server.script(MODEL, faults.unauthorized())
    with spending(Budget(max_cost_usd=0.006)) as budget:
        assert await kinds(request) == ["auth"]
        assert (budget.calls, budget.tokens, budget.cost_usd) == (1, 0, 0.0)
        assert await kinds(request) == ["answer"]


async def test_a_lost_call_stays_booked_at_its_worst(server: LoopbackVendors) -> None:
    request = priced("Lost?", max_output_tokens=1000)
    server.script(MODEL, then=faults.close_before())
    with spending(Budget(max_cost_usd=0.006)) as budget:
        assert await kinds(request) == ["budget"]
        assert budget.calls == 1
        assert 0.005 < budget.cost_usd < 0.006


async def test_a_cancelled_call_stays_booked_at_its_worst(server: LoopbackVendors) -> None:
    request = question(sampling=Sampling(max_output_tokens=100))
    server.script(request.model, then=faults.hang())
    with spending(Budget(max_tokens=1000)) as budget:
        call = asyncio.create_task(outcome(request))
        while server.count(request.model) == 0:  # noqa: ASYNC110  # the server counts in a thread of its own
            await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.wait([call])
        assert budget.tokens == 120


async def test_a_budget_in_dollars_holds_for_what_has_a_price(server: LoopbackVendors) -> None:
    request = question()
    with spending(Budget(max_cost_usd=1)) as budget:
        await outcome(request)
        assert (server.count(request.model), budget.cost_usd) == (1, 0)
        with given_prices({request.name: (1e6, 1e6)}):
            error, _ = await outcome(request.model_copy(update={"sample": 1}))
    assert isinstance(error, BudgetError)
    assert server.count(request.model) == 1


async def test_seconds(server: LoopbackVendors) -> None:
    request = question()
    with spending(Budget(max_seconds=0.05)):
        await asyncio.sleep(0.1)
        error, _ = await outcome(request)
    assert isinstance(error, BudgetError)
    assert server.count(request.model) == 0


async def test_an_inner_budget_is_within_the_outer(server: LoopbackVendors) -> None:
    request = question()
    requests = [request.model_copy(update={"sample": n}) for n in range(5)]
    with spending(Budget(max_calls=3)) as outer:
        with spending(Budget(max_calls=2)) as inner:
            assert await kinds(*requests[:3]) == ["answer", "answer", "budget"]
        assert (inner.calls, outer.calls) == (2, 2)
        with spending(Budget(max_calls=2)):
            assert await kinds(*requests[3:]) == ["answer", "budget"]
    assert server.count(request.model) == 3
