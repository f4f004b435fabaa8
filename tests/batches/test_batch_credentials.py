"""Credentials of a batch are read when it starts."""

import inspect
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from consensus_flows.blocks.credentials import OpenAICompatibleCredentials
from consensus_flows.tasks.calls import providers
from tests.kits.asking import asking
from tests.vendors import LoopbackVendors, faults


@pytest.fixture(scope="module")
def server(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackVendors]:
    with asking(tmp_path_factory.mktemp("credentials")) as vendors:
        yield vendors


async def test_in_a_batch_credentials_are_read_once(server: LoopbackVendors, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Prefect server that is away for a while holds up no call, and no call waits to read what is known."""
    first: Any = OpenAICompatibleCredentials(base_url=server.openai_url, api_key=SecretStr("sk-one"))
    await first.save("nightly", overwrite=True)
    await providers.look_up(["nightly"])
    monkeypatch.setattr(providers, "REMEMBER_S", 0.0)
    block: Any = OpenAICompatibleCredentials(base_url=server.openrouter_url, api_key=SecretStr("sk-one"))
    await block.save("nightly", overwrite=True)
    with providers.models_checked():
        during = await providers.endpoint_of("nightly", "m")
    after = await providers.endpoint_of("nightly", "m")
    assert (during.address, after.address) == (server.openai_url, server.openrouter_url)


async def test_what_was_read_holds_while_the_server_is_away(server: LoopbackVendors) -> None:
    """The cache key is made in another event loop, whose client finds out while it is made: without a key nothing is stored."""
    with temporary_settings({PREFECT_API_URL: f"{faults.refused_url()}/api"}):
        for look_up in (providers.endpoint_now, providers.endpoint_of):
            providers._saved[providers._saved_key("openai")] = (float("-inf"), None)
            found: Any = look_up("openai", "m")
            assert (await found if inspect.isawaitable(found) else found).address == server.openai_url
        with pytest.raises((httpx.TransportError, RuntimeError)):
            await providers.endpoint_of("never-read", "m")
