"""The half-price tier: who is asked for it, what it costs, and what happens where it is refused."""

from typing import Any

import genai_prices
import pytest
from pydantic import SecretStr, ValidationError

from consensus_flows.blocks.consortium import ConsortiumConfig
from consensus_flows.blocks.credentials import (
    GoogleCredentials,
    ModelCredentials,
    OpenAICompatibleCredentials,
    OpenAICredentials,
)
from consensus_flows.blocks.panel import FLEX_TIMEOUT_S
from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.flows.consortium import run_consortium
from consensus_flows.flows.pump import run_pump
from consensus_flows.tasks.calls.call import Caller
from consensus_flows.tasks.calls.failures import Fault, classify
from consensus_flows.tasks.calls.pricing import FLEX_FACTOR, price
from consensus_flows.tasks.calls.providers import Endpoint
from consensus_flows.tasks.calls.providers import _endpoint as _endpoint_of
from consensus_flows.tasks.calls.request import LEFT_OUT, Request, request_key
from consensus_flows.tasks.calls.vendors.vendor import all_vendors
from consensus_flows.tasks.record import Usage
from tests.kits.asking import answer, asking, outcome, question
from tests.kits.command_kit import commands
from tests.kits.consortium_kit import asked, judged
from tests.kits.kinds import kinds
from tests.vendors import LoopbackVendors, Reply, faults
from tests.vendors import Usage as Counts

LUNA, FLASH = "gpt-6-luna", "gemini-3.8-flash"
COUNTS = Counts(input=1000, output=1000)
pytestmark = pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted")


@pytest.fixture(scope="module")
def server(prefect_server: None, tmp_path_factory: pytest.TempPathFactory):
    with asking(tmp_path_factory.mktemp("tiers")) as vendors:
        yield vendors


def sent(server: LoopbackVendors, request: Request) -> list[Any]:
    return [
        seen.params.get("service_tier", seen.params.get("serviceTier"))
        for seen in server.seen
        if seen.kind == "chat" and seen.model == request.model
    ]


@pytest.mark.parametrize("provider", ["openai", "google", "openrouter"])
async def test_flex_is_asked_for_where_the_vendor_has_it(server, provider):
    request = question(provider, service_tier="flex")
    assert (await answer(request)).warnings == ()
    assert sent(server, request) == ["flex"]
    plain = question(provider)
    await answer(plain)
    assert sent(server, plain) == [None]


async def test_nothing_is_sent_to_a_vendor_without_it_and_the_answer_says_so(server):
    request = question("anthropic", service_tier="flex")
    found = await answer(request)
    assert sent(server, request) == [None]
    assert found.warnings == (f"{request.name} has no flex tier: not asked for",)


def _endpoint(credentials: type[ModelCredentials], provider: str, address: str | None = None) -> Endpoint:
    return _endpoint_of(provider, credentials(api_key=SecretStr("k"), base_url=address))


@pytest.mark.parametrize(
    ("endpoint", "offered"),
    [
        (_endpoint(OpenAICredentials, "openai"), True),
        (_endpoint(OpenAICredentials, "my-gateway", "https://gateway.example/v1"), True),
        (_endpoint(GoogleCredentials, "google"), True),
        (_endpoint(OpenAICompatibleCredentials, "router", "https://openrouter.ai/api/v1"), True),
        (_endpoint(OpenAICompatibleCredentials, "router", "https://notopenrouter.ai/api/v1"), False),
        # Groq's flex is not cheaper, and other servers may refuse what they do not know.
        (_endpoint(OpenAICompatibleCredentials, "groq", "https://api.groq.com/openai/v1"), False),
        (Endpoint("local", all_vendors()["local"], "local:x", 1), False),
    ],
)
def test_who_has_it(endpoint, offered):
    assert endpoint.tier("flex") == ("flex" if offered else None)
    assert endpoint.tier(None) is None and endpoint.tier("flex", "embedding") is None


async def test_what_the_vendor_says_it_served_decides_the_price(server):
    server.script(LUNA, then=Reply(usage=COUNTS))
    flex = await answer(question("openai", "flex", model=LUNA, service_tier="flex"))
    plain = await answer(question("openai", "plain", model=LUNA))
    assert (flex.service_tier, plain.service_tier) == ("flex", "default")
    assert plain.cost_usd and flex.cost_usd == pytest.approx(plain.cost_usd / 2)

    def upgraded(seen):
        body = faults.null_content()(seen).body
        body["choices"][0]["message"]["content"] = "served as any other"
        body |= {"service_tier": "default", "usage": {"prompt_tokens": 1000, "completion_tokens": 1000}}
        return Reply(body=body | {"model": LUNA})

    server.script(LUNA, then=upgraded)
    found = await answer(question("openai", "refused", model=LUNA, service_tier="flex"))
    assert (found.service_tier, found.cost_usd) == ("default", pytest.approx(plain.cost_usd))


async def test_google_says_the_tier_in_a_header(server):
    server.script(FLASH, then=Reply(usage=COUNTS))
    plain = await answer(question("google", "plain", model=FLASH))
    assert plain.service_tier is None
    silent = await answer(question("google", "silent", model=FLASH, service_tier="flex"))
    assert silent.cost_usd == plain.cost_usd  # what is not said to be cheaper is not counted as cheaper
    server.script(FLASH, then=Reply(usage=COUNTS, headers={"X-Gemini-Service-Tier": "FLEX"}))
    flex = await answer(question("google", "flex", model=FLASH, service_tier="flex"))
    assert flex.service_tier == "flex"
    assert plain.cost_usd and flex.cost_usd == pytest.approx(plain.cost_usd * FLEX_FACTOR)


async def test_the_price_table_goes_before_the_factor():
    usage = Usage(input_tokens=1000, output_tokens=1000)
    openai, google = _endpoint(OpenAICredentials, "openai"), _endpoint(GoogleCredentials, "google")
    for endpoint, model, factor in ((openai, LUNA, None), (google, FLASH, FLEX_FACTOR)):
        wanted = genai_prices.Usage(input_tokens=1000, output_tokens=1000)
        listed, standard = (
            float(
                genai_prices.calc_price(
                    wanted, model_ref=model, provider_id=endpoint.provider, price_context=context
                ).total_price
            )
            for context in ({"service_tier": "flex"}, None)
        )
        assert (listed != standard) == (factor is None)
        expected = listed if factor is None else standard * factor
        assert await price(endpoint, model, usage, "flex") == pytest.approx(expected)
        assert await price(endpoint, model, usage) == await price(endpoint, model, usage, "default") == standard
    assert await price(openai, "never-heard-of", usage, "flex") is None
    groq = _endpoint(OpenAICompatibleCredentials, "groq", "https://api.groq.com/openai/v1")
    model = "llama-3.3-70b-versatile"
    assert await price(groq, model, usage, "flex") == await price(groq, model, usage) is not None


async def test_a_model_that_refuses_flex_is_asked_without_it_and_that_is_remembered(server):
    request = question("openai", service_tier="flex")
    refusal = Reply(
        status=400,
        body={
            "error": {
                "message": "Unsupported service_tier: flex",
                "type": "invalid_request_error",
                "param": "service_tier",
                "code": None,
            }
        },
    )
    server.script(request.model, refusal, then=Reply(text="fine"))
    found = await answer(request)
    assert sent(server, request) == ["flex", None]
    assert found.warnings == (f"{request.name} refuses service_tier: sent without it",)
    again = await answer(request.model_copy(update={"sample": 1}))
    assert sent(server, request) == ["flex", None, None]
    assert again.warnings == found.warnings
    plain = await answer(request.model_copy(update={"sample": 2, "service_tier": None}))
    assert plain.warnings == ()


async def test_flex_that_google_refuses_is_left_out(server):
    request = question("google", service_tier="flex")
    error = {"code": 400, "message": "Flex service tier is not supported for this model.", "status": "INVALID_ARGUMENT"}
    server.script(request.model, Reply(status=400, body={"error": error}), then=Reply(text="fine"))
    assert (await answer(request)).warnings == (f"{request.name} refuses service_tier: sent without it",)
    assert sent(server, request) == ["flex", None]


async def test_a_model_of_openrouter_without_the_tier_is_asked_without_it(server):
    request = question("openrouter", service_tier="flex")
    body = {"error": {"message": "No endpoints found that support the requested service tier.", "code": 404}}
    server.script(request.model, Reply(status=404, body=body), then=Reply(text="fine"))
    found = await answer(request)
    assert sent(server, request) == ["flex", None]
    assert found.warnings == (f"{request.name} refuses service_tier: sent without it",)
    missing = question("openrouter", service_tier="flex")
    server.script(missing.model, then=Reply(status=404, body=body))
    error, book = await outcome(missing)
    assert (error.kind, len(book.attempts)) == ("not_found", 2)
    # Refused without the tier too, so it was not the tier: the next call asks for it again.
    server.script(missing.model, then=Reply(text="fine"))
    assert (await answer(missing)).warnings == ()
    assert sent(server, missing) == ["flex", None, "flex"]


@pytest.mark.parametrize("odd", [{"service_tier": 1}, {"service_tier": {"name": "flex"}}, {"model": 7}])
async def test_what_only_describes_an_answer_does_not_cost_it(server, odd):
    """A compatible server may write there what it likes; the answer is paid for."""
    request = question()
    choice = {"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": request.model, "choices": [choice]}
    counts = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    server.script(request.model, then=Reply(body={**body, "usage": counts, **odd}))
    found = await answer(request)
    assert (found.text, found.usage.input_tokens, found.service_tier) == ("fine", 3, None)
    assert await answer(request) == found
    assert len(sent(server, request)) == 1


async def test_a_content_that_is_no_text_is_malformed(server):
    request = question()
    choice = {"index": 0, "message": {"role": "assistant", "content": [{"text": "fine"}]}, "finish_reason": "stop"}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": request.model, "choices": [choice]}
    server.script(request.model, then=Reply(body=body))
    error, book = await outcome(request)
    assert (error.kind, len(book.attempts)) == ("malformed", 2)


async def test_short_of_capacity_is_tried_again_and_costs_nothing(server):
    request = question("openai", service_tier="flex")
    body = {
        "error": {"message": "Resource Unavailable", "type": "resource_unavailable", "code": "resource_unavailable"}
    }
    assert classify(Fault(429, body=body, message="Resource Unavailable")).retry
    server.script(request.model, Reply(status=429, body=body), then=Reply(text="fine"))
    found, book = await outcome(request)
    assert found.text == "fine"
    assert [(attempt.answered, attempt.maybe_billed) for attempt in book.attempts] == [(False, False), (True, False)]
    assert book.attempts[0].cost_usd == 0
    assert sent(server, request) == ["flex", "flex"]


async def test_an_answer_is_the_same_in_any_tier(server):
    assert "service_tier" in LEFT_OUT
    request = question("openai")
    flex = request.model_copy(update={"service_tier": "flex"})
    assert request_key(request, "x") == request_key(flex, "x")
    await answer(flex)
    stored = await Caller()(request)
    assert stored.cached and server.count(request.model) == 1
    assert (stored.service_tier, stored.cost_usd) == ("flex", 0)


async def test_a_run_asks_members_and_judges_in_its_tier(results, vendors):
    vendors.script("arbiter", then=judged(95))
    config = ConsortiumConfig(
        members=["openai/one", "anthropic/two"], arbiter="openai/arbiter", max_iterations=1, service_tier="flex"
    )
    record = await run_consortium("Why?", config)
    assert [seen.params.get("service_tier") for seen in asked(vendors, "one") + asked(vendors, "arbiter")] == [
        "flex"
    ] * 2
    assert [seen.params.get("service_tier") for seen in asked(vendors, "two")] == [None]
    assert kinds(record) == [("adjusted", "anthropic/two", 1)]
    iteration = record.iterations[0]
    assert [call.service_tier for call in (*iteration.responses, *iteration.judgements)] == ["flex", None, "flex"]
    assert not record.degraded


async def test_what_is_passed_through_untouched_still_wins(results, vendors):
    config = PumpConfig.model_validate(
        {"members": ["openai/one"], "service_tier": "flex", "sampling": {"extra": {"service_tier": "priority"}}}
    )
    await run_pump("Why?", config)
    assert [seen.params["service_tier"] for seen in asked(vendors, "one")] == ["priority"]


def test_flex_is_waited_for_unless_a_timeout_is_given():
    members = {"members": ["openai/one"]}
    for settings, seconds in (
        ({}, 120),
        ({"service_tier": "flex"}, FLEX_TIMEOUT_S),
        ({"service_tier": "flex", "timeout": 30}, 30),
        ({"service_tier": "flex", "timeout": 120}, 120),
        ({"service_tier": None, "timeout": 900}, 900),
    ):
        config = PumpConfig.model_validate(members | settings)
        assert config.timeout_s() == seconds
        # What is saved comes back, whichever way a block or a deployment writes it.
        for saved in (config.model_dump(mode="json"), config.model_dump(mode="json", exclude_defaults=True)):
            assert PumpConfig.model_validate(saved).timeout_s() == seconds
    # And a time that was not given is that of the tier that is asked for later.
    later = PumpConfig.model_validate(members).model_dump(mode="json") | {"service_tier": "flex"}
    assert PumpConfig.model_validate(later).timeout_s() == FLEX_TIMEOUT_S
    with pytest.raises(ValidationError, match="service_tier"):
        PumpConfig.model_validate(members | {"service_tier": "cheap"})


def test_the_option(monkeypatch, capsys, prefect_server, vendors):
    consensus = commands(monkeypatch, capsys)
    ran = consensus("pump", "Why?", "-m", "openai/one", "--service-tier", "flex", "--fresh")
    assert ran.code == 0, ran.err
    assert [seen.params.get("service_tier") for seen in asked(vendors, "one")] == ["flex"]
    assert consensus("pump", "Why?", "-m", "openai/one", "--service-tier", "cheap").code == 2
