"""Every row of the failure table, over real sockets with the vendors' own SDKs, through the Prefect task.

Each row says how many requests the server must have seen: no more, because each may be paid for, and no fewer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from consensus_flows.tasks.calls.request import Answer
from consensus_flows.tasks.errors import ErrorKind, ModelError
from tests.kits.asking import VENDORS, asking, outcome, question, stored
from tests.vendors import LoopbackVendors, Reply, Step, faults

RETRIES = 2
COMPATIBLE = ("openai", "openrouter")
HEADERS = ("openai", "anthropic", "openrouter")
"""Those whose rate limits come with headers; Google says it in the body."""


@pytest.fixture(scope="module")
def server(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackVendors]:
    settings = {"CONSENSUS_RETRIES": str(RETRIES), "CONSENSUS_RETRY_AFTER_CAP_S": "5"}
    with asking(tmp_path_factory.mktemp("rows"), **settings) as vendors:
        yield vendors


@dataclass(frozen=True)
class Row:
    name: str
    step: Step
    kind: ErrorKind
    requests: int
    vendors: tuple[str, ...] = VENDORS
    said: str = ""
    retryable: bool | None = None
    timeout: float = 10.0
    billed: bool = False
    """Whether the vendor may have billed what got lost."""


ALL = RETRIES + 1
ROWS = [
    Row("429 garbage", faults.rate_limit("soon"), "rate_limit", ALL, HEADERS, retryable=True),
    Row("429 negative", faults.rate_limit("-7"), "rate_limit", ALL, HEADERS),
    Row("429 NaN", faults.rate_limit("NaN"), "rate_limit", ALL, HEADERS),
    Row("429 without", faults.rate_limit(), "rate_limit", ALL),
    Row("429 over the cap", faults.rate_limit(60), "rate_limit", 1, said="60 s", retryable=False),
    Row("429 insufficient_quota", faults.insufficient_quota(), "quota", 1, said="current quota"),
    Row("429 spend limit", faults.spend_limit(), "quota", 1, ("anthropic",)),
    Row("429 project spend", faults.spend_limit("project_spend_limit_exceeded"), "quota", 1, ("openai",)),
    Row("429 no credit", faults.spend_limit("credit_balance_exhausted"), "quota", 1, ("openai",)),
    Row("402", faults.payment_required(), "quota", 1, (*VENDORS, "openrouter")),
    Row("402 in flight", faults.payment_required("openrouter_in_flight_budget"), "rate_limit", ALL, ("openrouter",)),
    Row("401", faults.unauthorized(), "auth", 1, said="Incorrect API key"),
    Row("403", faults.forbidden(), "auth", 1),
    Row(
        "403 moderation",
        faults.forbidden({"reasons": ["violence"], "flagged_input": "Why?"}),
        "content_filter",
        1,
        ("openrouter",),
    ),
    Row("404", faults.not_found(), "not_found", 1),
    Row("400", faults.bad_request(), "bad_request", 1, said="The request is invalid"),
    Row("400 context", faults.context_too_long(), "context_length", 1),
    Row("408", faults.request_timeout(), "timeout", ALL),
    Row("409", faults.conflict(), "server", ALL),
    Row("413", faults.too_large(), "context_length", 1),
    Row("500", faults.server_error(500), "server", ALL),
    Row("502", faults.server_error(502), "server", ALL),
    Row("503", faults.server_error(503), "overloaded", ALL),
    Row("504", faults.server_error(504), "server", ALL),
    Row("529", faults.failure(529, "Overloaded."), "overloaded", ALL),
    Row("502 page", faults.html_page(502), "server", ALL, said="Bad gateway"),
    Row(
        "500 x-should-retry: false",
        faults.failure(500, "No.", headers={"x-should-retry": "false"}),
        "server",
        1,
        HEADERS,
    ),
    # A lost answer may have been billed: one more try, not two.
    Row("closed before the body", faults.close_before(), "connection", 2, billed=True),
    Row("reset", faults.reset(), "connection", 2, billed=True),
    Row("cut in the body", faults.cut_mid_body(), "connection", 2, billed=True),
    Row("hang", faults.hang(), "timeout", 2, timeout=0.2, billed=True),
    Row("200 with an error", faults.error_in_success(), "server", ALL, ("openai", "anthropic", "openrouter")),
    Row("200 with an error", faults.error_in_success(), "malformed", 2, ("google",), billed=True),
    Row("200 with 429 inside", faults.error_in_success(429), "rate_limit", ALL, COMPATIBLE),
    Row("200 with 401 inside", faults.error_in_success(401), "auth", 1, ("anthropic", *COMPATIBLE)),
    Row("200 with broken JSON", faults.invalid_json(), "malformed", 2, billed=True),
    Row("200 with a page", faults.html_page(200), "malformed", 2, billed=True),
    Row("200 with a list", Reply(body=[1]), "malformed", 2, billed=True),
    Row("200 with null", Reply(body="null"), "malformed", 2, billed=True),
    Row(
        "200 in another format",
        Reply(body='{"choices": "x", "content": "x", "candidates": "x"}'),
        "malformed",
        2,
        ("openai", "anthropic"),
        billed=True,
    ),
    Row("empty", faults.empty(), "empty", 2),
    Row("blank", Reply(text=" \n"), "empty", 2),
    Row("null content", faults.null_content(), "empty", 2),
    Row("no choices", faults.no_choices(), "empty", 2),
    Row("refusal", faults.refusal(), "content_filter", 1, ("openai", "anthropic")),
    Row("safety", faults.safety_stop(), "content_filter", 1),
    Row("prompt blocked", faults.prompt_blocked(), "content_filter", 1),
    Row("truncated", faults.truncated(), "truncated", 1),
    Row("context full", Reply(text="The answer", finish="context"), "truncated", 1),
    Row("tool call only", faults.tool_call_only(), "empty", 2),
    Row("unasked tool", Reply(text="Let me look.", finish="tool_calls"), "malformed", 2, ("openai", "anthropic")),
    Row("paused", Reply(text="Let me look.", finish="pause_turn"), "malformed", 2, ("anthropic",)),
    Row("broke off", Reply(text="The answ", finish="error"), "server", ALL, COMPATIBLE),
    Row("unknown parameter", faults.unsupported_parameter("wings"), "bad_request", 1),
]


@pytest.mark.parametrize(
    ("row", "provider"),
    [pytest.param(row, vendor, id=f"{row.name} · {vendor}") for row in ROWS for vendor in row.vendors],
)
async def test_row(row: Row, provider: str, server: LoopbackVendors) -> None:
    request = question(provider, timeout=row.timeout)
    before = stored()
    server.script(request.model, then=row.step)

    error, book = await outcome(request)

    assert isinstance(error, ModelError), error
    assert (error.kind, server.count(request.model)) == (row.kind, row.requests), error.message
    assert error.message.startswith(f"{request.name}: {row.kind}: ")
    assert row.said in error.message
    assert "<" not in error.message
    if row.retryable is not None:
        assert error.retryable is row.retryable
    assert [attempt.maybe_billed for attempt in book.attempts] == [row.billed] * row.requests
    assert error.__context__ is None
    assert error.__cause__ is None
    assert stored() == before

    server.script(request.model, Reply(text="Because."))
    answer, _ = await outcome(request)
    assert isinstance(answer, Answer)
    assert answer.text == "Because."
    assert server.count(request.model) == row.requests + 1
    assert len(stored()) == len(before) + 1


@pytest.mark.parametrize(
    ("step", "provider", "least"),
    [
        *(pytest.param(faults.rate_limit(0.3), vendor, 0.3, id=f"seconds · {vendor}") for vendor in VENDORS),
        *(
            pytest.param(faults.rate_limit(retry_after_ms=300), vendor, 0.3, id=f"milliseconds · {vendor}")
            for vendor in VENDORS
        ),
        *(
            # The clearer of the two wins, whatever stands in the other.
            pytest.param(faults.rate_limit("later", retry_after_ms=300), vendor, 0.3, id=f"both · {vendor}")
            for vendor in HEADERS
        ),
        *(
            pytest.param(faults.server_error(503, retry_after=0.3), vendor, 0.3, id=f"503 · {vendor}")
            for vendor in HEADERS
        ),
        *(pytest.param("date", vendor, 0.9, id=f"date · {vendor}") for vendor in ("openai", "anthropic")),
    ],
)
async def test_retry_after_is_honoured(step: Step | str, provider: str, least: float, server: LoopbackVendors) -> None:
    request = question(provider)
    if isinstance(step, str):
        step = faults.rate_limit(datetime.now(UTC) + timedelta(seconds=2))
    server.script(request.model, step, Reply(text="Because."))
    answer, _ = await outcome(request)
    assert isinstance(answer, Answer), answer
    first, second = [seen.at for seen in server.seen if seen.model == request.model]
    assert least <= second - first < least + 1.5


@pytest.mark.parametrize("provider", VENDORS)
@pytest.mark.parametrize("lost_first", [True, False])
async def test_a_passing_failure_is_got_over(provider: str, lost_first: bool, server: LoopbackVendors) -> None:
    """A lost answer is asked for once more, whatever was refused before it and cost nothing."""
    request = question(provider)
    weather = [faults.close_before(), faults.server_error()]
    server.script(request.model, *(weather if lost_first else reversed(weather)), Reply(text="Because."))
    answer, book = await outcome(request)
    assert isinstance(answer, Answer)
    assert [attempt.answered for attempt in book.attempts] == [False, False, True]
    again, book = await outcome(request)
    assert again == answer
    assert book.attempts == []
    assert server.count(request.model) == 3


@pytest.mark.parametrize("provider", VENDORS)
async def test_a_call_loses_two_answers_at_most(
    provider: str, server: LoopbackVendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else happens between: each lost one may have been billed."""
    monkeypatch.setenv("CONSENSUS_RETRIES", "4")
    request = question(provider)
    server.script(request.model, faults.cut_mid_body(), faults.server_error(), faults.reset(), Reply(text="Because."))
    error, book = await outcome(request)
    assert isinstance(error, ModelError) and error.kind == "connection"
    assert [attempt.maybe_billed for attempt in book.attempts] == [True, False, True]
    assert server.count(request.model) == 3


@pytest.mark.parametrize(
    ("provider", "variable"),
    [("openai", "OPENAI_BASE_URL"), ("anthropic", "ANTHROPIC_BASE_URL"), ("google", "GOOGLE_GEMINI_BASE_URL")],
)
async def test_refused_connection(
    provider: str, variable: str, server: LoopbackVendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, faults.refused_url())
    error, book = await outcome(question(provider))
    assert isinstance(error, ModelError)
    assert error.kind == "connection"
    assert len(book.attempts) == ALL
    # What never left cannot be billed.
    assert [(attempt.maybe_billed, attempt.cost_usd) for attempt in book.attempts] == [(False, 0.0)] * ALL


@pytest.mark.parametrize("provider", VENDORS)
async def test_a_redirect_is_not_followed(provider: str, server: LoopbackVendors) -> None:
    request = question(provider)
    with LoopbackVendors() as other:
        server.script(
            request.model, Reply(status=307, headers={"location": f"{other.url}/v1/chat/completions"}, body="")
        )
        error, _ = await outcome(request)
        assert other.seen == []
    assert isinstance(error, ModelError)
    assert error.kind == "bad_request"
    assert "base URL" in error.message
    assert server.count(request.model) == 1


async def test_a_server_that_trickles_is_left(server: LoopbackVendors, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's timeout counts from byte to byte; ours counts from the start."""
    asked = 0

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)

    listening = await asyncio.start_server(trickle, "127.0.0.1", 0)
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1")
    error, book = await outcome(question(timeout=0.2))
    listening.close()
    assert isinstance(error, ModelError)
    assert error.kind == "timeout"
    assert asked == len(book.attempts) == 2
