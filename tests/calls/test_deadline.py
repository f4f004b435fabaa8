"""A deadline bounds what is under way and every wait, not only the start of a call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from consensus_flows.blocks import Budget, OpenAICompatibleCredentials, Sampling
from consensus_flows.tasks.calls.budget import spending
from consensus_flows.tasks.calls.request import Answer
from consensus_flows.tasks.errors import BudgetError
from tests.kits.asking import VENDORS, asking, outcome, question
from tests.vendors import LoopbackVendors, faults


@pytest.fixture(scope="module")
def server(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackVendors]:
    with asking(tmp_path_factory.mktemp("deadline")) as vendors:
        yield vendors


@pytest.fixture(autouse=True, scope="module")
async def _sdks_are_imported(server: LoopbackVendors) -> None:
    await asyncio.gather(*(outcome(question(provider)) for provider in VENDORS))


@pytest.mark.parametrize("provider", VENDORS)
async def test_a_request_under_way_is_cut_and_booked(server: LoopbackVendors, provider: str) -> None:
    request = question(provider, sampling=Sampling(max_output_tokens=100))
    server.script(request.model, then=faults.hang())
    started = time.monotonic()
    with spending(Budget(max_seconds=0.6)) as budget:
        (error, book), (heard, _) = await asyncio.gather(outcome(request), outcome(question(provider)))
        assert budget.exhausted and budget.tokens >= 120
    assert time.monotonic() - started < 5
    assert isinstance(error, BudgetError) and error.message == "the budget of 0.6 seconds is used up"
    assert isinstance(heard, Answer)
    assert [(sent.maybe_billed, sent.usage) for sent in book.attempts] == [(True, None)]


async def test_a_pause_that_outlasts_the_deadline_is_not_waited_for(server: LoopbackVendors) -> None:
    request = question("openrouter")
    server.script(request.model, then=faults.rate_limit(retry_after=100))
    started = time.monotonic()
    with spending(Budget(max_seconds=30)) as budget:
        error, book = await outcome(request)
        assert (
            isinstance(error, BudgetError)
            and "the call has to wait 100.0 s, after rate_limit: HTTP 429" in error.message
        )
        # Nor does another call wait on the same credentials.
        other, none = await outcome(question("openrouter"))
        assert isinstance(other, BudgetError) and "has to wait" in other.message
        assert budget.refusal and not budget.exhausted
    assert time.monotonic() - started < 10
    assert len(book.attempts) == 1 and not none.attempts and budget.calls == 1


async def test_a_backoff_that_outlasts_the_deadline_is_not_waited_for(
    server: LoopbackVendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSENSUS_BACKOFF_S", "60")
    request = question("anthropic")
    server.script(request.model, then=faults.server_error())
    started = time.monotonic()
    with spending(Budget(max_seconds=30)):
        error, book = await outcome(request)
    assert isinstance(error, BudgetError) and "server: HTTP 500" in error.message
    assert time.monotonic() - started < 10 and len(book.attempts) == 1


async def test_a_place_in_a_minute_beyond_the_deadline_is_not_waited_for(server: LoopbackVendors) -> None:
    await OpenAICompatibleCredentials(base_url=server.openai_url, requests_per_minute=1).save("slow", overwrite=True)
    started = time.monotonic()
    with spending(Budget(max_seconds=30)):
        first, _ = await outcome(question("slow"))
        second, _ = await outcome(question("slow"))
    assert isinstance(first, Answer)
    assert isinstance(second, BudgetError) and time.monotonic() - started < 10
