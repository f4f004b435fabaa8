"""A key planted in a saved block, in the environment and in what a provider says appears nowhere."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from prefect import flow, get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.context import get_settings_context
from prefect.settings import (
    PREFECT_LOGGING_LEVEL,
    PREFECT_LOGGING_TO_API_BATCH_INTERVAL,
    PREFECT_RESULTS_LOCAL_STORAGE_PATH,
    PREFECT_SERVER_DATABASE_CONNECTION_URL,
    temporary_settings,
)
from pydantic import SecretStr

from consensus_flows.blocks import (
    AnthropicCredentials,
    GoogleCredentials,
    OpenAICompatibleCredentials,
    OpenAICredentials,
)
from consensus_flows.blocks.credentials import ModelCredentials
from consensus_flows.tasks.calls.call import Caller
from consensus_flows.tasks.calls.redact import is_distinctive, redact, redact_secrets
from consensus_flows.tasks.record import Response
from tests.kits.asking import asking, forget, outcome, question, stored
from tests.vendors import LoopbackVendors, Reply, SeenRequest, Step, faults

# None of them looks like a key of any vendor, so that only knowing the key can redact it.
CANARY = "canary0bird-of-the-mine"
BLOCKS: dict[str, type[ModelCredentials]] = {
    "canary-openai": OpenAICredentials,
    "canary-anthropic": AnthropicCredentials,
    "canary-google": GoogleCredentials,
    "canary-compatible": OpenAICompatibleCredentials,
}
BUILT_IN = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "google": "GEMINI_API_KEY",
    "openrouter": "OPENROUTER_API_KEY",
}


def key_of(name: str) -> str:
    return f"{CANARY}-{name}-0123456789"


@pytest.fixture(scope="module")
def server(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackVendors]:
    keys = {variable: key_of(name) for name, variable in BUILT_IN.items()}
    with asking(tmp_path_factory.mktemp("canary"), CONSENSUS_RETRIES="1", **keys) as vendors:
        yield vendors


def echo(status: int) -> Step:
    """Refuse, and say the key in every way that a careless server might."""

    def step(seen: SeenRequest) -> Reply:
        key = seen.headers.get("authorization", seen.key)
        return http_error(seen, status, f"Incorrect API key provided: {key}. ({seen.key!r}, again {key})")

    return step


def http_error(seen: SeenRequest, status: int, message: str) -> Reply:
    made = faults.failure(status, message)
    return made if isinstance(made, Reply) else made(seen)


STEPS: list[Step] = [
    echo(401),
    echo(500),
    echo(400),
    faults.close_before(),
    faults.invalid_json(),
    faults.refusal(),
    faults.key_repeated(),
    faults.key_repeated(finish="length"),
]


async def test_no_key_appears_anywhere(server: LoopbackVendors, caplog: pytest.LogCaptureFixture) -> None:
    urls = {"openai": server.openai_url, "anthropic": server.anthropic_url, "google": server.google_url}
    for name, kind in BLOCKS.items():
        url = urls.get(name.removeprefix("canary-"), server.openrouter_url)
        await kind(api_key=SecretStr(key_of(name)), base_url=url).asave(name, overwrite=True)
    forget()
    names = [*BLOCKS, *BUILT_IN]

    @flow
    async def careless() -> list[Response]:
        responses: list[Response] = []
        for name in names:
            for step in STEPS:
                request = question(name)
                server.script(request.model, step, step)
                responses += [await Caller()(request), await Caller()(request), await Caller()(request)]
        get_run_logger().error("%r", responses)
        text = "\n".join(response.model_dump_json() for response in responses)
        await acreate_markdown_artifact(text, key="canary-report")
        raise RuntimeError(text[:20_000])

    quick = {PREFECT_LOGGING_LEVEL: "DEBUG", PREFECT_LOGGING_TO_API_BATCH_INTERVAL: 0.1}
    with caplog.at_level(logging.DEBUG), temporary_settings(quick):
        state: Any = await careless(return_state=True)
        assert state.is_failed()
        assert str(state.message).count('"kind":') > 10
        # And straight, outside any flow.
        request = question("google")
        server.script(request.model, echo(401))
        error, _ = await outcome(request)
        assert "[key]" in error.message

    run = str(state.state_details.flow_run_id)
    database = Path(urlsplit(PREFECT_SERVER_DATABASE_CONNECTION_URL.value()).path.removeprefix("/")).parent
    if not database.is_absolute():
        database = Path("/") / database
    await arrived(database, "Finished in state Failed", "canary-report", run)

    results = Path(PREFECT_RESULTS_LOCAL_STORAGE_PATH.value())
    home = Path(os.environ["PREFECT_HOME"])
    for folder in {database, results, home, get_settings_context().settings.home}:
        for path in folder.rglob("*"):
            if path.is_file():
                assert CANARY.encode() not in path.read_bytes(), path
    assert CANARY not in caplog.text
    assert caplog.text.count("[key]") > 10, "the errors were logged, without the keys"

    async with get_client() as client:
        for route in ("/logs/filter", "/artifacts/filter", "/task_runs/filter", "/flow_runs/filter", "/events/filter"):
            response = await client.request("POST", route, json={})
            assert CANARY not in response.text, route

    for name, kind in BLOCKS.items():
        await kind.adelete(name)


async def arrived(database: Path, *marks: str) -> None:
    """Wait until logs, artifacts and events are in the database's files, so that the search means something."""
    wanted = [mark.encode() for mark in marks]
    for _ in range(200):
        found = b"".join(path.read_bytes() for path in database.glob("*") if path.is_file())  # noqa: ASYNC240
        if all(mark in found for mark in wanted):
            await asyncio.sleep(1)
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"not in the database in {database}: {[mark for mark in wanted if mark not in found]}")


def each(form: str) -> Callable[[str], str]:
    return lambda key: "".join(form.format(ord(sign)) for sign in key)


FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 for addresses": lambda key: base64.urlsafe_b64encode(b"a" + key.encode() + b"b").decode(),
    "basic": lambda key: "Basic " + base64.b64encode(f"user:{key}".encode()).decode(),
    "mime": lambda key: base64.encodebytes(3 * key.encode()).decode(),
    "address": lambda key: quote(key, safe=""),
    "address twice": lambda key: quote(quote(key, safe=""), safe=""),
    "address, all of it": each("%{:02x}"),
    "slash": lambda key: key.replace("/", "\\/"),
    "JSON": each("\\u{:04x}"),
    "JSON in JSON": lambda key: json.dumps(json.dumps(each("\\u{:04X}")(key))),
    "Python": each("\\x{:02x}"),
    "HTML": lambda key: key.replace("+", "&#43;").replace("/", "&sol;").replace("=", "&#x3D;"),
    "HTML, all of it": each("&#{:d};"),
    "hexadecimal": lambda key: key.encode().hex().upper(),
    "lines": lambda key: f"{key[:15]}\r\n    {key[15:]}",
    "lines, escaped": lambda key: f"{key[:7]}\\n{key[7:20]}\\r\\n{key[20:]}",
    "tags": lambda key: f"<b>{key[:9]}</b>{key[9:]}",
}
WHOLE = f"{CANARY}-forms-0123456789+/x="


@pytest.mark.parametrize("name", FORMS)
async def test_no_other_form_of_the_key_is_shown_either(
    name: str, server: LoopbackVendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = FORMS[name]
    for variable in BUILT_IN.values():
        monkeypatch.setenv(variable, WHOLE)
    forget()
    shown = ""
    for provider in BUILT_IN:
        refused, good, cut = question(provider), question(provider), question(provider)
        server.script(refused.model, lambda seen: http_error(seen, 401, f"bad key: {form(seen.key)}"))
        server.script(good.model, faults.key_repeated(form, in_header=form(WHOLE).isprintable()))
        server.script(cut.model, faults.key_repeated(form, finish="length"))
        responses = [await Caller()(one) for one in (refused, good, cut)]
        assert [one.error.kind if one.error else None for one in responses] == ["auth", None, "truncated"]
        assert responses[1].text is not None and responses[1].text.endswith(". The answer is 18.")
        assert "m via " in (responses[1].model_served or "")
        shown += "".join(one.model_dump_json() for one in responses)
    shown += b"".join(stored().values()).decode()
    pieces = {form(WHOLE), json.dumps(form(WHOLE))[1:-1], WHOLE, WHOLE[:12], WHOLE[-12:]}
    # The middle of what a base64 text has of it, wherever it begins.
    pieces |= {base64.b64encode(b"." * before + WHOLE.encode()).decode()[8:24] for before in range(3)}
    for piece in pieces:
        assert piece not in shown, piece
    assert shown.count("[key]") >= 3 * len(BUILT_IN)
    forget()


def test_a_placeholder_for_a_key_is_no_secret_in_an_answer() -> None:
    """What servers on one's own machine are given for a key are words that an answer may have in its own right."""
    assert not any(
        map(
            is_distinctive,
            ("ollama", "not-needed", "12345678", "0" * 20, "qwen2.5-7b", "token-abc123", "sk-no-key-required"),
        )
    )
    assert all(
        map(is_distinctive, ("sk-0123456789abcdef", "0123456789abcdef", "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH"))
    )


def test_a_long_text_is_searched_at_once() -> None:
    key = "sk-proj-" + "aB3_-x9Q" * 20
    for text in ("the quick brown sk-proj fox\n" * 40_000, "s" * 1_000_000, "s        " * 110_000, "\\" * 1_000_000):
        started = time.thread_time()
        assert redact_secrets(text, [key]) == text
        assert time.thread_time() - started < 2


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-abcDEF0123456789",
        "sk-ant-api03-abc_DEF-012",
        "sk-or-v1-0123456789abcdef",
        "hf_abcdefABCDEF0123",
        "AIzaSyA0123456789abcdefghij",
        "gsk_abcdef0123456789",
        "xai-abcdef0123456789",
        "sk-proj-********6789",
        "Bearer eyJhbGciOi.eyJzdWIi.c2ln",
        "bearer abcdef123456",
    ],
)
def test_what_looks_like_a_key_is_redacted(key: str) -> None:
    """Even one that we do not know: a gateway may say the key that it uses itself."""
    assert key.rsplit(maxsplit=1)[-1] not in redact(f"Incorrect API key provided: {key}.")
    assert key.rsplit(maxsplit=1)[-1] not in redact(f'{{"key": "{key}"}}')


def test_known_secrets_are_redacted_before_the_text_is_cut() -> None:
    secret = "plain0secret"
    for length in range(480, 520):
        assert "plain" not in redact("x" * length + secret, [secret]), length
    assert redact("a risk-based, or-else text; hf is fine") == "a risk-based, or-else text; hf is fine"
    assert len(redact("x" * 10_000)) == 500
