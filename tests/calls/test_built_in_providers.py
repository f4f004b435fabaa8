"""Vendors and servers that speak OpenAI's format are asked by name, each with its own key, address and price."""

import pytest

from consensus_flows.deployments.commands.operations.check import _provider
from consensus_flows.tasks.calls.pricing import price
from consensus_flows.tasks.calls.providers import built_in, close_clients, endpoint_of
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.record import Usage
from tests.kits.asking import answer, forget, question
from tests.vendors import LoopbackVendors

VENDORS = {
    "cerebras": "gpt-oss-120b",
    "deepseek": "deepseek-chat",
    "fireworks": "accounts/fireworks/models/deepseek-v3-0324",
    "groq": "llama-3.3-70b-versatile",
    "mistral": "mistral-large-latest",
    "together": "Gryphe/MythoMax-L2-13b",
    "xai": "grok-2-1212",
}
SELF_HOSTED = {"ollama": 11434, "lmstudio": 1234, "vllm": 8000}


@pytest.fixture(autouse=True)
def _anew(vendors: LoopbackVendors) -> None:
    forget()


@pytest.mark.parametrize(("provider", "model"), VENDORS.items())
async def test_a_vendor_is_asked_with_its_own_key_and_priced(
    vendors: LoopbackVendors, results: str, monkeypatch: pytest.MonkeyPatch, provider: str, model: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"set {provider.upper()}_API_KEY"):
        await endpoint_of(provider, model)
    monkeypatch.setenv(f"{provider.upper()}_API_KEY", f"sk-{provider}")
    used = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
    by_address = await price(await endpoint_of(provider, model), model, used)
    monkeypatch.setenv(f"{provider.upper()}_BASE_URL", vendors.openai_url)
    by_name = await price(await endpoint_of(provider, model), model, used)
    assert by_address and by_address == by_name
    given = await answer(question(provider).model_copy(update={"model": model}))
    await close_clients()
    assert given.text and given.cost_usd
    assert [seen.headers["authorization"] for seen in vendors.seen] == [f"Bearer sk-{provider}"]


@pytest.mark.parametrize(("provider", "port"), SELF_HOSTED.items())
async def test_a_server_of_ones_own_needs_no_key_and_costs_nothing(
    vendors: LoopbackVendors, results: str, monkeypatch: pytest.MonkeyPatch, provider: str, port: int
) -> None:
    assert (await endpoint_of(provider, "m")).address == f"http://127.0.0.1:{port}/v1"
    assert await _provider(provider, saved=False, offline=False) == (True, "")  # it does not run, which is no fault
    monkeypatch.setenv(f"{provider.upper()}_BASE_URL", vendors.openai_url)
    given = await answer(question(provider).model_copy(update={"model": "m"}))
    await close_clients()
    assert given.text and given.cost_usd == 0.0
    assert (await endpoint_of(provider, "m")).max_concurrency == built_in()[provider].max_concurrency
