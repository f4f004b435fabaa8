"""Credentials of a batch are read when it starts."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from blocks.credentials import OpenAICompatibleCredentials
from tasks.calls import providers
from tests.asking import asking
from tests.vendors import LoopbackVendors


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
