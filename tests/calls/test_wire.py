"""What the vendors really get, what is read from what they say, and what is mended when they refuse a parameter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import genai_prices
import pytest

from consensus_flows.blocks import Sampling
from consensus_flows.tasks.calls.call import Caller
from consensus_flows.tasks.calls.failures import Fault
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.calls.vendors.openai import VENDOR, strict
from consensus_flows.tasks.calls.vendors.vendor import Repairs
from consensus_flows.tasks.record import Usage
from tests.kits.asking import VENDORS, answer, asking, forget, outcome, question
from tests.kits.kinds import kinds
from tests.vendors import LoopbackVendors, Reply, SeenRequest, Step, faults, json_reply
from tests.vendors import Usage as Counts

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "minLength": 1},
        "score": {"type": "integer", "minimum": 0, "maximum": 100},
    },
    "required": ["text", "score"],
    "additionalProperties": False,
}
GOOD = {"text": "Because.", "score": 90}
PRICED = {"openai": "gpt-6-luna", "anthropic": "claude-haiku-4-5", "google": "gemini-2.5-flash"}


@pytest.fixture(scope="module")
def server(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackVendors]:
    with asking(tmp_path_factory.mktemp("wire")) as vendors:
        yield vendors


def seen(server: LoopbackVendors, request: Request) -> list[SeenRequest]:
    return [one for one in server.seen if one.model == request.model]


async def sent(server: LoopbackVendors, request: Request) -> dict[str, Any]:
    await answer(request)
    return seen(server, request)[-1].params


FULL = Sampling(
    temperature=0.5,
    top_p=0.9,
    top_k=20,
    max_output_tokens=100,
    stop=("END",),
    seed=7,
    reasoning_effort="low",
)


async def test_sampling_openai(server: LoopbackVendors) -> None:
    extra: dict[str, Any] = {"logit_bias": {"1": -1}, "provider": {"order": ["a"], "x": None}}
    params = await sent(server, question(sampling=FULL.model_copy(update={"extra": extra})))
    del params["model"], params["messages"]
    assert params == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 20,
        "max_tokens": 100,
        "stop": ["END"],
        "seed": 7,
        "reasoning_effort": "low",
        **extra,
    }


async def test_sampling_anthropic(server: LoopbackVendors) -> None:
    extra: dict[str, Any] = {"metadata": {"user_id": "u"}, "service_tier": "auto"}
    request = question("anthropic", sampling=FULL.model_copy(update={"extra": extra}))
    params = await sent(server, request)
    del params["model"], params["messages"]
    assert params == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 20,
        "max_tokens": 100,
        "stop_sequences": ["END"],
        "output_config": {"effort": "low"},
        **extra,
    }
    # Messages has no seed: left out, and said.
    assert (await answer(request)).warnings == (f"{request.name} has no parameter for seed: not sent",)


async def test_sampling_google(server: LoopbackVendors) -> None:
    extra: dict[str, Any] = {"labels": {"a": "b"}, "generationConfig": {"presencePenalty": 0.5}}
    params = await sent(server, question("google", sampling=FULL.model_copy(update={"extra": extra})))
    assert params["labels"] == {"a": "b"}
    assert params["generationConfig"] == {
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 20,
        "maxOutputTokens": 100,
        "stopSequences": ["END"],
        "seed": 7,
        "thinkingConfig": {"thinking_level": "LOW"},
        "presencePenalty": 0.5,
    }


@pytest.mark.parametrize("provider", VENDORS)
async def test_what_is_not_set_is_not_sent(provider: str, server: LoopbackVendors) -> None:
    params = await sent(server, question(provider))
    assert set(params) - {"model", "messages", "contents"} <= {"max_tokens", "generationConfig"}
    assert params.get("generationConfig", {}) == {}
    assert ("max_tokens" in params) == (provider == "anthropic")


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
@pytest.mark.parametrize("provider", VENDORS)
async def test_every_effort(provider: str, effort: Any, server: LoopbackVendors) -> None:
    request = question(provider, sampling=Sampling(reasoning_effort=effort))
    params = await sent(server, request)
    warnings = (await answer(request)).warnings
    if provider == "openai":
        assert params["reasoning_effort"] == effort
    elif provider == "google":
        thinking = params["generationConfig"]["thinkingConfig"]
        assert thinking == (
            {"thinking_budget": 0}
            if effort == "none"
            else {"thinking_level": {"max": "XHIGH"}.get(effort, effort.upper())}
        )
    elif effort in {"none", "minimal"}:
        assert "output_config" not in params
        assert "reasoning_effort" in warnings[0]
        return
    else:
        assert params["output_config"] == {"effort": effort}
    assert warnings == ()


@pytest.mark.parametrize("provider", VENDORS)
async def test_native_structured_output(provider: str, server: LoopbackVendors) -> None:
    request = question(provider, response_schema=SCHEMA)
    server.script(request.model, json_reply(GOOD))
    found = await answer(request)
    assert json.loads(found.text) == GOOD
    assert found.warnings == ()
    (one,) = seen(server, request)
    assert one.tool is None
    assert one.schema is not None
    assert one.schema["required"] == ["text", "score"]
    params = one.params
    if provider == "openai":
        assert params["response_format"]["json_schema"]["strict"] is True
        assert "minLength" not in json.dumps(params)
    elif provider == "anthropic":
        assert params["output_config"]["format"]["type"] == "json_schema"
    else:
        assert params["generationConfig"]["responseJsonSchema"] == SCHEMA
        assert params["generationConfig"]["responseMimeType"] == "application/json"


def test_strict_schemas() -> None:
    nested = {
        "type": "object",
        # Properties may bear the names of keywords.
        "properties": {
            "default": {"type": "string", "default": "x"},
            "b": {"type": "array", "items": SCHEMA, "uniqueItems": True},
        },
    }
    made = strict(nested)
    assert made["required"] == ["default", "b"]
    assert made["additionalProperties"] is False
    assert made["properties"]["default"] == {"type": "string"}
    assert made["properties"]["b"]["items"]["properties"]["text"] == {"type": "string"}
    assert "uniqueItems" not in made["properties"]["b"]
    assert nested["properties"]["default"] == {"type": "string", "default": "x"}, "not changed in place"


REFUSED = [
    ("openai", {"temperature": 0.5}, faults.unsupported_value("temperature"), "temperature"),
    ("openai", {"top_p": 0.5}, faults.unsupported_parameter("top_p"), "top_p"),
    ("openai", {"stop": ("END",)}, faults.unsupported_parameter("stop"), "stop"),
    ("openai", {"seed": 1}, faults.unsupported_parameter("seed"), "seed"),
    ("openai", {"reasoning_effort": "low"}, faults.unsupported_parameter("reasoning_effort"), "reasoning_effort"),
    ("openai", {"top_k": 5}, faults.bad_request("Unrecognized request argument supplied: top_k"), "top_k"),
    (
        "anthropic",
        {"temperature": 0.5},
        faults.bad_request("`temperature` is deprecated for this model."),
        "temperature",
    ),
    ("anthropic", {"top_k": 5}, faults.bad_request("top_k: Extra inputs are not permitted"), "top_k"),
    (
        "anthropic",
        {"stop": ("END",)},
        faults.bad_request("stop_sequences: not supported by this model"),
        "stop_sequences",
    ),
    (
        "anthropic",
        {"reasoning_effort": "low"},
        faults.bad_request("output_config.effort: Extra inputs are not permitted"),
        "effort",
    ),
    (
        "anthropic",
        {"reasoning_effort": "low"},
        faults.bad_request("output_config: Extra inputs are not permitted"),
        "effort",
    ),
    ("google", {"temperature": 0.5}, faults.unsupported_parameter("temperature"), "temperature"),
    (
        "google",
        {"reasoning_effort": "low"},
        faults.bad_request("Thinking level is not supported for this model."),
        "reasoning_effort",
    ),
    (
        "google",
        {"top_k": 5},
        faults.bad_request("Invalid JSON payload received. Unknown name \"topK\" at 'generation_config'"),
        "top_k",
    ),
    (
        "google",
        {"seed": 5},
        faults.bad_request("Invalid JSON payload received. Unknown name \"seed\" at 'generation_config'"),
        "seed",
    ),
]


@pytest.mark.parametrize(
    ("provider", "settings", "step", "name"), REFUSED, ids=[f"{row[0]} {row[3]} {n}" for n, row in enumerate(REFUSED)]
)
async def test_a_refused_parameter_is_left_out_and_remembered(
    provider: str, settings: dict[str, Any], step: Step, name: str, server: LoopbackVendors
) -> None:
    request = question(provider, sampling=Sampling(**settings))
    server.script(request.model, step)
    warning = f"{request.name} refuses {name}: sent without it"
    response = await Caller()(request)
    assert response.error is None
    assert (kinds(response), response.attempts, response.cost_usd) == ([("adjusted", request.name, None)], 2, None)
    assert response.warnings[0].message == warning
    first, second = seen(server, request)
    assert first.params != second.params
    # The next question of this model goes right at once, and says so only if it asked for the parameter.
    other = request.model_copy(update={"sample": 1})
    assert (await answer(other)).warnings == (warning,)
    plain = request.model_copy(update={"sampling": Sampling()})
    assert (await answer(plain)).warnings == ()
    assert len(seen(server, request)) == 4
    # The warning is stored with the answer.
    assert (await answer(other)).warnings == (warning,)


async def test_max_tokens_is_renamed(server: LoopbackVendors) -> None:
    request = question(sampling=Sampling(max_output_tokens=50))
    server.script(request.model, faults.unsupported_parameter("max_tokens"))
    assert (await answer(request)).warnings == (f"{request.name} refuses max_tokens: sent as max_completion_tokens",)
    params = await sent(server, request.model_copy(update={"sample": 1}))
    assert params["max_completion_tokens"] == 50
    assert "max_tokens" not in params
    assert len(seen(server, request)) == 3


async def test_several_at_once_learn_the_same(server: LoopbackVendors) -> None:
    """The second call that is told so must not conclude that the new name is refused too."""

    def picky(one: SeenRequest) -> Reply:
        step = faults.unsupported_parameter("max_tokens") if "max_tokens" in one.params else Reply(delay=0.05)
        return step if isinstance(step, Reply) else step(one)

    request = question(sampling=Sampling(max_output_tokens=50))
    server.script(request.model, then=faults.after(0.1, picky))
    await asyncio.gather(*(answer(request.model_copy(update={"sample": n})) for n in range(3)))
    assert len(seen(server, request)) == 6
    assert (await sent(server, request.model_copy(update={"sample": 9})))["max_completion_tokens"] == 50


async def test_two_refused_one_after_the_other(server: LoopbackVendors) -> None:
    request = question(sampling=Sampling(temperature=0.5, max_output_tokens=50))
    server.script(request.model, faults.unsupported_parameter("max_tokens"), faults.unsupported_value("temperature"))
    assert len((await answer(request)).warnings) == 2
    assert set(seen(server, request)[-1].params) == {"model", "messages", "max_completion_tokens"}


@pytest.mark.parametrize(
    ("provider", "settings", "step"),
    [
        # It stays refused: said once more, not for ever.
        ("openai", {"temperature": 0.5}, faults.unsupported_parameter("temperature")),
        # What the user passes through is not ours to leave out.
        ("openai", {"extra": {"wings": 2}}, faults.unsupported_parameter("wings")),
        ("anthropic", {"extra": {"temperature": 2}}, faults.unsupported_parameter("temperature")),
        # Nor is the system prompt, or a limit that Anthropic cannot do without.
        ("anthropic", {}, faults.bad_request("`system` is not supported")),
        ("anthropic", {"max_output_tokens": 9}, faults.unsupported_parameter("max_tokens")),
        ("google", {}, faults.bad_request('"system_instruction" is not supported')),
        # A word in a sentence names no parameter.
        ("openai", {"stop": ("x",), "seed": 3}, faults.bad_request("Unsupported: please stop and seed it first.")),
    ],
)
async def test_what_cannot_be_mended_is_not_asked_for_ever(
    provider: str, settings: dict[str, Any], step: Step, server: LoopbackVendors
) -> None:
    request = question(provider, sampling=Sampling(**settings))
    request = request.model_copy(update={"messages": (Message(role="system", content="Be brief."), *request.messages)})
    server.script(request.model, then=step)
    error, book = await outcome(request)
    assert error.kind == "bad_request"
    sends = len(seen(server, request))
    assert sends == len(book.attempts) == (2 if settings == {"temperature": 0.5} else 1)
    # And nothing was learned from it.
    server.script(request.model)
    found = await answer(request.model_copy(update={"sample": 1}))
    assert found.warnings == ()
    assert seen(server, request)[-1].params == seen(server, request)[0].params


SCHEMA_REFUSED = [
    ("openai", faults.no_json_schema()),
    ("openai", faults.bad_request("Invalid schema for response_format 'answer': 'minimum' is not permitted.")),
    ("anthropic", faults.bad_request("output_config.format: structured outputs are not supported by this model")),
    ("google", faults.bad_request("JSON mode is not enabled for models/gemma-4")),
    (
        "google",
        faults.bad_request("Invalid JSON payload received. Unknown name \"responseJsonSchema\" at 'generation_config'"),
    ),
]


@pytest.mark.parametrize(("provider", "step"), SCHEMA_REFUSED)
async def test_without_structured_output_the_prompt_asks(provider: str, step: Step, server: LoopbackVendors) -> None:
    request = question(provider, response_schema=SCHEMA, sampling=Sampling(reasoning_effort="low"))
    server.script(request.model, step, json_reply(GOOD), json_reply(GOOD))
    warning = f"{request.name} has no structured output: the JSON schema was put into the prompt"
    assert (await answer(request)).warnings == (warning,)
    assert (await answer(request.model_copy(update={"sample": 1}))).warnings == (warning,)
    first, second, third = seen(server, request)
    assert first.system is None
    assert '"minLength": 1' in (second.system or "")
    assert second.params == third.params
    assert "json_schema" not in json.dumps({k: v for k, v in second.params.items() if k != "messages"})


@pytest.mark.parametrize("provider", ["openai", "google"])
async def test_without_any_json_mode_the_prompt_alone_asks(provider: str, server: LoopbackVendors) -> None:
    def picky(one: SeenRequest) -> Reply:
        named = one.params.get("response_format") or one.params.get("generationConfig", {}).get("responseMimeType")
        if not named:
            return json_reply(GOOD)
        step = faults.bad_request("'response_format' is not supported, JSON mode is not enabled")
        return step if isinstance(step, Reply) else step(one)

    request = question(provider, response_schema=SCHEMA)
    server.script(request.model, then=picky)
    await answer(request)
    await answer(request.model_copy(update={"sample": 1}))
    assert len(seen(server, request)) == 4


def test_repairs_are_merged() -> None:
    one = Repairs(frozenset({"a"}), frozenset({"b"}), 1)
    other = Repairs(frozenset({"c"}), frozenset(), 2)
    assert one | other == Repairs(frozenset({"a", "c"}), frozenset({"b"}), 2)
    assert VENDOR.refused(Fault(500, message="Unsupported: 'temperature'"), frozenset({"temperature"})) is None


COUNTS = Counts(input=1000, output=100, cached=400, reasoning=30)


@pytest.mark.parametrize("provider", VENDORS)
async def test_usage_and_cost(provider: str, server: LoopbackVendors) -> None:
    """Cached input is inside OpenAI's prompt and outside Anthropic's; Google's thoughts are extra output."""
    model = PRICED[provider]
    request = question(provider, "How much?", model=model)
    server.script(model, Reply(text="x", usage=COUNTS))
    found = await answer(request)
    assert found.usage == Usage(input_tokens=1000, output_tokens=100, cached_input_tokens=400, reasoning_tokens=30)
    wanted = genai_prices.Usage(input_tokens=1000, output_tokens=100, cache_read_tokens=400)
    price = genai_prices.calc_price(wanted, model_ref=model, provider_id=provider).total_price
    assert found.cost_usd == pytest.approx(float(price))
    assert found.cost_usd
    assert found.model_served == model


async def test_cache_writes_are_priced(server: LoopbackVendors) -> None:
    request = question("anthropic", "Write?", model=PRICED["anthropic"])
    server.script(request.model, Reply(text="x", usage=Counts(input=1000, output=100, cached=100, cache_write=300)))
    found = await answer(request)
    assert (found.usage.input_tokens, found.usage.cache_write_tokens) == (1000, 300)
    wanted = genai_prices.Usage(input_tokens=1000, output_tokens=100, cache_read_tokens=100, cache_write_tokens=300)
    price = genai_prices.calc_price(wanted, model_ref=request.model, provider_id="anthropic").total_price
    assert found.cost_usd == pytest.approx(float(price))


async def test_what_the_provider_reports_is_the_truth(server: LoopbackVendors) -> None:
    request = question("openrouter", model="openai/gpt-6-luna")
    server.script(request.model, Reply(text="x", usage=Counts(input=1000, output=100, cost=0.1234)))
    assert (await answer(request)).cost_usd == 0.1234
    free = question("openrouter")
    server.script(free.model, Reply(text="x", usage=Counts(cost=0.0)))
    assert (await answer(free)).cost_usd == 0.0


async def test_with_a_key_of_ones_own_the_upstream_cost_is_added(server: LoopbackVendors) -> None:
    request = question("openrouter")
    raw = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11, "cost": 0.01, "is_byok": True}
    server.script(request.model, Reply(text="x", usage=raw | {"cost_details": {"upstream_inference_cost": 0.2}}))
    assert (await answer(request)).cost_usd == pytest.approx(0.21)


@pytest.mark.parametrize("provider", VENDORS)
async def test_an_unknown_price_is_none(provider: str, server: LoopbackVendors) -> None:
    response = await Caller()(question(provider))
    assert response.cost_usd is None
    assert response.usage.input_tokens > 0


@pytest.mark.parametrize("provider", VENDORS)
async def test_missing_usage_is_said(provider: str, server: LoopbackVendors) -> None:
    request = question(provider)
    server.script(request.model, Reply(text="x", usage="missing"))
    found = await answer(request)
    assert (found.usage, found.cost_usd) == (Usage(), None)
    assert found.doubts == (f"{request.name} reported no token usage",)


async def test_what_failed_attempts_cost_is_counted(server: LoopbackVendors) -> None:
    model = PRICED["openai"]
    forget()
    request = question("openai", "And the failed ones?", model=model)
    usage = Counts(input=1000, output=100)
    server.script(model, Reply(text="", usage=usage), faults.server_error(), Reply(text="x", usage=usage))
    response = await Caller()(request)
    one = (await answer(request)).cost_usd
    assert one
    assert response.attempts == 3
    assert response.cost_usd == pytest.approx(2 * one)
    assert response.spent.input_tokens == 2000
    assert response.usage.input_tokens == 1000
    # From the store it costs nothing now, and shows what it cost then.
    response = await Caller()(request)
    assert (response.cost_usd, response.stored_cost_usd) == (0.0, one)
    server.reset()


@pytest.mark.parametrize("provider", VENDORS)
async def test_thoughts_are_no_answer(provider: str, server: LoopbackVendors) -> None:
    request = question(provider)
    server.script(request.model, Reply(text="Because.", thoughts="Hmm."))
    assert (await answer(request)).text == "Because."


def test_the_local_model_is_told_how_long_its_texts_may_be():
    from consensus_flows.tasks.calls.vendors.local import bounded
    from consensus_flows.tasks.judging.judgements import arbiter_verdict

    schema = bounded(dict(arbiter_verdict("synthesis", 2, comparison=False).json_schema()), 512)
    fields = schema["properties"]
    assert fields["synthesis"] == {"maxLength": 256, "type": "string", "minLength": 1}
    assert fields["refinement_areas"]["maxItems"] == 3
    assert fields["refinement_areas"]["items"]["maxLength"] == 85
    assert fields["confidence"] == {"type": "integer", "minimum": 0, "maximum": 100}
    ranking = bounded(dict(arbiter_verdict("ranking", 2).json_schema()), 512)["properties"]["ranking"]
    assert ranking["items"] == {"type": "string", "enum": ["A", "B"]} and ranking["maxItems"] == 2
    compared = bounded(dict(arbiter_verdict("synthesis", 2).json_schema()), 512)["properties"]["comparison"]
    contradictions = compared["properties"]["contradictions"]
    assert contradictions["maxItems"] == 1
    assert contradictions["items"]["properties"]["topic"]["maxLength"] == 24
