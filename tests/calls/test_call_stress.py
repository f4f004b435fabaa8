"""More calls at once than the result folder keeps at hand: every one gets its own answer, is paid once, and is found again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from prefect import flow
from pydantic import SecretStr

from consensus_flows.blocks import OpenAICompatibleCredentials
from consensus_flows.tasks.calls import storage
from consensus_flows.tasks.calls.ask import _under_way, once
from consensus_flows.tasks.calls.call import Caller
from consensus_flows.tasks.calls.request import Answer, Request
from consensus_flows.tasks.errors import BudgetError
from consensus_flows.tasks.record import Response
from tests.kits.asking import answer, asking, forget, question, stored
from tests.vendors import LoopbackVendors, Reply, SeenRequest

AT_HAND = 64
"""A quarter of what it keeps at hand otherwise."""
CALLS = AT_HAND + 32


@pytest.fixture(scope="module")
def server(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackVendors]:
    with pytest.MonkeyPatch.context() as patched, asking(tmp_path_factory.mktemp("stress")) as vendors:
        patched.setattr(storage, "AT_HAND", AT_HAND)
        yield vendors


def echo(seen: SeenRequest) -> Reply:
    return Reply(text=f"{seen.prompt}: {seen.index}", delay=0.05)


@flow
async def asks(requests: list[Request], *, fresh: bool = False) -> list[Response]:
    return list(await asyncio.gather(*(Caller(fresh=fresh)(request) for request in requests)))


async def test_no_answer_is_lost_or_mixed_up_or_paid_twice(server: LoopbackVendors) -> None:
    saved = OpenAICompatibleCredentials(api_key=SecretStr("sk-test"), base_url=server.openai_url, max_concurrency=CALLS)
    await saved.save("stress", overwrite=True)
    forget()
    model = question().model
    server.script(model, then=echo)
    requests = [question("stress", f"number {number}", model=model) for number in range(CALLS)]

    # Every tenth comes twice.
    first = await asks([*requests, *requests[::10]])
    assert [response.error for response in first if response.error] == []
    assert [(response.text or "").partition(":")[0] for response in first[:CALLS]] == [
        request.messages[0].content for request in requests
    ]
    assert [response.text for response in first[CALLS:]] == [response.text for response in first[:CALLS:10]]
    assert server.count(model) == CALLS
    assert len(stored()) == CALLS
    assert not [warning for response in first for warning in response.warnings]

    again = await asks(requests)
    assert [response.text for response in again] == [response.text for response in first[:CALLS]]
    assert all(response.cached for response in again)
    assert server.count(model) == CALLS

    # Some are asked anew while all are read: who reads gets the old answer or the new one, and later the new one.
    renewed = requests[::4]
    anew, meanwhile = await asyncio.gather(asks(renewed, fresh=True), asks(requests))
    assert [response.error for response in (*anew, *meanwhile) if response.error] == []
    assert server.count(model) == CALLS + len(renewed)
    last = await asks(requests)
    assert [response.text for response in last[::4]] == [response.text for response in anew]
    assert server.count(model) == CALLS + len(renewed)
    assert len(stored()) == CALLS, "nothing half-written is left beside them"


async def test_a_budget_is_no_one_elses(server: LoopbackVendors) -> None:
    """The first of two identical calls has nothing left to spend; the other must not fail of that."""
    request = question()
    server.script(request.model, then=Reply(text="paid by the other"))
    hold = asyncio.Event()

    async def poor() -> Answer:
        await hold.wait()
        raise BudgetError("the budget of 0 calls is used up")

    async def rich() -> Answer:
        return await answer(request)

    first = asyncio.create_task(once("one key", poor))
    await asyncio.sleep(0)
    others = [asyncio.create_task(once("one key", rich)) for _ in range(3)]
    await asyncio.sleep(0)
    hold.set()
    with pytest.raises(BudgetError):
        await first
    assert [found.text for found in await asyncio.gather(*others)] == ["paid by the other"] * 3
    assert server.count(request.model) == 1
    assert _under_way == {}
