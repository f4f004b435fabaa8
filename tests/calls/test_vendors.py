"""The loopback vendors, seen through the real SDKs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import jsonschema  # type: ignore[import-untyped]
import openai
import pytest
from google import genai
from google.genai import errors as google_errors
from google.genai import types as google_types

from tests.kits import processes
from tests.vendors import LoopbackVendors, Reply, SeenRequest, Step, Usage, example, faults, json_reply

ROOT = Path(__file__).parent.parent.parent
VENDORS = ("openai", "anthropic", "google")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "verdict": {"type": "string", "enum": ["yes", "no"]},
        "score": {"type": "integer", "minimum": 1, "maximum": 10},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "sure": {"type": "boolean"},
        "reasons": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "nested": {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
    },
    "required": ["verdict", "score", "confidence", "sure", "reasons", "nested"],
    "additionalProperties": False,
}


@pytest.fixture
def vendors() -> Iterator[LoopbackVendors]:
    with LoopbackVendors() as server:
        yield server


class Clients:
    """The three SDKs, retries off, behind one call."""

    def __init__(self, vendors: LoopbackVendors, timeout: float = 5.0) -> None:
        self.openai = openai.OpenAI(base_url=vendors.openai_url, api_key="k", max_retries=0, timeout=timeout)
        self.openrouter = openai.OpenAI(base_url=vendors.openrouter_url, api_key="k", max_retries=0)
        self.anthropic = anthropic.Anthropic(
            base_url=vendors.anthropic_url, api_key="k", max_retries=0, timeout=timeout
        )
        options = google_types.HttpOptions(base_url=vendors.google_url, timeout=int(timeout * 1000))
        self.google: Any = genai.Client(api_key="k", http_options=options)

    def ask(self, vendor: str, model: str = "m", **more: Any) -> Any:
        messages: list[Any] = [{"role": "user", "content": "Is water wet?"}]
        if vendor in ("openai", "openrouter"):
            client: Any = self.openai if vendor == "openai" else self.openrouter
            return client.chat.completions.create(model=model, messages=messages, **more)
        if vendor == "anthropic":
            messages_api: Any = self.anthropic.messages
            return messages_api.create(model=model, messages=messages, max_tokens=100, **more)
        return self.google.models.generate_content(model=model, contents="Is water wet?", config=more.get("config"))

    def text(self, vendor: str, model: str = "m", **more: Any) -> str | None:
        answer = self.ask(vendor, model, **more)
        text: str | None
        if vendor in ("openai", "openrouter"):
            text = answer.choices[0].message.content
        elif vendor == "anthropic":
            text = answer.content[0].text if answer.content else None
        else:
            text = answer.text
        return text


@pytest.fixture
def clients(vendors: LoopbackVendors) -> Clients:
    return Clients(vendors)


@pytest.mark.parametrize("vendor", VENDORS)
def test_success_is_deterministic_and_scripts_run_out(vendor: str, vendors: LoopbackVendors, clients: Clients) -> None:
    script = vendors.script("m", Reply(text="first"), lambda seen: Reply(text=f"{seen.index}:{seen.prompt}"))
    assert clients.text(vendor) == "first"
    assert clients.text(vendor) == "1:Is water wet?"
    assert script.left == 0
    default = clients.text(vendor)
    assert default is not None
    assert default.startswith("m answers ")
    assert clients.text(vendor) == default
    assert clients.text(vendor, "other") != default
    vendors.script("m", then=Reply(text="always"))
    assert {clients.text(vendor) for _ in range(3)} == {"always"}
    assert (vendors.count("m"), vendors.count("other"), vendors.count()) == (7, 1, 8)
    assert {seen.vendor for seen in vendors.seen} == {vendor}
    vendors.reset()
    assert (vendors.count(), vendors.seen) == (0, [])


def test_requests_are_normalised(vendors: LoopbackVendors, clients: Clients) -> None:
    turns: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    clients.openai.chat.completions.create(model="m", messages=[{"role": "system", "content": "be brief"}, *turns])
    clients.anthropic.messages.create(model="m", system="be brief", messages=turns, max_tokens=5)
    parts = [
        google_types.Content(role=r, parts=[google_types.Part(text=t)])
        for r, t in zip(("user", "model", "user"), "abc", strict=True)
    ]
    config = google_types.GenerateContentConfig(system_instruction="be brief", temperature=0.5)
    clients.google.models.generate_content(model="m", contents=parts, config=config)
    for seen in vendors.seen:
        assert (seen.system, [m["content"] for m in seen.messages]) == ("be brief", ["a", "b", "c"])
        assert [m["role"] for m in seen.messages] == ["user", "assistant", "user"]
        assert seen.status == 200
    assert vendors.seen[1].params["max_tokens"] == 5
    assert vendors.seen[1].headers["authorization"] == "Bearer k"  # since anthropic 2; before: x-api-key
    assert vendors.seen[2].params["generationConfig"]["temperature"] == 0.5


def test_usage_in_each_vendors_terms(vendors: LoopbackVendors, clients: Clients) -> None:
    counts = Usage(input=100, output=50, cached=60, cache_write=10, reasoning=30, cost=0.25)
    vendors.script("m", then=Reply(text="x", usage=counts))
    usage = clients.ask("openai").usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (100, 50, 150)
    assert usage.prompt_tokens_details.cached_tokens == 60
    assert usage.completion_tokens_details.reasoning_tokens == 30
    assert clients.ask("openrouter").usage.model_extra["cost"] == 0.25
    usage = clients.ask("anthropic").usage
    assert (usage.input_tokens, usage.output_tokens) == (30, 50)
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (60, 10)
    assert usage.output_tokens_details.thinking_tokens == 30
    usage = clients.ask("google").usage_metadata
    assert (usage.prompt_token_count, usage.candidates_token_count, usage.thoughts_token_count) == (100, 20, 30)
    assert (usage.cached_content_token_count, usage.total_token_count) == (60, 150)
    vendors.script("m", then=Reply(text="x", usage="missing"))
    assert clients.ask("openai").usage is None
    assert clients.ask("google").usage_metadata is None
    vendors.reset()
    assert clients.ask("openrouter").usage.model_extra["cost"] > 0


def test_schema_is_satisfied_by_default(vendors: LoopbackVendors, clients: Clients) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": SCHEMA}}
    config = {"response_mime_type": "application/json", "response_json_schema": SCHEMA}
    made = [
        clients.text("openai", response_format=wanted),
        clients.text("anthropic", output_config={"format": {"type": "json_schema", "schema": SCHEMA}}),
        clients.text("google", config=config),
    ]
    for text in made:
        assert text is not None
        jsonschema.validate(json.loads(text), SCHEMA)
    tool = {"name": "judge", "input_schema": SCHEMA}
    block = clients.ask("anthropic", tools=[tool], tool_choice={"type": "tool", "name": "judge"}).content[0]
    assert (block.type, block.name) == ("tool_use", "judge")
    jsonschema.validate(block.input, SCHEMA)
    function = {"type": "function", "function": {"name": "judge", "parameters": SCHEMA}}
    call = clients.ask("openai", tools=[function]).choices[0].message.tool_calls[0].function
    jsonschema.validate(json.loads(call.arguments), SCHEMA)
    typed = google_types.Schema(
        type=google_types.Type.OBJECT,
        properties={"n": google_types.Schema(type=google_types.Type.INTEGER, minimum=3, maximum=4)},
    )
    text = clients.text("google", config={"response_mime_type": "application/json", "response_schema": typed})
    assert json.loads(text or "")["n"] in (3, 4)
    vendors.script("m", json_reply({"verdict": "no"}))
    assert json.loads(clients.text("openai", response_format=wanted) or "") == {"verdict": "no"}


@pytest.mark.parametrize("seed", range(20))
def test_example_handles_references_unions_and_bounds(seed: int) -> None:
    schema: dict[str, Any] = {
        "$defs": {
            "Tree": {
                "type": "object",
                "properties": {
                    "value": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
                    "left": {"anyOf": [{"$ref": "#/$defs/Tree"}, {"type": "null"}]},
                },
                "required": ["value", "left"],
            }
        },
        "type": "object",
        "properties": {
            "tree": {"$ref": "#/$defs/Tree"},
            "kind": {"const": "x"},
            "count": {"type": ["integer", "null"], "minimum": -5, "maximum": -2},
            "even": {"type": "integer", "multipleOf": 2, "minimum": 3, "maximum": 9},
            "name": {"allOf": [{"type": "string", "minLength": 20}, {"maxLength": 22}]},
            "when": {"type": "string", "format": "date-time"},
            "set": {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 3, "uniqueItems": True},
        },
        "required": ["tree", "kind", "count", "even", "name", "when", "set"],
    }
    made = example(schema, seed=str(seed))
    jsonschema.validate(made, schema)
    assert made == example(schema, seed=str(seed))


def test_models_and_embeddings(vendors: LoopbackVendors, clients: Clients) -> None:
    vendors.script("mine", Reply())
    for names in (
        [one.id for one in clients.openai.models.list()],
        [one.id for one in clients.anthropic.models.list()],
        [(one.name or "").removeprefix("models/") for one in clients.google.models.list()],
    ):
        assert names[-1] == "mine"
        assert names[:-1] == vendors.models
    assert clients.openai.models.retrieve("mine").id == "mine"
    assert clients.anthropic.models.retrieve("mine").lifecycle == "active"
    assert (vendors.count(), vendors.count(kind="models")) == (0, 5)
    made = clients.openai.embeddings.create(model="e", input=["a red cat", "cat red a", "blue dogs"]).data
    vectors = [one.embedding for one in made]
    assert vectors[0] == vectors[1] != vectors[2]
    assert sum(x * x for x in vectors[0]) == pytest.approx(1, abs=1e-5)
    short = clients.openai.embeddings.create(model="e", input="a red cat", dimensions=8, encoding_format="float")
    assert len(short.data[0].embedding) == 8
    vendors.script("/models", then=faults.unauthorized())
    with pytest.raises(openai.AuthenticationError):
        clients.openai.models.list()


FAILURES: list[tuple[Step, type[Exception], type[Exception], int]] = [
    (faults.bad_request(), openai.BadRequestError, anthropic.BadRequestError, 400),
    (faults.context_too_long(), openai.BadRequestError, anthropic.BadRequestError, 400),
    (faults.unauthorized(), openai.AuthenticationError, anthropic.AuthenticationError, 400),
    (faults.payment_required(), openai.APIStatusError, anthropic.PaymentRequiredError, 402),
    (faults.forbidden(), openai.PermissionDeniedError, anthropic.PermissionDeniedError, 403),
    (faults.not_found(), openai.NotFoundError, anthropic.NotFoundError, 404),
    (faults.request_timeout(), openai.APIStatusError, anthropic.RequestTimeoutError, 408),
    (faults.conflict(), openai.ConflictError, anthropic.ConflictError, 409),
    (faults.too_large(), openai.APIStatusError, anthropic.ContentTooLargeError, 413),
    (faults.rate_limit(), openai.RateLimitError, anthropic.RateLimitError, 429),
    (faults.insufficient_quota(), openai.RateLimitError, anthropic.types.shared.EnforcedSpendLimitReachedError, 429),
    (faults.server_error(500), openai.InternalServerError, anthropic.InternalServerError, 500),
    (faults.server_error(502), openai.InternalServerError, anthropic.InternalServerError, 502),
    (faults.server_error(503), openai.InternalServerError, anthropic.ServiceUnavailableError, 503),
    (faults.server_error(504), openai.InternalServerError, anthropic.GatewayTimeoutError, 504),
    (faults.overloaded(), openai.InternalServerError, anthropic.OverloadedError, 503),
    (faults.html_page(502), openai.InternalServerError, anthropic.InternalServerError, 502),
]


@pytest.mark.parametrize("failure", FAILURES)
def test_http_failures_raise_what_the_sdks_promise(
    failure: tuple[Step, type[Exception], type[Exception], int], vendors: LoopbackVendors, clients: Clients
) -> None:
    step, of_openai, of_anthropic, of_google = failure
    vendors.script("m", then=step)
    for vendor, kind in (("openai", of_openai), ("openrouter", of_openai), ("anthropic", of_anthropic)):
        with pytest.raises(kind) as caught:
            clients.ask(vendor)
        assert type(caught.value) is kind
    with pytest.raises(google_errors.APIError) as refused:
        clients.ask("google")
    assert refused.value.code == of_google
    assert isinstance(refused.value, google_errors.ClientError if of_google < 500 else google_errors.ServerError)
    assert vendors.count() == 4


def test_codes_and_retry_hints_survive(vendors: LoopbackVendors, clients: Clients) -> None:
    when = datetime.now(UTC) + timedelta(seconds=9)
    vendors.script(
        "m",
        faults.rate_limit(retry_after=2),
        faults.rate_limit(retry_after_ms=150),
        faults.rate_limit(retry_after=when),
        faults.rate_limit(retry_after="soon"),
    )
    headers: list[dict[str, str]] = []
    for _ in range(4):
        with pytest.raises(openai.RateLimitError) as limited:
            clients.ask("openai")
        headers.append(dict(limited.value.response.headers))
        assert limited.value.code == "rate_limit_exceeded"
    assert headers[0]["retry-after"] == "2"
    assert headers[1]["retry-after-ms"] == "150"
    assert headers[2]["retry-after"].endswith("GMT")
    assert headers[3]["retry-after"] == "soon"
    vendors.script("m", faults.insufficient_quota(), faults.unsupported_parameter("max_tokens"))
    with pytest.raises(openai.RateLimitError) as broke:
        clients.ask("openai")
    assert broke.value.code == "insufficient_quota"
    with pytest.raises(openai.BadRequestError, match="max_completion_tokens") as unsupported:
        clients.ask("openai")
    assert (unsupported.value.code, unsupported.value.param) == ("unsupported_parameter", "max_tokens")
    vendors.script("m", faults.spend_limit("ramp_limit_exceeded"), faults.rate_limit(retry_after=7.5))
    with pytest.raises(anthropic.RateLimitError) as spent:
        clients.ask("anthropic")
    assert spent.value.error_code == "ramp_limit_exceeded"
    assert "retry-after" not in spent.value.response.headers
    with pytest.raises(google_errors.ClientError) as exhausted:
        clients.ask("google")
    assert exhausted.value.status == "RESOURCE_EXHAUSTED"
    refused: Any = exhausted.value
    assert refused.details["error"]["details"][0]["retryDelay"] == "7.5s"
    vendors.script("m", faults.payment_required("openrouter_in_flight_budget"))
    with pytest.raises(openai.APIStatusError) as unpaid:
        clients.ask("openrouter")
    body: Any = unpaid.value.body
    assert (body["code"], body["metadata"]["limit_source"]) == (402, "openrouter_in_flight_budget")
    vendors.script("m", then=faults.no_json_schema())
    assert clients.text("openai") is not None
    with pytest.raises(openai.BadRequestError):
        clients.ask("openai", response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}})


def test_bad_answers_of_openai(vendors: LoopbackVendors, clients: Clients) -> None:
    vendors.script(
        "m",
        faults.empty(),
        faults.null_content(),
        faults.refusal("no"),
        faults.safety_stop(),
        faults.truncated("The"),
        faults.tool_call_only("f"),
        faults.no_choices(),
        faults.error_in_success(429),
    )
    assert clients.text("openai") == ""
    assert clients.text("openai") is None
    message = clients.ask("openai").choices[0].message
    assert (message.content, message.refusal) == (None, "no")
    assert clients.ask("openai").choices[0].finish_reason == "content_filter"
    cut = clients.ask("openai").choices[0]
    assert (cut.finish_reason, cut.message.content) == ("length", "The")
    called = clients.ask("openai").choices[0]
    assert (called.finish_reason, called.message.content) == ("tool_calls", None)
    assert called.message.tool_calls[0].function.name == "f"
    assert clients.ask("openai").choices == []
    failed = clients.ask("openrouter")
    assert failed.choices is None  # the SDK does not check: reading choices[0] is a TypeError
    assert failed.model_extra["error"]["code"] == 429


def test_bad_answers_of_anthropic(vendors: LoopbackVendors, clients: Clients) -> None:
    vendors.script(
        "m", faults.empty(), faults.refusal("no"), faults.truncated(), faults.tool_call_only(), Reply(finish="context")
    )
    assert clients.ask("anthropic").content == []
    refused = clients.ask("anthropic")
    assert (refused.stop_reason, refused.stop_details.type) == ("refusal", "refusal")
    assert clients.ask("anthropic").stop_reason == "max_tokens"
    called = clients.ask("anthropic")
    assert (called.stop_reason, [block.type for block in called.content]) == ("tool_use", ["tool_use"])
    assert clients.ask("anthropic").stop_reason == "model_context_window_exceeded"


def test_bad_answers_of_google(vendors: LoopbackVendors, clients: Clients) -> None:
    vendors.script(
        "m",
        faults.empty(),
        faults.null_content(),
        faults.prompt_blocked("PROHIBITED_CONTENT"),
        faults.safety_stop(),
        faults.truncated("The"),
        faults.tool_call_only("f"),
        Reply(text="seen", thoughts="hidden"),
    )
    assert clients.text("google") is None
    assert clients.ask("google").candidates[0].content is None
    blocked = clients.ask("google")
    assert (blocked.candidates, blocked.text) == (None, None)
    assert blocked.prompt_feedback.block_reason == google_types.BlockedReason.PROHIBITED_CONTENT
    assert clients.ask("google").candidates[0].finish_reason == google_types.FinishReason.SAFETY
    cut = clients.ask("google")
    assert (cut.candidates[0].finish_reason, cut.text) == (google_types.FinishReason.MAX_TOKENS, "The")
    assert clients.ask("google").function_calls[0].name == "f"
    assert clients.text("google") == "seen"


@pytest.mark.parametrize("step", [faults.close_before(), faults.reset(), faults.cut_mid_body()])
def test_broken_connections(step: Step, vendors: LoopbackVendors, clients: Clients) -> None:
    vendors.script("m", then=step)
    with pytest.raises(openai.APIConnectionError):
        clients.ask("openai")
    with pytest.raises(anthropic.APIConnectionError):
        clients.ask("anthropic")
    with pytest.raises(httpx2.TransportError):  # google-genai lets the HTTP client's error through
        clients.ask("google")
    assert [seen.status for seen in vendors.seen] == [0, 0, 0]
    vendors.reset()
    assert clients.text("openai") is not None


def test_hang_runs_into_the_clients_timeout(vendors: LoopbackVendors) -> None:
    vendors.script("m", then=faults.hang())
    impatient = Clients(vendors, timeout=0.2)
    with pytest.raises(openai.APITimeoutError):
        impatient.ask("openai")
    with pytest.raises(anthropic.APITimeoutError):
        impatient.ask("anthropic")
    with pytest.raises(httpx2.TimeoutException):
        impatient.ask("google")
    deadline = time.monotonic() + 2
    while vendors.in_flight and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [seen.status for seen in vendors.seen] == [499, 499, 499]


def test_refused_connection(vendors: LoopbackVendors) -> None:
    client = openai.OpenAI(base_url=faults.refused_url("/v1"), api_key="k", max_retries=0)
    with pytest.raises(openai.APIConnectionError):
        client.models.list()
    assert vendors.seen == []


def test_a_faulty_step_shows(vendors: LoopbackVendors, clients: Clients) -> None:
    def step(seen: SeenRequest) -> Reply:
        raise KeyError(seen.model)

    vendors.script("m", step)
    with pytest.raises(openai.InternalServerError, match="script failed: KeyError"):
        clients.ask("openai")


async def _concurrent(vendors: LoopbackVendors, calls: int) -> None:
    async with openai.AsyncOpenAI(base_url=vendors.openai_url, api_key="k", max_retries=0) as client:
        message: Any = [{"role": "user", "content": "hi"}]
        await asyncio.gather(*(client.chat.completions.create(model="m", messages=message) for _ in range(calls)))


def test_concurrency_is_real_and_counts_are_exact(vendors: LoopbackVendors) -> None:
    vendors.script("m", then=faults.after(0.3, Reply(text="late")))
    began = time.monotonic()
    asyncio.run(_concurrent(vendors, 40))
    assert time.monotonic() - began < 40 * 0.3
    assert vendors.count("m") == 40
    assert vendors.in_flight_peak > 10
    assert vendors.in_flight == 0
    assert sorted(seen.index for seen in vendors.seen) == list(range(40))


def test_own_process() -> None:
    command = [sys.executable, "-m", "tests.vendors", "--port", "0", "--delay", "0.05"]
    with processes.start(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        with urllib.request.urlopen(f"{url}/_seen", timeout=5) as answer:
            log = json.loads(answer.read())
        assert (log["count"], log["by_model"]) == (1, {"m": 1})
        assert (log["requests"][0]["path"], log["requests"][0]["status"]) == ("/v1/chat/completions", 200)
        reset = urllib.request.Request(f"{url}/_reset", method="POST")
        urllib.request.urlopen(reset, timeout=5).close()
        with urllib.request.urlopen(f"{url}/_seen", timeout=5) as answer:
            assert json.loads(answer.read())["count"] == 0
        process.terminate()
        assert process.wait(timeout=5) == 0


def test_requests_a_minute_are_settable_for_a_key_of_the_environment(monkeypatch):
    from consensus_flows.tasks.calls.providers import from_environment
    from consensus_flows.tasks.errors import ConfigurationError

    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_REQUESTS_PER_MINUTE", "500")
    assert from_environment("openai").requests_per_minute == 500
    monkeypatch.setenv("OPENAI_REQUESTS_PER_MINUTE", "many")
    with pytest.raises(ConfigurationError, match="OPENAI_REQUESTS_PER_MINUTE"):
        from_environment("openai")
