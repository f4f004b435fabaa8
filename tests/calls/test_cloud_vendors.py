"""The clouds' doors to the same models: Azure OpenAI, Gemini and Claude on Vertex AI, Claude on Bedrock, by the SDKs' own classes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr, ValidationError

from consensus_flows.blocks import (
    AnthropicVertexCredentials,
    AzureOpenAICredentials,
    BedrockCredentials,
    ModelName,
    VertexCredentials,
    parse_member,
)
from consensus_flows.deployments.commands.operations.check import _provider
from consensus_flows.tasks.calls import providers
from consensus_flows.tasks.calls.pricing import price
from consensus_flows.tasks.calls.probe import offered, probe
from consensus_flows.tasks.calls.providers import client_of, credential_blocks, endpoint_of
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.calls.vendors.vendor import Repairs
from consensus_flows.tasks.errors import ConfigurationError, ModelError
from consensus_flows.tasks.record import Usage
from tests.kits.asking import answer, asking, outcome, question
from tests.vendors import LoopbackVendors, Reply, SeenRequest
from tests.vendors.server import TOKEN

CLOUDS = ("azure", "vertex", "vertex-anthropic", "bedrock")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
    "additionalProperties": False,
}
ACCESS_KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@cache
def service_account(token_uri: str) -> str:
    """The JSON key of a service account whose tokens come from `token_uri`."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    fields = {"type": "service_account", "project_id": "p", "private_key_id": "1", "private_key": pem}
    return json.dumps(fields | {"client_email": "a@p.iam.gserviceaccount.com", "token_uri": token_uri}, indent=2)


@pytest.fixture(scope="module")
def server(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackVendors]:
    folder = tmp_path_factory.mktemp("clouds")
    with asking(folder) as vendors, pytest.MonkeyPatch.context() as patch:
        account = folder / "account.json"
        account.write_text(service_account(f"{vendors.url}/token"))
        for name, value in {
            "AZURE_OPENAI_API_KEY": "azure-key-0123456789",
            "AZURE_OPENAI_ENDPOINT": vendors.url,
            "GOOGLE_CLOUD_PROJECT": "our-project",
            "GOOGLE_CLOUD_LOCATION": "europe-west4",
            "GOOGLE_APPLICATION_CREDENTIALS": str(account),
            "GOOGLE_VERTEX_BASE_URL": vendors.url,
            "ANTHROPIC_VERTEX_BASE_URL": f"{vendors.url}/v1",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_EC2_METADATA_DISABLED": "true",
            "ANTHROPIC_BEDROCK_BASE_URL": vendors.url,
        }.items():
            patch.setenv(name, value)
        yield vendors


def last(server: LoopbackVendors, request: Request) -> SeenRequest:
    return [one for one in server.seen if one.model == request.model][-1]


def save(provider: str, credentials: Any) -> None:
    """Let the server have these credentials saved under a name."""
    known = providers._saved
    known[providers._saved_key(provider)] = (float("inf"), credentials)


PATHS = {
    "azure": "/openai/v1/chat/completions",
    "vertex": "/v1beta1/projects/our-project/locations/europe-west4/publishers/google/models/{}:generateContent",
    "vertex-anthropic": "/v1/projects/our-project/locations/europe-west4/publishers/anthropic/models/{}:rawPredict",
    "bedrock": "/model/{}/invoke",
}
AUTHORIZED = {
    "azure": "Bearer azure-key-0123456789",
    "vertex": f"Bearer {TOKEN}",
    "vertex-anthropic": f"Bearer {TOKEN}",
    "bedrock": f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/",
}


@pytest.mark.parametrize("provider", CLOUDS)
async def test_a_cloud_is_asked_by_its_own_path_and_signature(server: LoopbackVendors, provider: str) -> None:
    request = question(provider)
    server.script(request.model, Reply(text="Because."))
    given = await answer(request)
    seen = last(server, request)
    assert given.text == "Because." and given.usage.input_tokens and given.usage.output_tokens
    assert seen.path == PATHS[provider].format(request.model)
    assert seen.headers["authorization"].startswith(AUTHORIZED[provider])
    assert seen.prompt == "Why?"
    assert await answer(request) == given and server.count(request.model) == 1


async def test_a_request_to_bedrock_bears_the_signature_of_its_body(server: LoopbackVendors) -> None:
    request = question("bedrock")
    await answer(request)
    headers = last(server, request).headers
    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=(\S+), SignedHeaders=(\S+), Signature=(\S+)", headers["authorization"]
    )
    assert found
    names = found[2].split(";")
    body = json.dumps(last(server, request).params, separators=(",", ":")).encode()
    again = AWSRequest("POST", f"{server.url}/model/{request.model}/invoke", {n: headers[n] for n in names}, body)
    again.context["timestamp"] = headers["x-amz-date"]
    signer = SigV4Auth(Credentials(ACCESS_KEY, SECRET), "bedrock", "us-east-1")
    canonical = signer.canonical_request(again)
    assert found[1].split("/")[2:] == ["us-east-1", "bedrock", "aws4_request"]
    assert found[3] == signer.signature(signer.string_to_sign(again, canonical), again)


@pytest.mark.parametrize("provider", CLOUDS)
async def test_an_answer_in_a_schema(server: LoopbackVendors, provider: str) -> None:
    request = question(provider, response_schema=SCHEMA)
    assert list(json.loads((await answer(request)).text)) == ["text"]
    assert last(server, request).schema


@pytest.mark.parametrize("provider", ["vertex-anthropic", "bedrock"])
async def test_a_cloud_that_lags_behind_gets_the_schema_in_the_prompt(server: LoopbackVendors, provider: str) -> None:
    request = question(provider, response_schema=SCHEMA)
    refusal = {"message": "output_config: Extra inputs are not permitted"}
    body = refusal if provider == "bedrock" else {"error": {"type": "invalid_request_error", **refusal}}
    server.script(request.model, Reply(status=400, body=body), then=Reply(text='{"text": "yes"}'))
    assert (await answer(request)).text == '{"text": "yes"}'
    assert "output_config" not in last(server, request).params


async def streamed(request: Request) -> tuple[Any, list[str]]:
    """Ask for a stream; return what was read of it, and its parts as they came."""
    parts: list[str] = []

    async def write(part: str) -> None:
        parts.append(part)

    endpoint = await endpoint_of(request.provider, request.model)
    vendor = endpoint.vendor
    vendor.load()
    body = vendor.build(request, Repairs()) | vendor.stream_arguments(request, Repairs())
    response = await vendor.stream(await client_of(endpoint, request.model), request, body, write)
    return vendor.read(request, body, response), parts


@pytest.mark.parametrize("provider", CLOUDS)
async def test_a_stream_is_passed_on_as_it_comes(server: LoopbackVendors, provider: str) -> None:
    request = question(provider)
    server.script(request.model, Reply(text="one two three"))
    reply, parts = await streamed(request)
    assert reply.text == "".join(parts) == "one two three" and len(parts) > 1
    assert reply.finish == "stop" and reply.usage.output_tokens and last(server, request).stream


FAILURES = [
    (
        "azure",
        404,
        {"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}},
        "not_found",
    ),
    ("azure", 400, {"error": {"code": "content_filter", "message": "The response was filtered"}}, "content_filter"),
    ("vertex", 403, {"error": {"code": 403, "message": "no", "status": "PERMISSION_DENIED"}}, "auth"),
    (
        "vertex-anthropic",
        429,
        {"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED"}},
        "rate_limit",
    ),
    ("bedrock", 400, {"message": "The provided model identifier is invalid."}, "not_found"),
    ("bedrock", 400, {"message": "Input is too long for requested model."}, "context_length"),
    ("bedrock", 403, {"message": "The security token included in the request is expired"}, "auth"),
    ("bedrock", 424, {"message": "The model failed to generate a response"}, "server"),
    ("bedrock", 429, {"message": "Too many requests, please wait"}, "rate_limit"),
]


@pytest.mark.parametrize(("provider", "status", "body", "kind"), FAILURES)
async def test_what_a_failure_means(
    server: LoopbackVendors, provider: str, status: int, body: dict[str, Any], kind: str
) -> None:
    request = question(provider)
    server.script(request.model, then=Reply(status=status, body=body))
    error, _ = await outcome(request)
    assert isinstance(error, ModelError) and (error.kind, error.status) == (kind, 500 if status == 424 else status)


async def test_a_stream_of_bedrock_that_breaks_off_with_an_error(server: LoopbackVendors) -> None:
    request = question("bedrock")
    broken = {"type": "error", "error": {"type": "api_error", "message": "The model gave up"}}
    server.script(request.model, then=Reply(text="one two three", breaks=broken))
    with pytest.raises(Exception) as raised:
        await streamed(request)
    fault = (await endpoint_of("bedrock", request.model)).vendor.fault_of(raised.value)
    assert fault.message == "The model gave up" and fault.status == 500


async def test_an_older_api_of_azure_is_asked_by_deployment_and_version(
    server: LoopbackVendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_VERSION", "2024-10-21")
    request = question("azure")
    await answer(request)
    seen = last(server, request)
    assert seen.path == f"/openai/deployments/{request.model}/chat/completions"
    assert seen.query == "api-version=2024-10-21"
    assert seen.headers["api-key"] == "azure-key-0123456789" and "authorization" not in seen.headers


@pytest.mark.parametrize("version", [None, "2024-10-21"])
async def test_azure_without_a_key_signs_in_with_entra_id(
    server: LoopbackVendors, monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{server.url}/token")
    monkeypatch.setenv("IDENTITY_HEADER", "secret-of-the-host")
    save("azure-entra", AzureOpenAICredentials(base_url=f"{server.url}/openai/v1/", api_version=version))
    request = question("azure-entra")
    await answer(request)
    assert last(server, request).headers["authorization"] == f"Bearer {TOKEN}"


async def test_saved_credentials_of_a_cloud(server: LoopbackVendors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "of-the-environment-0123456789")
    account = SecretStr(service_account(f"{server.url}/token"))
    url = server.url
    save("ours", VertexCredentials(base_url=url, project="theirs", location="us", api_key=account))
    save("claude", AnthropicVertexCredentials(base_url=url, project="theirs", api_key=account))
    save("pair", BedrockCredentials(base_url=url, region="eu-west-1", access_key_id="AKIA2", api_key=SecretStr(SECRET)))
    save(
        "bearer", BedrockCredentials(base_url=url, region="eu-west-1", api_key=SecretStr("bedrock-api-key-0123456789"))
    )
    asked = {name: question(name) for name in ("ours", "claude", "pair", "bearer")}
    for request in asked.values():
        await answer(request)
    seen = {name: last(server, request) for name, request in asked.items()}
    assert "/projects/theirs/locations/us/publishers/google/" in seen["ours"].path
    assert "/projects/theirs/locations/global/publishers/anthropic/" in seen["claude"].path
    assert "Credential=AKIA2/" in seen["pair"].headers["authorization"]
    assert "/eu-west-1/bedrock/" in seen["pair"].headers["authorization"]
    assert seen["bearer"].headers["authorization"] == "Bearer bedrock-api-key-0123456789"


def test_what_decides_the_answer_is_in_the_address_and_no_key_is() -> None:
    account = SecretStr(service_account("http://127.0.0.1:1/token"))
    variants = [
        AzureOpenAICredentials(base_url="https://a.openai.azure.com"),
        AzureOpenAICredentials(base_url="https://b.openai.azure.com"),
        AzureOpenAICredentials(base_url="https://a.openai.azure.com", api_version="2024-10-21"),
        VertexCredentials(project="a"),
        VertexCredentials(project="b"),
        VertexCredentials(project="a", location="us"),
        VertexCredentials(project="a", location="europe-west4"),
        BedrockCredentials(region="us-east-1"),
        BedrockCredentials(region="us-west-2"),
        BedrockCredentials(region="us-east-1", base_url="https://gateway.example"),
        BedrockCredentials(region="us-west-2", base_url="https://gateway.example"),
    ]
    assert len({one.address for one in variants}) == len(variants)
    assert VertexCredentials(project="a").address == VertexCredentials(project="a", api_key=account).address
    keyed = AzureOpenAICredentials(base_url="https://a.openai.azure.com", api_key=SecretStr("k" * 20))
    assert keyed.address == variants[0].address
    keyed = BedrockCredentials(region="us-east-1", access_key_id="AKIA", api_key=SecretStr("k" * 20))
    assert keyed.address == variants[7].address == "https://bedrock-runtime.us-east-1.amazonaws.com"
    assert VertexCredentials(project="a").host == "https://aiplatform.googleapis.com"
    assert VertexCredentials(project="a", location="eu").host == "https://aiplatform.eu.rep.googleapis.com"
    assert VertexCredentials(project="a", location="us-east5").host == "https://us-east5-aiplatform.googleapis.com"


@pytest.mark.parametrize(
    ("block", "fields", "wrong"),
    [
        (VertexCredentials, {"project": "p", "location": "evil.example/#"}, "location"),
        (VertexCredentials, {"project": "p/../q"}, "project"),
        (VertexCredentials, {"project": "p", "api_key": SecretStr("{}")}, "api_key"),
        (BedrockCredentials, {"region": "us-east-1.evil.example/"}, "region"),
        (BedrockCredentials, {}, "region"),
        (AzureOpenAICredentials, {"base_url": "http://a.openai.azure.com"}, ""),
        (AzureOpenAICredentials, {"base_url": "https://a.openai.azure.com", "api_version": "1&x=2"}, "api_version"),
    ],
)
def test_fields_that_cannot_be_part_of_an_address(block: Any, fields: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValidationError) as raised:
        block(**fields)
    assert [".".join(map(str, one["loc"])) for one in raised.value.errors()] == [wrong]


PRICED = {
    "azure": ("https://a.openai.azure.com", "gpt-4o"),
    "vertex": (None, "gemini-2.5-flash"),
    "vertex-anthropic": (None, "claude-haiku-4-5@20251001"),
    "bedrock": (None, "us.anthropic.claude-haiku-4-5-20251001-v1:0"),
}


@pytest.mark.parametrize("provider", CLOUDS)
async def test_a_price_is_found_by_address_and_by_name(
    server: LoopbackVendors, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    url, model = PRICED[provider]
    used = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
    behind_a_gateway = await price(await endpoint_of(provider, model), model, used)
    variable = providers.built_in()[provider].base_url_variable
    assert variable
    monkeypatch.setenv(variable, url) if url else monkeypatch.delenv(variable)
    assert behind_a_gateway and behind_a_gateway == await price(await endpoint_of(provider, model), model, used)


async def test_a_deployment_costs_what_its_model_costs(server: LoopbackVendors) -> None:
    request = question("azure")
    server.script(request.model, Reply(body=_deployed()))
    given = await answer(request)
    assert given.model_served == "gpt-4o-2024-08-06" and given.cost_usd == pytest.approx(0.125)


def _deployed() -> dict[str, Any]:
    message = {"role": "assistant", "content": "Because."}
    usage = {"prompt_tokens": 10_000, "completion_tokens": 10_000, "total_tokens": 20_000}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-2024-08-06",
        "choices": choices,
        "usage": usage,
    }


async def test_what_is_not_set_up_says_what_to_set(monkeypatch: pytest.MonkeyPatch, server: LoopbackVendors) -> None:
    for name in ("AZURE_OPENAI_ENDPOINT", "GOOGLE_CLOUD_PROJECT", "AWS_REGION"):
        monkeypatch.delenv(name)
    said = {
        "azure": "AZURE_OPENAI_ENDPOINT",
        "vertex": "GOOGLE_CLOUD_PROJECT",
        "vertex-anthropic": "ANTHROPIC_VERTEX_PROJECT_ID or GOOGLE_CLOUD_PROJECT",
        "bedrock": "AWS_REGION or AWS_DEFAULT_REGION",
    }
    for provider, variables in said.items():
        with pytest.raises(ConfigurationError) as raised:
            await endpoint_of(provider, "m")
        assert f"{provider} is not set up: set {variables}, or run" in raised.value.message


async def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, server: LoopbackVendors) -> None:
    monkeypatch.setenv("AWS_REGION", "us_east_1")
    with pytest.raises(ConfigurationError, match=r"^AWS_REGION: "):
        await endpoint_of("bedrock", "m")


async def test_an_extra_that_is_missing_is_named_before_any_call(
    monkeypatch: pytest.MonkeyPatch, server: LoopbackVendors
) -> None:
    monkeypatch.setattr("consensus_flows.blocks.cloud_credentials.find_spec", lambda _: None)
    monkeypatch.delenv("AZURE_OPENAI_API_KEY")
    for provider, extra in {"bedrock": "bedrock", "azure": "entra"}.items():
        with pytest.raises(ConfigurationError, match=rf"pip install 'consensus-flows\[{extra}\]'"):
            await endpoint_of(provider, "m")


async def test_a_region_alone_is_no_fault_and_says_that_credentials_are_missing(
    monkeypatch: pytest.MonkeyPatch, server: LoopbackVendors, tmp_path: Path
) -> None:
    """A machine may have them set for other programs."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_REGION", "us-west-1")
    error, _ = await outcome(question("bedrock"))
    assert isinstance(error, ModelError) and (error.kind, error.retryable) == ("auth", False)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "another")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    fine, said = await _provider("vertex", saved=False, offline=False)
    assert fine and "auth: DefaultCredentialsError" in said
    assert not (await _provider("vertex", saved=True, offline=False))[0]


async def test_models_are_listed_where_the_cloud_lists_them(server: LoopbackVendors) -> None:
    fine, said = await _provider("vertex", saved=False, offline=False)
    assert fine and re.search(r"answers in .* models", said)
    endpoint = await endpoint_of("vertex", "m")
    assert "gemini-3.8-flash" in await offered(endpoint)
    for provider in ("azure", "vertex-anthropic", "bedrock"):
        fine, said = await _provider(provider, saved=False, offline=False)
        assert fine and said.endswith("lists no models")


@pytest.mark.parametrize("provider", ["azure", "vertex-anthropic", "bedrock"])
async def test_a_model_that_no_list_names_is_tested(server: LoopbackVendors, provider: str) -> None:
    name = ModelName(provider, question(provider).model)
    server.script(name.model, Reply(status=404, text="no such model"))
    found = await probe({name: await endpoint_of(*name)})
    assert list(found.problems) == [name]
    assert (await probe({name: await endpoint_of(*name)})).problems == {}


def test_a_version_at_the_end_of_a_name_is_no_count() -> None:
    name = "bedrock/us.anthropic.claude-haiku-4-5-20251001-v1:0"
    assert parse_member(name) == (ModelName("bedrock", name.partition("/")[2]), 1)
    assert parse_member(f"{name}:3") == (ModelName("bedrock", name.partition("/")[2]), 3)
    assert parse_member("x/deepseek-v3:2")[1] == 2
    with pytest.raises(ValueError, match="at least 1"):
        parse_member("x/deepseek:0")


def test_every_type_of_credentials_is_saved_under_a_name_of_its_own() -> None:
    slugs = {"azure-openai-credentials", "vertex-ai-credentials", "anthropic-vertex-ai-credentials"}
    assert {*slugs, "amazon-bedrock-credentials"} <= set(credential_blocks())
