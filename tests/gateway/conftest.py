"""The gateway in this process, on a real socket, in front of the loopback vendors."""

import asyncio
import socket
import threading
from contextvars import copy_context

import openai
import pytest
import uvicorn
from prefect.settings import get_current_settings

from consensus_flows.blocks.consortium import Consortium
from consensus_flows.blocks.vote import Vote, VoteConfig
from consensus_flows.deployments.gateway.app import Options, make_app
from consensus_flows.deployments.server import ServerInfo
from consensus_flows.tasks.history.writing import close_writers
from tests.kits.consortium_kit import config, judged, say


class Gateway:
    """A gateway that runs, and its address."""

    def __init__(self, **options):
        api_url = str(get_current_settings().api.url)
        self.app = make_app(Options(ServerInfo(api_url, "http://ui"), **options))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(self.app, log_level="critical", timeout_graceful_shutdown=5))
        # Prefect's settings of the test are those of this context.
        arguments = (asyncio.run, self._server.serve([self.listener]))
        self._thread = threading.Thread(target=copy_context().run, args=arguments, daemon=True)
        self._thread.start()

    def client(self, key="none", **options):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, **{"max_retries": 0, "timeout": 60, **options})

    def stop(self):
        self._server.should_exit = True
        self._thread.join(30)
        self.listener.close()


@pytest.fixture(scope="session")
async def saved(prefect_server):
    """A vote and a consortium, saved once."""
    vote = VoteConfig(members=["openai/one", "openai/two", "openai/three"], extract="number")
    blocks = {"counted": Vote(config=vote), "judged": Consortium(config=config())}
    for name, block in blocks.items():
        await block.save(name, overwrite=True)
    yield
    for name, block in blocks.items():
        await type(block).adelete(name)


@pytest.fixture
def history(tmp_path, monkeypatch):
    path = tmp_path / "history.db"
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{path}")
    yield path
    close_writers()


@pytest.fixture
def start(saved, results, vendors, history):
    """Start gateways that end with the test."""
    running = []

    def start(**options):
        running.append(Gateway(**options))
        return running[-1]

    say(vendors, one="It is 42.", two="42", three="I say 41")
    vendors.script("arbiter", then=judged(90, "the synthesis"))
    yield start
    for gateway in running:
        gateway.stop()


@pytest.fixture
def gateway(start):
    return start()
