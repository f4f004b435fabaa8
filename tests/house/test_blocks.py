"""Credentials and saved configurations: what they accept, where a key may go, and how they are saved."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from consensus_flows import blocks
from consensus_flows.blocks import (
    AnthropicCredentials,
    Budget,
    ConsensusLearning,
    Consortium,
    ConsortiumConfig,
    GoogleCredentials,
    MixtureOfAgents,
    OpenAICompatibleCredentials,
    OpenAICredentials,
    Prefer,
    Pump,
    Sampling,
    Swarm,
    Vote,
    parse_member,
    parse_model,
)
from consensus_flows.blocks.addresses import checked_base_url
from consensus_flows.blocks.credentials import ModelCredentials
from consensus_flows.blocks.member import members_of
from tests.kits import processes

ROOT = Path(__file__).parent.parent.parent
SLUGS = {
    OpenAICredentials: "openai-credentials",
    AnthropicCredentials: "anthropic-credentials",
    GoogleCredentials: "google-gemini-credentials",
    OpenAICompatibleCredentials: "openai-compatible-credentials",
    Consortium: "consortium",
    ConsensusLearning: "consensus-learning",
    MixtureOfAgents: "mixture-of-agents",
    Vote: "vote",
    Pump: "pump",
    Prefer: "prefer",
    Swarm: "swarm",
}
CREDENTIALS: list[type[ModelCredentials]] = [
    OpenAICredentials,
    AnthropicCredentials,
    GoogleCredentials,
    OpenAICompatibleCredentials,
]
KEY = "sk-canary-in-a-block"


@pytest.mark.parametrize("block", list(SLUGS))
class TestBlocks(BlockStandardTestSuite):
    @pytest.fixture
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        kind: type[Block] = request.param
        return kind

    @pytest.mark.skip(reason="needs the network")
    def test_has_a_valid_image(self, block: type[Block]) -> None:
        pass


def test_slugs_pictures_and_pages() -> None:
    assert {block: block.get_block_type_slug() for block in SLUGS} == SLUGS
    for block in SLUGS:
        # Prefect's documentation moved in 3.9, and the old address leads to the new one.
        assert (
            str(block._documentation_url).partition("/latest/")[2]
            == str(Secret._documentation_url).partition("/latest/")[2]
        )
        assert str(block._logo_url).startswith(str(Secret._logo_url).rsplit("/", 1)[0])


@pytest.mark.timeout(120)
def test_they_can_be_registered(prefect_server: None) -> None:
    command = [sys.executable, "-m", "prefect", "block", "register", "-m", "consensus_flows.blocks"]
    environment = os.environ | {"PREFECT_API_URL": PREFECT_API_URL.value(), "PYTHONPATH": str(ROOT)}
    done = processes.run(command, env=environment, text=True, timeout=100, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = [one for one in vars(blocks).values() if Block.is_block_class(one)]
    assert set(SLUGS) <= set(found)
    assert f"Successfully registered {len(found)} blocks" in done.stdout
    for block in found:
        assert block.get_block_type_name() in done.stdout
    # The base of the credentials is no block that anybody could fill in.
    assert ModelCredentials not in found


def test_the_entry_point_names_them() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["prefect.collections"] == {"consensus_flows": blocks.__name__}
    installed = [one for one in entry_points(group="prefect.collections") if one.name == "consensus_flows"]
    assert all(one.load() is blocks for one in installed)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com/v1",
        "https://host:8443/a/b/",
        "HTTPS://Host/v1",
        "http://localhost:8000/v1",
        "http://127.0.0.1:1",
        "http://127.9.9.9/",
        "http://[::1]:8000/v1",
        "http://box.lan:8000/v1",
        " https://host/v1 ",
    ],
)
def test_good_addresses(url: str) -> None:
    assert checked_base_url(url, ["BOX.lan"]) == url.strip().rstrip("/")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.com/v1", "'example.com' in allowed_http_hosts"),
        ("http://127.0.0.1.example.com", "clear text"),
        ("http://localhost.example.com", "clear text"),
        ("http://0.0.0.0:8000", "clear text"),
        ("http://10.0.0.7", "clear text"),
        ("http://models.localhost/v1", "clear text"),
        ("http://169.254.169.254/latest", "clear text"),
        ("https://canary:canary@host/v1", "user name or password"),
        ("https://canary@host/v1", "user name or password"),
        ("http://localhost@example.com/v1", "user name or password"),
        ("ftp://canary:canary@host/v1", "user name or password"),
        ("https://canary:canary@host:99999/v1", "not a URL"),
        ("https://host/v1?key=canary", "query"),
        ("https://host/v1#canary", "fragment"),
        ("https://host/v1?", "query"),
        ("ftp://host/canary", "not a URL"),
        ("host/canary", "not a URL"),
        ("https://", "not a URL"),
        ("https:///canary", "not a URL"),
        ("https://[::1/canary", "not a URL"),
        ("https://ho st/canary", "not a URL"),
        ("https://host/\r\nx-canary: 1", "not a URL"),
        ("file:///canary", "not a URL"),
        ("", "not a URL"),
    ],
)
def test_bad_addresses(url: str, said: str) -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        checked_base_url(url)
    assert said in str(caught.value)
    # What was typed may hold a secret, so none of it but the host is said again.
    assert "canary" not in str(caught.value)
    with pytest.raises(ValidationError):
        OpenAICredentials(api_key=SecretStr(KEY), base_url=url)


@pytest.mark.parametrize("block", CREDENTIALS)
def test_an_error_does_not_quote_the_key(block: type[ModelCredentials]) -> None:
    for fields in (
        {"api_key": KEY, "base_url": "http://example.com"},
        {"api_key": KEY, "base_url": "https://host", "max_concurrency": 0},
        {"api_key": f"{KEY} {KEY}", "base_url": "https://host"},
        {"api_key": f"{KEY}é", "base_url": "https://host"},
        {"api_key": f"{KEY}\n{KEY}", "base_url": "https://host"},
        {"api_key": [KEY], "base_url": "https://host"},
    ):
        with pytest.raises(ValidationError) as caught:
            block(**fields)
        assert KEY not in str(caught.value)
        assert KEY not in repr(caught.value)


@pytest.mark.parametrize("block", CREDENTIALS)
def test_a_key_from_a_file_loses_its_line_break(block: type[ModelCredentials]) -> None:
    made = block(api_key=SecretStr(f" {KEY}\n"), base_url="https://host")
    assert made.secrets == (KEY,)
    assert KEY not in repr(made)
    assert KEY not in str(made)


def test_an_empty_key_is_an_error_where_one_is_needed() -> None:
    for block in (OpenAICredentials, AnthropicCredentials, GoogleCredentials):
        with pytest.raises(ValidationError, match="the key is empty"):
            block(api_key=SecretStr(" "))
    for key in (None, SecretStr("")):
        made = OpenAICompatibleCredentials(base_url="http://localhost:8000/v1", api_key=key)
        assert made.secrets == ()
        assert made.get_client().api_key == "none"


@pytest.mark.parametrize("block", CREDENTIALS)
def test_clients(block: type[ModelCredentials]) -> None:
    client = block(api_key=SecretStr(KEY), base_url="https://host:1/v1").get_client(timeout=7)
    if block is GoogleCredentials:
        options = client._api_client._http_options
        assert (options.timeout, options.base_url.rstrip("/")) == (7000, "https://host:1/v1")
        assert options.retry_options.attempts == 1
        assert not client._api_client._async_httpx_client.follow_redirects
    else:
        assert (client.max_retries, client.timeout) == (0, 7)
        assert str(client.base_url).rstrip("/") == "https://host:1/v1"
        assert not client._client.follow_redirects


def test_the_organization_travels() -> None:
    client = OpenAICredentials(api_key=SecretStr(KEY), organization="org-1").get_client()
    assert client.organization == "org-1"
    assert str(client.base_url) == "https://api.openai.com/v1/"


@pytest.mark.parametrize("block", CREDENTIALS)
async def test_round_trip(block: type[ModelCredentials], prefect_server: None) -> None:
    name = f"round-{block.get_block_type_slug()}"
    made = block(
        api_key=SecretStr(KEY),
        base_url="http://box.lan/v1",
        allowed_http_hosts=["box.lan"],
        max_concurrency=3,
        requests_per_minute=60,
    )
    await made.asave(name)
    try:
        loaded = await block.aload(name)
        assert isinstance(loaded, block)
        assert loaded.secrets == (KEY,)
        assert (loaded.address, loaded.max_concurrency, loaded.requests_per_minute) == ("http://box.lan/v1", 3, 60)
        async with get_client() as client:
            hidden = await client.read_block_document_by_name(name, block.get_block_type_slug(), include_secrets=False)
        assert KEY not in hidden.model_dump_json()
    finally:
        await block.adelete(name)


async def test_round_trip_of_a_configuration(prefect_server: None) -> None:
    config = ConsortiumConfig(
        members=["openai/a:2", "local/b"],
        arbiter="openai/a",
        sampling=Sampling(temperature=0.5, stop=("x",), extra={"y": [1, None]}),
        member_settings={"local/b": Sampling(seed=1)},
        budget=Budget(max_calls=9),
        quorum=2,
    )
    await Consortium(config=config).asave("round", overwrite=True)
    try:
        loaded = await Consortium.aload("round")
        assert loaded.config == config
        # The settings of all still reach the member that has settings of its own.
        assert loaded.config.settings_of(loaded.config.panel()[2]) == Sampling(
            temperature=0.5, stop=("x",), extra={"y": [1, None]}, seed=1
        )
    finally:
        await Consortium.adelete("round")


@pytest.mark.parametrize(
    ("text", "provider", "model", "count"),
    [
        ("openai/gpt-6-luna", "openai", "gpt-6-luna", 1),
        ("openai/gpt-6-luna:3", "openai", "gpt-6-luna", 3),
        ("openrouter/deepseek/deepseek-r1:free:2", "openrouter", "deepseek/deepseek-r1:free", 2),
        ("openrouter/deepseek/deepseek-r1:free", "openrouter", "deepseek/deepseek-r1:free", 1),
        ("ollama/llama3.2:3b", "ollama", "llama3.2:3b", 1),
        ("ollama/llama3.2:3b:4", "ollama", "llama3.2:3b", 4),
        ("local//models/a b.gguf", "local", "/models/a b.gguf", 1),
        ("my-account-2/gpt:+2", "my-account-2", "gpt", 2),
        (" openai/gpt ", "openai", "gpt", 1),
        ("hf/Qwen/Qwen3:novita", "hf", "Qwen/Qwen3:novita", 1),
    ],
)
def test_members(text: str, provider: str, model: str, count: int) -> None:
    assert parse_member(text) == ((provider, model), count)


@pytest.mark.parametrize("text", ["openai/gpt:0", "openai/gpt:-2", "openrouter/a/b:free:0"])
def test_a_count_below_one(text: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        parse_member(text)


@pytest.mark.parametrize(
    "text", ["", "gpt-6", "/gpt", "openai/", "openai/ ", "openai/:2", "Open AI/gpt", "OpenAI/gpt", "-a/gpt"]
)
def test_no_model(text: str) -> None:
    with pytest.raises(ValueError, match="use provider/model"):
        parse_member(text)
    with pytest.raises(ValueError, match="use provider/model"):
        parse_model(text)


def test_instances_go_on_counting() -> None:
    assert [str(one) for one in members_of(["a/x:2", "b/y", "a/x"])] == ["a/x#1", "a/x#2", "b/y#1", "a/x#3"]


GOOD: dict[str, Any] = {"members": ["openai/a", "google/b"], "arbiter": "openai/a"}


def test_defaults() -> None:
    config = ConsortiumConfig(**GOOD)
    assert (config.confidence_threshold, config.max_iterations, config.min_iterations) == (0.8, 3, 1)
    assert (config.judging_method, config.keep, config.needed()) == ("synthesize", "best", 2)
    assert ConsortiumConfig(members=["a/b:5"], arbiter="a/b").needed() == 3
    assert [str(one) for one in config.arbiters()] == ["openai/a"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"members": []}, "members"),
        ({"members": ["gpt"]}, "'gpt' is not a model name"),
        ({"members": ["openai/a:0"]}, "at least 1"),
        ({"arbiter": "gpt"}, "'gpt' is not a model name"),
        ({"arbiter": "openai/a:2"}, "'openai/a:2' must not have a count"),
        ({"fallback_arbiters": ["openai/a:2"]}, "fallback_arbiters"),
        ({"min_iterations": 4}, "min_iterations is 4, more than max_iterations, 3"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"confidence_threshold": 80}, "confidence_threshold"),
        ({"confidence_threshold": -0.1}, "confidence_threshold"),
        ({"quorum": 3}, "quorum is 3, but there are only 2 members"),
        ({"quorum": 0}, "quorum"),
        ({"straggler_grace": 0}, "straggler_grace"),
        ({"timeout": 0}, "timeout"),
        ({"judging_method": "vote"}, "judging_method"),
        ({"keep": "worst"}, "keep"),
        ({"member_settings": {"openai/c": {}}}, "member_settings: 'openai/c' is not a member"),
        ({"sampling": {"temperature": 3}}, "sampling.temperature"),
        ({"sampling": {"temprature": 1}}, "sampling.temprature"),
        ({"budget": {"max_calls": 0}}, "budget.max_calls"),
        ({"iterations": 3}, "iterations"),
    ],
)
def test_a_bad_configuration_names_the_field(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ConsortiumConfig(**(GOOD | fields))
    assert said in str(caught.value)


def test_settings_laid_over_others() -> None:
    base = Sampling(temperature=0.5, top_p=0.5, extra={"a": 1, "b": 1})
    assert Sampling(top_p=0.6, extra={"b": 2}).over(base) == Sampling(
        temperature=0.5, top_p=0.6, extra={"a": 1, "b": 2}
    )
    assert Sampling(temperature=0, seed=0).over(base) == base.model_copy(update={"temperature": 0, "seed": 0})
    assert Sampling.model_validate_json(Sampling(seed=1).model_dump_json()).over(base).temperature == 0.5


def test_a_form_shows_an_algorithms_own_settings_first() -> None:
    fields = ConsortiumConfig.model_json_schema()["properties"]
    shown = sorted(fields, key=lambda name: int(fields[name]["position"]))
    assert shown[:3] == ["members", "arbiter", "fallback_arbiters"]
    assert shown[-3:] == ["embedding_model", "service_tier", "prices"]
    assert [fields[name]["position"] for name in shown] == list(range(1, len(shown) + 1))
