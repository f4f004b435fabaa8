"""Loopback is reached without a proxy, whatever the environment says, and no key leaves in clear text through one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx
import pytest

from consensus_flows.blocks import OpenAICredentials
from consensus_flows.blocks.addresses import proxy_for
from consensus_flows.deployments.proxies import loopback_without_proxy
from consensus_flows.tasks.calls.request import Answer
from consensus_flows.tasks.errors import ConfigurationError
from tests.kits.asking import VENDORS, asking, outcome, question
from tests.kits.proxy import Proxy
from tests.vendors import LoopbackVendors

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    clean(monkeypatch)
    made = Proxy()
    yield made
    made.close()


def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        # Set first, so that what the code sets is taken back after the test.
        monkeypatch.setenv(name, "")
        monkeypatch.setenv(name.lower(), "")
        monkeypatch.delenv(name)
        monkeypatch.delenv(name.lower())


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
async def test_no_vendor_on_loopback_is_asked_through_a_proxy(
    proxy: Proxy, variable: str, monkeypatch: pytest.MonkeyPatch, results: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("NO_PROXY", "example.org")
    with asking(tmp_path_factory.mktemp("proxies")):
        monkeypatch.setenv(variable, proxy.url)
        loopback_without_proxy()
        for provider in VENDORS:
            result, _ = await outcome(question(provider))
            assert isinstance(result, Answer), result
    assert not proxy.said


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_other_clients_of_this_process_and_its_children_reach_loopback_too(
    proxy: Proxy, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, proxy.url)
    monkeypatch.setenv("no_proxy", "example.org")
    loopback_without_proxy("http://127.0.0.9:4200/api")
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "example.org,localhost,127.0.0.1,::1,127.0.0.9"
    with LoopbackVendors() as server:
        port = server.url.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost"):
            assert httpx.get(f"http://{host}:{port}/v1/models").status_code == 200
        assert not proxy.said
        assert httpx.get("http://192.0.2.1/").status_code == 502


def test_without_a_proxy_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    clean(monkeypatch)
    loopback_without_proxy()
    assert "NO_PROXY" not in os.environ and "no_proxy" not in os.environ


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]"])
def test_loopback_has_no_proxy(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES[:3]:
        monkeypatch.setenv(name, "http://proxy.test:1")
    assert proxy_for(f"http://{host}:8000/v1") is None
    assert proxy_for(f"https://{host}:8000/v1") is None


@pytest.mark.parametrize(
    ("variables", "url", "found"),
    [
        ({"HTTPS_PROXY": "proxy.test:3128"}, "https://api.test/v1", "http://proxy.test:3128"),
        ({"all_proxy": "http://u:p@proxy.test:1"}, "https://api.test/v1", "http://u:p@proxy.test:1"),
        ({"HTTP_PROXY": "http://proxy.test:1"}, "https://api.test/v1", None),
        ({"HTTPS_PROXY": "http://proxy.test:1", "NO_PROXY": "*"}, "https://api.test/v1", None),
        ({"HTTPS_PROXY": "http://proxy.test:1", "NO_PROXY": "a.test, .test"}, "https://api.test/v1", None),
        ({"HTTPS_PROXY": "http://proxy.test:1", "NO_PROXY": "*.test"}, "https://api.test/v1", None),
        ({"HTTPS_PROXY": "http://proxy.test:1", "NO_PROXY": "pi.test"}, "https://api.test/v1", "http://proxy.test:1"),
        ({"HTTP_PROXY": "http://proxy.test:1", "NO_PROXY": "10.0.0.0/8"}, "http://10.1.2.3:8000/v1", None),
        ({"HTTP_PROXY": "http://proxy.test:1", "NO_PROXY": "box.test:8000"}, "http://box.test:8000/v1", None),
    ],
)
def test_the_proxy_of_an_address(
    variables: dict[str, str], url: str, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean(monkeypatch)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(url) == found


async def test_clear_text_through_a_proxy_is_refused_before_the_call(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, results: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    loopback_without_proxy()
    credentials = OpenAICredentials(api_key="sk-canary", base_url="http://box.test/v1", allowed_http_hosts=["box.test"])
    await credentials.save("clear", overwrite=True)
    error, book = await outcome(question("clear"))
    assert isinstance(error, ConfigurationError)
    assert error.message == (
        "clear: http://box.test would be sent in clear text through the proxy of HTTP_PROXY: "
        "use https, or add 'box.test' to NO_PROXY"
    )
    assert not book.attempts and not proxy.said


@pytest.mark.parametrize(
    ("proxy_url", "said"),
    [
        (
            "socks5://u:canary@127.0.0.1:1",
            "ALL_PROXY is a SOCKS proxy, which needs another package: pip install socksio",
        ),
        ("ftp://u:canary@127.0.0.1:1", "ALL_PROXY is not a proxy URL"),
        ("http://u:canary@127.0.0.1:99999", "ALL_PROXY is not a proxy URL"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_one_sentence(
    proxy_url: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean(monkeypatch)
    monkeypatch.setenv("ALL_PROXY", proxy_url)
    with pytest.raises(ConfigurationError, match=said) as refused:
        loopback_without_proxy()
    assert "canary" not in refused.value.message
