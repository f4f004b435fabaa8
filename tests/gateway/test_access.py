"""Who may use the gateway, Flare's route, the documentation page, and how the gateway ends."""

import re
import threading
import time

import httpx
import openai
import pytest

from consensus_flows.blocks.http_client import VIA
from tests.kits.command_kit import commands
from tests.kits.consortium_kit import asked
from tests.vendors import Reply, faults

BODY = {"model": "counted", "messages": [{"role": "user", "content": "Six times seven?"}]}


def test_on_loopback_no_key_is_needed_and_health_is_told(gateway):
    assert httpx.get(f"{gateway.url}/health").json() == {"status": "ok", "runs": 0}


def test_where_a_token_is_wanted_nothing_else_is_let_in(start, vendors):
    gateway = start(token="let-me-in")
    assert "let-me-in" not in repr(gateway.app.state._state)
    for key in ("wrong", "let-me-in-"):
        with pytest.raises(openai.AuthenticationError) as caught:
            gateway.client(key).models.list()
        assert (caught.value.code, caught.value.type) == ("invalid_api_key", "authentication_error")
    assert httpx.post(f"{gateway.url}/v1/chat/completions", json=BODY).status_code == 401
    assert not vendors.seen
    assert list(gateway.client("let-me-in").models.list())
    assert httpx.get(f"{gateway.url}/health").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""])
def test_a_host_that_was_not_named_is_refused(gateway, vendors, host):
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=BODY, headers={"Host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "host_not_allowed")
    assert not vendors.seen


def test_a_host_that_was_named_is_served(start):
    gateway = start(hosts=["panels.example"])
    for host in ("panels.example", "panels.example:8000", "[::1]:8000", "localhost"):
        assert httpx.get(f"{gateway.url}/health", headers={"Host": host}).status_code == 200


def test_a_web_page_of_another_site_starts_no_run(gateway, vendors):
    origin = {"Origin": "https://evil.example"}
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=BODY, headers=origin)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in httpx.options(f"{gateway.url}/v1/models", headers=origin).headers
    assert not vendors.seen
    assert httpx.get(f"{gateway.url}/v1/models", headers={"Origin": gateway.url}).status_code == 200


def test_a_web_page_that_was_named_may_use_it(start):
    gateway, page = start(origins=["https://chat.example"], token="t"), {"Origin": "https://chat.example"}
    asks = page | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    answer = httpx.options(f"{gateway.url}/v1/chat/completions", headers=asks)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, page["Origin"])
    allowed = httpx.get(f"{gateway.url}/v1/models", headers=page | {"Authorization": "Bearer t"})
    assert allowed.headers["access-control-allow-origin"] == page["Origin"]


def test_calls_name_the_gateway_and_one_that_comes_back_is_refused(start, vendors):
    gateway, other = start(), start()
    first = httpx.post(f"{gateway.url}/v1/chat/completions", json=BODY, timeout=60)
    assert first.status_code == 200
    name = asked(vendors, "one")[0].headers[VIA]
    paid = len(vendors.seen)
    for chain in (name, f"another, {name}", "a, b, c, d"):
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=BODY, headers={VIA: chain})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "gateway_loop")
    assert len(vendors.seen) == paid
    again = BODY | {"messages": [{"role": "user", "content": "Another?"}]}
    httpx.post(f"{other.url}/v1/chat/completions", json=again, headers={VIA: name}, timeout=60).raise_for_status()
    assert re.fullmatch(rf"{name}, \w+", asked(vendors, "one")[-1].headers[VIA])


def test_flares_route_answers_with_and_without_the_last_slash(gateway, vendors):
    body = {"model": "counted", "system_message": "Be brief.", "user_message": "Six times seven?"}
    for path in ("/api/routes/chat/", "/api/routes/chat"):
        assert httpx.post(gateway.url + path, json=body, timeout=60).json() == {"response": "42"}
    assert asked(vendors, "one")[0].system == "Be brief."


def test_flares_route_has_the_errors_of_its_service(gateway, vendors):
    url = f"{gateway.url}/api/routes/chat/"
    wrong = httpx.post(url, json={"model": "counted"})
    assert wrong.status_code == 422 and wrong.json()["detail"][0]["loc"] == ["body", "user_message"]
    for name in ("one", "two"):
        vendors.script(name, then=faults.unauthorized())
    failed = httpx.post(url, json={"model": "counted", "user_message": "Why?"}, timeout=60)
    assert failed.status_code == 502 and "openai/two#1" in failed.json()["detail"]


def test_the_documentation_page_loads_nothing_from_elsewhere(start):
    gateway = start(token="t")
    page = httpx.get(f"{gateway.url}/docs").text
    assert "http://" not in page and "https://" not in page
    assert "prefers-color-scheme: dark" in page
    for path in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert httpx.get(gateway.url + path).status_code == 200
    schema = httpx.get(f"{gateway.url}/openapi.json").json()
    assert "HTTPBearer" in schema["components"]["securitySchemes"]


def test_an_unknown_route_is_an_error_object(gateway):
    answer = httpx.get(f"{gateway.url}/v1/nothing")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_a_run_under_way_ends_before_the_gateway_does(start, vendors):
    gateway = start()
    for name in ("one", "two", "three"):
        vendors.script(name, then=Reply(text="42", delay=1.0))
    answers = []
    post = lambda: answers.append(httpx.post(f"{gateway.url}/v1/chat/completions", json=BODY, timeout=60))  # noqa: E731
    client = threading.Thread(target=post)
    client.start()
    while not vendors.seen:
        time.sleep(0.02)
    gateway.stop()
    client.join()
    assert answers[0].json()["choices"][0]["message"]["content"] == "42"


def test_a_run_that_takes_too_long_is_ended_with_the_gateway(start, vendors):
    gateway = start()
    for name in ("one", "two", "three"):
        vendors.script(name, then=Reply(text="42", delay=30.0))
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=BODY | {"stream": True}, timeout=60) as stream:
        next(stream.iter_lines())
    while not vendors.seen:
        time.sleep(0.02)
    gateway.app.state.stop_at = time.monotonic() + 0.2
    began = time.monotonic()
    gateway.stop()
    assert time.monotonic() - began < 15
    assert gateway.app.state.runs.under_way == 0


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--host", "0.0.0.0"], "--allow-host"),
        (["--title-model", "nothing"], "--title-model"),
        (["--host", "192.0.2.1"], "--port"),
    ],
)
def test_what_cannot_be_served_is_said_before_it_begins(options, names, monkeypatch, capsys):
    ran = commands(monkeypatch, capsys)("serve", *options)
    assert ran.code == 2 and names in ran.err


def test_elsewhere_a_token_must_be_saved(results, monkeypatch, capsys):
    ran = commands(monkeypatch, capsys)("serve", "--host", "0.0.0.0", "--port", "0", "--allow-host", "panels.example")
    assert ran.code == 2 and "consensus keys token" in ran.err
