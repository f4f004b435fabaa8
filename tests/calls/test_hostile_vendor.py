"""What a server says is bounded: the size of its response, the tokens and the cost that it reports."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from consensus_flows.blocks import Budget, Sampling
from consensus_flows.tasks.calls.budget import OVERRUNS, spending
from consensus_flows.tasks.calls.call import Caller
from consensus_flows.tasks.calls.request import Answer
from tests.kits.asking import VENDORS, answer, asking, outcome, question
from tests.vendors import LoopbackVendors, Reply, Usage, faults

MB = 1_000_000


@pytest.fixture(scope="module")
def server(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackVendors]:
    with asking(tmp_path_factory.mktemp("hostile"), CONSENSUS_MAX_RESPONSE_MB="1") as vendors:
        yield vendors


def packed(times: int) -> Reply:
    """A kilobyte that is 50 MB, packed so many times."""
    body = b'{"id": "' + b"a" * 50 * MB + b'"}'
    for _ in range(times):
        body = gzip.compress(body)
    return Reply(body=body, headers={"content-encoding": ", ".join(["gzip"] * times)})


@pytest.mark.parametrize("provider", VENDORS)
async def test_a_response_that_is_too_large_is_not_read(server: LoopbackVendors, provider: str) -> None:
    for reply in (Reply(text="a" * 2 * MB), packed(1), packed(2)):
        request = question(provider, sampling=Sampling(max_output_tokens=10))
        server.script(request.model, then=reply)
        with spending(Budget(max_tokens=1000)) as budget:
            error, book = await outcome(request)
            assert error.kind == "malformed" and len(error.message) < 300
            assert [sent.maybe_billed for sent in book.attempts] == [True, True]
            assert budget.tokens == 2 * 30, "both stay booked at their worst case"


async def test_a_large_response_below_the_maximum_is_read(server: LoopbackVendors) -> None:
    request = question()
    server.script(request.model, then=Reply(text="a" * 900_000))
    assert len((await answer(request)).text) == 900_000
    body = json.dumps(
        {"choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "b" * 900_000}}]}
    )
    request = question()
    server.script(request.model, then=Reply(body=gzip.compress(body.encode()), headers={"content-encoding": "gzip"}))
    assert len((await answer(request)).text) == 900_000


@pytest.mark.parametrize("provider", VENDORS)
async def test_an_error_page_of_50_mb_holds_up_nobody(server: LoopbackVendors, provider: str) -> None:
    request = question(provider)
    page = Reply(status=400, headers={"content-type": "text/html"}, body=b"<p>x " * 10 * MB)
    server.script(request.model, then=page)
    started = time.process_time()
    error, book = await outcome(request)
    assert (error.kind, error.status, book.attempts[0].maybe_billed) == ("bad_request", 400, False)
    assert time.process_time() - started < 2, "all of it took five, and twenty the server that sends it not counted"


@pytest.mark.parametrize("provider", VENDORS)
@pytest.mark.parametrize("counts", [(0, 0), (0, 7), (7, 0)])
async def test_no_tokens_beside_a_text_are_no_usage(
    server: LoopbackVendors, provider: str, counts: tuple[int, int]
) -> None:
    request = question(provider, sampling=Sampling(max_output_tokens=100))
    server.script(request.model, then=Reply(text="x", usage=Usage(*counts)))
    with spending(Budget(max_tokens=1000)) as budget:
        result, book = await outcome(request)
        assert isinstance(result, Answer) and book.attempts[0].usage is None
        assert budget.tokens == 120
    assert any("a token usage that cannot be true" in doubt for doubt in result.doubts)


async def test_a_cost_or_a_count_that_cannot_be_takes_no_more_than_the_worst_case(server: LoopbackVendors) -> None:
    for counts, doubt in (
        (Usage(5, 5, cost=1e300), "reported a cost that cannot be true"),
        (Usage(999_999_999, 5, cost=0.0), "reported no token usage"),
    ):
        request = question("openrouter", model="openai/gpt-4o-mini", sampling=Sampling(max_output_tokens=100))
        server.script(request.model, then=Reply(text="x", usage=counts))
        with spending(Budget(max_cost_usd=1)) as budget:
            response = await Caller(fresh=True)(request)
            assert budget.cost_usd < 0.001 and budget.tokens <= 120
        assert any(doubt in warning.message for warning in response.warnings), response.warnings


@pytest.mark.parametrize(
    ("counts", "limits", "most"),
    [
        (Usage(10, 5, cost=0.02), {"max_cost_usd": 0.05}, 2),
        (Usage(220_000, 5, cost=0.0), {"max_tokens": 500_000}, 2),
    ],
)
async def test_what_a_model_takes_beyond_its_worst_case_is_reserved_for_the_next_calls(
    server: LoopbackVendors, counts: Usage, limits: dict[str, Any], most: int
) -> None:
    model = f"openai/gpt-4o-mini{'' if counts.cost else '-2024-07-18'}"
    OVERRUNS.clear()
    request = question("openrouter", model=model, sampling=Sampling(max_output_tokens=100))
    server.script(model, then=Reply(text="x", usage=counts, delay=0.05))
    requests = [request.model_copy(update={"sample": n}) for n in range(16)]
    with spending(Budget(**limits)) as budget:
        found = [result for result, _ in await asyncio.gather(*(outcome(request, fresh=True) for request in requests))]
        assert sum(isinstance(result, Answer) for result in found) == most
        assert budget.cost_usd <= 0.05 and budget.tokens <= 500_000


async def test_the_first_call_does_not_go_alone_where_the_budget_has_plenty_left(server: LoopbackVendors) -> None:
    request = question(timeout=20)
    server.reset()
    server.together = 4
    server.script(request.model, then=Reply(text="x"))
    with spending(Budget(max_tokens=10_000_000)):
        found = await asyncio.gather(*(outcome(request.model_copy(update={"sample": n})) for n in range(4)))
    server.reset()
    assert all(isinstance(result, Answer) for result, _ in found), "they were there together, or none was answered"


async def test_a_first_call_that_hangs_keeps_the_others_waiting_once(server: LoopbackVendors) -> None:
    request = question(timeout=0.5)
    server.script(request.model, faults.hang(), faults.hang(), faults.hang(), then=faults.hang())
    with spending(Budget(max_tokens=100_000)):
        await asyncio.gather(*(outcome(request.model_copy(update={"sample": n})) for n in range(4)))
    first, *rest = sorted(seen.at for seen in server.seen if seen.model == request.model)
    assert rest[0] - first >= 0.4 and rest[2] - rest[0] < 0.4, "the other three went together"


async def test_only_the_first_call_of_a_model_goes_alone(server: LoopbackVendors) -> None:
    request, other = question(), question()
    for one in (request, other):
        server.script(one.model, then=Reply(text="x", delay=0.2))
    requests = [one.model_copy(update={"sample": n}) for one in (request, other) for n in range(4)]
    with spending(Budget(max_tokens=100_000)):
        assert all(isinstance(result, Answer) for result, _ in await asyncio.gather(*map(outcome, requests)))
    for one in (request, other):
        first, *rest = sorted(seen.at for seen in server.seen if seen.model == one.model)
        assert rest[0] - first >= 0.2 and rest[-1] - rest[0] < 0.2
