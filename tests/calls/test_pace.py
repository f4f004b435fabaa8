"""Calls go as fast as a provider takes them: calls at once, and requests and tokens a minute by its headers."""

import asyncio
import math
import time
from datetime import UTC, datetime, timedelta

import pytest

from consensus_flows.tasks.calls.failures import Verdict
from consensus_flows.tasks.calls.pace import LESS, START, Bucket, Pace, pace_of, said
from consensus_flows.tasks.calls.providers import endpoint_of
from tests.kits.asking import answer, question
from tests.vendors import LoopbackVendors, Reply, faults


def openai(limit: int, remaining: int, reset: str, kind: str = "requests") -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{kind}": str(limit),
        f"x-ratelimit-remaining-{kind}": str(remaining),
        f"x-ratelimit-reset-{kind}": reset,
    }


async def full(pace: Pace, model: str = "m", more: int = 5) -> "list[asyncio.Task[None]]":
    """Begin so many calls as may go at once, and some that have to wait."""

    async def call() -> None:
        async with pace.turn(model):
            await asyncio.Event().wait()

    calls = [asyncio.ensure_future(call()) for _ in range(int(pace.at_once) + more)]
    await asyncio.sleep(0)
    return calls


async def ended(calls: "list[asyncio.Task[None]]") -> None:
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_more_go_at_once_until_the_provider_is_overloaded_and_then_fewer() -> None:
    pace = Pace()
    pace.grow()
    assert pace.at_once == START, "nobody waits: it is not what holds calls back"
    calls = await full(pace)
    for _ in range(3):
        pace.grow()
    await asyncio.sleep(0)
    assert pace.at_once == START + 3 == pace.under_way.total()
    began = time.monotonic()
    for _ in range(3):
        pace.shrink(began)
    assert pace.at_once == pytest.approx((START + 3) * LESS), "one round of refusals counts once"
    before = pace.at_once
    pace.grow()
    assert pace.at_once == pytest.approx(before + 1 / before), "from now on one more a round"
    await ended(calls)
    assert pace.under_way.total() == 0
    limited = Pace(4)
    calls = await full(limited)
    limited.grow()
    assert limited.at_once == 4, "what the user says is the most"
    await ended(calls)


async def test_a_free_slot_goes_to_the_model_that_has_the_fewest() -> None:
    pace, order = Pace(2), []

    async def call(model: str) -> None:
        async with pace.turn(model):
            order.append(model)
            await asyncio.sleep(0.01)

    many = [asyncio.ensure_future(call("many")) for _ in range(6)]
    await asyncio.sleep(0)
    await asyncio.gather(call("few"), call("few"), *many)
    assert order[:2] == ["many", "many"] and set(order[2:4]) == {"few", "many"} and set(order[4:6]) == {"few", "many"}


async def test_a_call_that_is_cancelled_while_it_waits_takes_no_slot() -> None:
    pace = Pace(1)
    calls = await full(pace, more=2)
    await ended(calls)
    async with asyncio.timeout(1), pace.turn("m"):
        assert pace.under_way.total() == 1


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (openai(600, 599, "6m0s"), ("requests", 600, 599, 360)),
        (openai(600, 0, "120ms", "tokens"), ("tokens", 600, 0, 0.12)),
        (openai(14400, 14370, "2m59.56s"), ("requests", 14400, 14370, 179.56)),
        (openai(60, 1, "12"), ("requests", 60, 1, 12)),
        (openai(60, 1, "soon"), ("requests", 60, 1, None)),
    ],
)
def test_headers_of_openai_and_its_kin(headers: dict[str, str], found: tuple[object, ...]) -> None:
    assert list(said(headers)) == [found]


def test_headers_of_anthropic_and_of_nobody() -> None:
    then = datetime.now(UTC) + timedelta(seconds=30)
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "20",
        "anthropic-ratelimit-requests-reset": then.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "anthropic-ratelimit-tokens-limit": "many",
    }
    ((kind, limit, remaining, reset_s),) = said(headers)
    assert (kind, limit, remaining) == ("requests", 50, 20) and 28 < (reset_s or 0) <= 30
    assert list(said({})) == list(said(openai(-1, 0, "1s"))) == []


def test_a_bucket_is_what_the_provider_says_less_what_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    bucket = Bucket()
    assert bucket.ready_in(1000) == 0, "nothing is known"
    bucket.tell(600, 5, 59.5, least=2)
    assert (bucket.per_s, bucket.level) == (10, 5)
    bucket.level -= 7
    bucket.tell(600, 5, 59.5, least=2)
    assert bucket.level == 2, "four of the seven at least have arrived"
    bucket.level -= 2
    assert bucket.ready_in(1) == pytest.approx(0.1)
    now += 0.1
    assert bucket.ready_in(1) == 0
    bucket.tell(14400, 14370, 180, least=0)
    assert bucket.per_s == pytest.approx(1 / 6), "of a limit a day"


async def test_a_rate_that_is_not_said_is_found_by_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    rates = Pace().rates("m")
    assert not rates.refuse(now), "nothing tells it yet"
    for _ in range(100):
        assert rates.ready_in() == 0
        rates.send()
        rates.serve(10)
    now += 10
    assert rates.refuse(now)
    requests = rates.buckets["requests"]
    assert requests.per_s == 10 and rates.ready_in() == pytest.approx(0.1)
    assert rates.refuse(now - 1) and requests.per_s == 10, "it was sent before that was known"
    now += 20
    assert rates.ready_in() == 0 and 10 < requests.per_s < 10.5, "hardly more at first"
    now += 40
    assert rates.ready_in() == 0 and requests.per_s == 20, "and soon more, as long as nobody is refused"
    assert rates.tokens == 10 and rates.buckets["tokens"].per_s == math.inf


async def test_models_that_share_a_limit_are_found_out() -> None:
    pace = Pace()
    async with pace.turn("a") as one, pace.turn("b") as other, pace.turn("b"):
        one.told(openai(600, 5, "59s"))
        assert one.rates.buckets["requests"].level == pytest.approx(5, abs=0.1)
        one.ended(Verdict("rate_limit"))
        assert pace.shared and pace.at_once == START
        one.told(openai(600, 5, "59s"))
        assert one.rates.buckets["requests"].level == 2, "three are under way"
        assert other.rates.buckets["requests"].level == math.inf


async def test_calls_keep_to_the_headers_of_the_responses(vendors: LoopbackVendors, results: str) -> None:
    first = question()
    vendors.script(first.model, then=Reply(text="fine", headers=openai(600, 1, "1s")))
    await answer(first)
    started = time.monotonic()
    await asyncio.gather(*(answer(first.model_copy(update={"sample": n})) for n in range(1, 6)))
    assert time.monotonic() - started >= 0.3, "one is in the bucket, and then comes one each tenth of a second"
    endpoint = await endpoint_of(first.provider, first.model)
    assert pace_of(endpoint).rates(first.model).buckets["requests"].told
    other = question()
    vendors.script(other.model, then=Reply(text="fine"))
    started = time.monotonic()
    await answer(other)
    assert pace_of(endpoint).rates(other.model).buckets["requests"].per_s == math.inf, "limits are those of a model"


async def test_a_provider_that_is_overloaded_gets_fewer_calls(vendors: LoopbackVendors, results: str) -> None:
    request = question("anthropic")
    vendors.script(request.model, faults.overloaded(), then=Reply(text="fine"))
    await answer(request)
    pace = pace_of(await endpoint_of(request.provider, request.model))
    assert pace.at_once < START
