"""The MCP server over HTTP: who may use it, and one budget for all of its clients."""

import asyncio
import socket
from contextlib import asynccontextmanager

import httpx2
import pytest
import uvicorn
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from consensus_flows.blocks.settings import Budget
from consensus_flows.deployments.mcp.serving import make_app
from consensus_flows.deployments.mcp.session import Session
from consensus_flows.deployments.terminal import Stop
from tests.kits.consortium_kit import say


@asynccontextmanager
async def served(session, **options):
    """Serve on a socket of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(make_app(session, **options), log_level="warning", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        server.should_exit = True
        await serving


async def test_clients_with_the_token_share_a_budget_and_others_are_turned_away(
    results, vendors, tmp_path, monkeypatch
):
    monkeypatch.setattr("consensus_flows.deployments.server.use_server", lambda info: None)
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{tmp_path / 'history.db'}")
    say(vendors, one="yes", two="yes")
    question = {"algorithm": "vote", "prompt": "Is it?", "models": ["openai/one", "openai/two"]}
    told = []

    async def note(progress, total, message):
        told.append((progress, total))

    async with served(Session(Budget(max_calls=3)), token="secret") as url, httpx2.AsyncClient() as stranger:
        assert (await stranger.post(url, json={})).status_code == 401
        assert (await stranger.post(url, json={}, headers={"Host": "evil.example"})).status_code == 400
        assert (await stranger.post(url, json={}, headers={"Origin": "https://evil.example"})).status_code == 403
        left = []
        for _ in range(2):
            async with (
                httpx2.AsyncClient(headers={"Authorization": "Bearer secret"}, timeout=60) as http,
                Client(streamable_http_client(url, http_client=http)) as client,
            ):
                left.append(await client.call_tool("run_algorithm", question, progress_callback=note))
                question = question | {"prompt": "Sure?"}
        assert left[0].structured_content["answer"] == "yes"
        assert left[0].structured_content["budget"]["calls_left"] == 1
        assert left[1].is_error and "1 of 3" in left[1].content[0].text
        assert told[:3] == [(0, None), (1, 2), (2, 2)]


def test_another_address_needs_a_name_and_a_token(prefect_server, monkeypatch):
    from consensus_flows.deployments.commands.mcp import mcp

    monkeypatch.setattr("consensus_flows.deployments.server.use_server", lambda info: None)
    with pytest.raises(Stop, match="--allow-host"):
        mcp(http=True, host="0.0.0.0", port=0)
    with pytest.raises(Stop, match="consensus keys token"):
        mcp(http=True, host="0.0.0.0", port=0, allow_host=["my-server"])
