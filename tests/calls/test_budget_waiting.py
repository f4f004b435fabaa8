"""A call that does not fit beside those under way waits for them; who waits holds nothing, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consensus_flows.blocks import Budget, Sampling
from consensus_flows.blocks.credentials import AnthropicCredentials
from consensus_flows.tasks.calls.budget import (
    OVERRUNS,
    BudgetTracker,
    Overrun,
    Reservation,
    _current,
    reserve,
    spending,
)
from consensus_flows.tasks.calls.pace import Pace
from consensus_flows.tasks.calls.providers import _endpoint
from consensus_flows.tasks.calls.request import Answer, Message, Request
from consensus_flows.tasks.calls.request import Usage as Tokens
from consensus_flows.tasks.errors import BudgetError
from tests.kits.asking import asking, outcome, question
from tests.vendors import LoopbackVendors, Reply, Usage, faults

END = _endpoint("anthropic", AnthropicCredentials(api_key="k"))
INPUT = 20
"""What is reserved for the text of `ask`."""


@pytest.fixture(scope="module")
def server(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackVendors]:
    with asking(tmp_path_factory.mktemp("waiting")) as vendors:
        yield vendors


@pytest.fixture(autouse=True)
def _the_model_has_answered() -> None:
    """Let calls go together: the first one of a model goes alone."""
    OVERRUNS[END.address, "claude-haiku-4-5"] = Overrun()


def ask(tokens: int) -> Request:
    """A call whose worst case is so many tokens."""
    message = Message(role="user", content="Why?")
    return Request(
        provider="anthropic",
        model="claude-haiku-4-5",
        messages=(message,),
        sampling=Sampling(max_output_tokens=tokens - INPUT),
    )


@contextmanager
def spending_from(budget: BudgetTracker) -> Iterator[None]:
    """Let calls be paid from this budget."""
    token = _current.set(budget)
    yield
    _current.reset(token)


async def waiting(budget: BudgetTracker, tokens: int) -> asyncio.Task[Reservation]:
    """Begin to reserve, and let it come as far as it comes."""
    task = asyncio.ensure_future(budget.reserve(ask(tokens), END))
    for _ in range(5):
        await asyncio.sleep(0)
    return task


async def test_a_small_budget_is_spent_before_it_ends(server: LoopbackVendors) -> None:
    request = question(sampling=Sampling(max_output_tokens=100))
    server.script(request.model, then=Reply(text="x", usage=Usage(input=5, output=5), delay=0.02))
    with spending(Budget(max_tokens=400)) as budget:
        found = await asyncio.gather(*(outcome(request.model_copy(update={"sample": n})) for n in range(40)))
        answered = sum(isinstance(result, Answer) for result, _ in found)
        # 28 times 10 tokens leave 120, which is what one more may take.
        assert (answered, budget.tokens) == (29, 290)
    assert server.count(request.model) == 29


async def test_identical_calls_that_wait_for_the_first_hold_nothing(server: LoopbackVendors) -> None:
    request = question(sampling=Sampling(max_output_tokens=100))
    server.script(request.model, then=Reply(text="x", usage=Usage(input=5, output=5), delay=0.2))
    with spending(Budget(max_tokens=130)) as budget:
        calls = [asyncio.ensure_future(outcome(request)) for _ in range(5)]
        while not server.count(request.model):  # noqa: ASYNC110  # the server counts in a thread of its own
            await asyncio.sleep(0.01)
        assert (budget.calls, budget.tokens) == (1, 120)
        assert all(isinstance(result, Answer) for result, _ in await asyncio.gather(*calls))
        assert (budget.calls, budget.tokens) == (1, 10)


async def test_the_deadline_holds_while_one_waits(server: LoopbackVendors) -> None:
    waits = question(sampling=Sampling(max_output_tokens=100))
    with spending(Budget(max_tokens=200, max_seconds=0.6)) as budget:
        await budget.reserve(ask(150), END)
        error, book = await outcome(waits)
        assert isinstance(error, BudgetError) and "0.6 seconds" in error.message and budget.exhausted
        assert not book.attempts and not server.count(waits.model)


async def test_a_pause_that_a_vendor_asks_for_is_kept_by_who_waited_for_the_budget(server: LoopbackVendors) -> None:
    first = question("anthropic", sampling=Sampling(max_output_tokens=100))
    other = first.model_copy(update={"sample": 1})
    server.script(first.model, faults.rate_limit(retry_after=0.5), then=Reply(text="x", usage=Usage(input=5, output=5)))
    with spending(Budget(max_tokens=200)):
        found = await asyncio.gather(outcome(first), outcome(other))
    assert all(isinstance(result, Answer) for result, _ in found)
    times = [seen.at for seen in server.seen if seen.model == first.model]
    assert len(times) == 3 and times[1] - times[0] >= 0.5


async def test_what_never_fits_is_refused_at_once_and_what_does_goes_on() -> None:
    budget = BudgetTracker(Budget(max_tokens=1000))
    held = await budget.reserve(ask(700), END)
    with pytest.raises(BudgetError, match="1000 tokens has 1000 left, and the call may take 1001"):
        await budget.reserve(ask(1001), END)
    assert budget.refusal and not budget.exhausted
    small = await budget.reserve(ask(300), END)
    for one in (held, small):
        one.settle(Tokens(input_tokens=500), 0.0)
    assert budget.tokens == 1000
    with pytest.raises(BudgetError):
        await budget.reserve(ask(INPUT + 1), END)
    assert budget.exhausted, "there is nothing left"


async def test_nobody_overtakes_a_larger_call() -> None:
    budget = BudgetTracker(Budget(max_tokens=1000))
    first, second = await budget.reserve(ask(400), END), await budget.reserve(ask(400), END)
    large, small = await waiting(budget, 900), await waiting(budget, 100)
    assert not large.done() and not small.done(), "there is room for the small one, but the large one came before"
    first.settle(Tokens(), 0.0)
    second.settle(Tokens(), 0.0)
    await asyncio.sleep(0)
    assert (await large).held and (await small).held and budget.tokens == 1000


async def test_a_row_that_waits_for_its_own_budget_holds_up_no_other_row() -> None:
    batch = BudgetTracker(Budget(max_tokens=10_000))
    row, other = BudgetTracker(Budget(max_tokens=500), batch), BudgetTracker(Budget(max_tokens=500), batch)
    held = await row.reserve(ask(400), END)
    waits = await waiting(row, 400)
    assert not waits.done()
    assert (await other.reserve(ask(400), END)).held
    held.settle(Tokens(), 0.0)
    assert (await waits).held and (row.tokens, batch.tokens) == (400, 800)


async def test_who_is_cancelled_leaves_nothing_and_the_next_goes_on() -> None:
    budget = BudgetTracker(Budget(max_tokens=1000))
    held = await budget.reserve(ask(600), END)
    large, small = await waiting(budget, 900), await waiting(budget, 300)
    large.cancel()
    await asyncio.wait([large])
    assert (await small).held and (budget.calls, budget.tokens) == (2, 900)
    for one in (held, small.result()):
        one.settle(Tokens(), 0.0)
    # Cancelled in the very moment in which its turn has come.
    held = await budget.reserve(ask(900), END)
    late = await waiting(budget, 900)
    held.settle(Tokens(), 0.0)
    late.cancel()
    await asyncio.wait([late])
    assert (budget.calls, budget.tokens, budget.cost_usd) == (3, 0, 0.0)


@settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
@given(
    st.integers(100, 3000),
    st.lists(st.tuples(st.integers(21, 1500), st.integers(0, 1500), st.sampled_from("slc")), max_size=25),
    st.integers(0, 2**32),
)
async def test_all_waits_end_and_nothing_is_refused_that_would_fit(most, calls, seed):
    chance = random.Random(seed)
    outer = BudgetTracker(Budget(max_tokens=most, max_cost_usd=0.008))
    inner = [BudgetTracker(Budget(max_tokens=most // 2), outer) for _ in range(2)]
    refused: list[int] = []

    async def spend(budget: BudgetTracker, tokens: int, used: int, end: str) -> None:
        try:
            held = await budget.reserve(ask(tokens), END)
        except BudgetError:
            if budget is outer:
                refused.append(tokens)
            return
        assert outer.tokens <= most and outer.cost_usd <= 0.008 + 1e-12
        try:
            await asyncio.sleep(chance.random() / 1000)
        finally:
            if end == "s":
                held.settle(Tokens(output_tokens=min(used, tokens)), 0.0)
            else:
                held.settle(None, None, lost=True)

    async def one(budget: BudgetTracker, tokens: int, used: int, end: str) -> None:
        task = asyncio.ensure_future(spend(budget, tokens, used, end))
        if end == "c":
            await asyncio.sleep(chance.random() / 1000)
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.exception() is None

    async with asyncio.timeout(10):
        await asyncio.gather(*(one(chance.choice([outer, *inner]), *call) for call in calls))
    assert not outer.queue._waiting and not any((outer._open, outer._open_tokens, outer._open_usd))
    worst = {tokens: 1e-6 * INPUT + 5e-6 * (tokens - INPUT) for tokens in refused}
    assert all(outer.tokens + n > most or outer.cost_usd + cost > 0.008 - 1e-12 for n, cost in worst.items())


async def test_seconds_are_checked_without_a_wait() -> None:
    budget = BudgetTracker(Budget(max_seconds=0.02))
    time.sleep(0.03)  # noqa: ASYNC251  # nothing else has to go on
    with pytest.raises(BudgetError, match=r"0\.02 seconds is used up"):
        await budget.reserve(ask(100), END)


async def test_what_was_never_sent_is_not_counted_as_a_call() -> None:
    budget = BudgetTracker(Budget(max_calls=1))
    first = await budget.reserve(ask(100), END)
    second = await waiting(budget, 100)
    assert not second.done(), "the first may never be sent"
    first.cancel()
    (await second).mark_sent()
    assert (budget.calls, budget.exhausted) == (1, False)
    with pytest.raises(BudgetError):
        await budget.reserve(ask(100), END)
    assert budget.exhausted


async def test_who_waits_for_a_call_that_is_then_sent_is_refused() -> None:
    budget = BudgetTracker(Budget(max_calls=1))
    first = await budget.reserve(ask(100), END)
    second = await waiting(budget, 100)
    first.mark_sent()
    with pytest.raises(BudgetError, match="1 call is used up"):
        await second


async def test_calls_that_waited_for_a_budget_keep_their_distance() -> None:
    """Requests a minute hold for those too that were let go on at the same moment."""
    pace, budget, sent = Pace(9, 1200), BudgetTracker(Budget(max_tokens=1000)), []
    large = await budget.reserve(ask(1000), END)

    async def call() -> None:
        async with pace.turn() as turn:
            with spending_from(budget):
                reservation = await reserve(ask(100), END, turn.released)
            assert reservation is not None
            sent.append(time.monotonic())
            reservation.settle(Tokens(), 0.0)

    calls = [asyncio.ensure_future(call()) for _ in range(5)]
    await asyncio.sleep(0.5)
    assert not sent
    large.settle(Tokens(), 0.0)
    await asyncio.gather(*calls)
    assert sent[-1] - sent[0] >= 0.15, "50 ms apart"
