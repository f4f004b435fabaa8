"""What a failure means: pure functions, row by row."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from prefect.serializers import JSONSerializer

from consensus_flows.tasks.calls.failures import Fault, Verdict, classify, fault_of, judge_answer, retry_after
from consensus_flows.tasks.calls.request import FinishReason
from consensus_flows.tasks.errors import (
    BudgetError,
    ConfigurationError,
    ConsensusError,
    ErrorKind,
    ModelError,
    QuorumError,
)

NOW = 1_780_000_000.0


def openai(code: str | None = None, kind: str = "invalid_request_error", message: str = "") -> dict[str, Any]:
    return {"message": message, "type": kind, "param": None, "code": code}


def anthropic(kind: str, code: str | None = None, message: str = "") -> dict[str, Any]:
    details = {"details": {"error_code": code}} if code else {}
    return {"type": "error", "error": {"type": kind, "message": message, **details}}


def google(status: str, *details: dict[str, Any], message: str = "") -> dict[str, Any]:
    return {"error": {"code": 0, "status": status, "message": message, "details": list(details)}}


def quota(name: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": name}]}


RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "18.5s"}


def openrouter(code: int, message: str, **metadata: Any) -> dict[str, Any]:
    return {"code": code, "message": message, "metadata": metadata}


@pytest.mark.parametrize(
    ("status", "body", "kind", "retry"),
    [
        (429, None, "rate_limit", True),
        (429, openai("rate_limit_exceeded", "requests"), "rate_limit", True),
        (429, openai("insufficient_quota", "insufficient_quota"), "quota", False),
        (429, openai("credit_balance_exhausted"), "quota", False),
        (429, openai("organization_usage_limit_exceeded"), "quota", False),
        (429, openai("organization_spend_limit_exceeded"), "quota", False),
        (429, openai("project_spend_limit_exceeded"), "quota", False),
        (429, anthropic("rate_limit_error"), "rate_limit", True),
        (429, anthropic("rate_limit_error", "enforced_spend_limit_reached"), "quota", False),
        (
            400,
            anthropic("invalid_request_error", message="You have reached your specified API usage limits."),
            "quota",
            False,
        ),
        (
            400,
            anthropic("invalid_request_error", message="Your credit balance is too low to access the API."),
            "quota",
            False,
        ),
        (402, anthropic("billing_error"), "quota", False),
        # llama.cpp's words for a text that is longer than what it embeds in one piece.
        (500, openai(message="input (6001 tokens) is too large to process. increase it"), "context_length", False),
        # Google's words are the same for a minute's quota and for a day's: only the name tells them apart.
        (
            429,
            google(
                "RESOURCE_EXHAUSTED",
                quota("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
                message="You exceeded your current quota, please check your plan and billing details.",
            ),
            "rate_limit",
            True,
        ),
        (
            429,
            google(
                "RESOURCE_EXHAUSTED",
                quota("GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
                message="You exceeded your current quota, please check your plan and billing details.",
            ),
            "quota",
            False,
        ),
        (402, openrouter(402, "Insufficient credits"), "quota", False),
        (402, openrouter(402, "In flight", limit_source="openrouter_in_flight_budget"), "rate_limit", True),
        (402, openrouter(402, "Too heavy", limit_source="weight_exceeds_budget"), "quota", False),
        (403, openrouter(403, "Key limit exceeded (total limit)"), "quota", False),
        (
            403,
            openrouter(403, "Your input was flagged", reasons=["violence"], flagged_input="x"),
            "content_filter",
            False,
        ),
        (
            403,
            openrouter(403, "Refused by the provider", reasons=["violence"], flagged_input="x"),
            "content_filter",
            False,
        ),
        (403, openrouter(403, "This model is not available in your region"), "auth", False),
        (403, anthropic("permission_error"), "auth", False),
        (403, google("PERMISSION_DENIED", {"reason": "BILLING_DISABLED"}), "quota", False),
        (401, openai("invalid_api_key"), "auth", False),
        (400, google("INVALID_ARGUMENT", {"reason": "API_KEY_INVALID"}), "auth", False),
        (404, openai("model_not_found"), "not_found", False),
        (400, openai("model_not_found"), "not_found", False),
        (400, openrouter(400, "acme/nope is not a valid model ID"), "not_found", False),
        (400, openai(), "bad_request", False),
        (422, openai(), "bad_request", False),
        (405, None, "bad_request", False),
        (307, None, "bad_request", False),
        (400, openai("context_length_exceeded"), "context_length", False),
        (
            400,
            anthropic("invalid_request_error", message="prompt is too long: 250000 tokens > 200000 maximum"),
            "context_length",
            False,
        ),
        (
            400,
            google(
                "INVALID_ARGUMENT",
                message="The input token count (1200000) exceeds the maximum number of tokens allowed",
            ),
            "context_length",
            False,
        ),
        (500, google("INTERNAL", message="Your input context is too long."), "context_length", False),
        (400, openai("exceed_context_size_error"), "context_length", False),
        (413, anthropic("request_too_large"), "context_length", False),
        (400, openai("content_policy_violation"), "content_filter", False),
        (400, openai("content_filter"), "content_filter", False),
        (400, openai("invalid_prompt"), "content_filter", False),
        (408, None, "timeout", True),
        (409, None, "server", True),
        (498, None, "overloaded", True),
        (499, None, "server", True),
        (500, None, "server", True),
        (500, anthropic("overloaded_error"), "overloaded", True),
        (502, None, "server", True),
        (503, None, "overloaded", True),
        (504, anthropic("timeout_error"), "server", True),
        (520, None, "server", True),
        (529, anthropic("overloaded_error"), "overloaded", True),
    ],
)
def test_status_and_body(status: int, body: Any, kind: ErrorKind, retry: bool) -> None:
    error = body.get("error", body) if body else {}
    verdict = classify(Fault(status, body=body, message=str(error.get("message", ""))))
    assert (verdict.kind, verdict.retry) == (kind, retry)
    assert verdict.wait_s is None


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        (Fault(transport="timeout"), Verdict("timeout", retry=True, max_attempts=2)),
        (Fault(transport="connection"), Verdict("connection", retry=True, max_attempts=2)),
        (Fault(transport="connection", unsent=True), Verdict("connection", retry=True)),
        (Fault(transport="malformed"), Verdict("malformed", retry=True, max_attempts=2)),
        (Fault(200, transport="malformed"), Verdict("malformed", retry=True, max_attempts=2)),
        (Fault(message="TypeError: no such argument"), Verdict("unknown")),
        (Fault(429, {"retry-after": "7"}), Verdict("rate_limit", retry=True, wait_s=7)),
        (Fault(503, {"retry-after": "7"}), Verdict("overloaded", retry=True, wait_s=7)),
        (Fault(429, body=google("RESOURCE_EXHAUSTED", RETRY_INFO)), Verdict("rate_limit", retry=True, wait_s=18.5)),
        # No wait makes money or a key appear.
        (Fault(429, {"retry-after": "7"}, openai("insufficient_quota")), Verdict("quota")),
        (Fault(429, {"x-should-retry": "false"}), Verdict("rate_limit", retry=False)),
        (Fault(500, {"x-should-retry": "false"}), Verdict("server", retry=False)),
        (Fault(425, {"x-should-retry": "true"}), Verdict("server", retry=True)),
        (Fault(400, {"x-should-retry": "true"}), Verdict("bad_request")),
        (Fault(401, {"x-should-retry": "true"}), Verdict("auth")),
        (Fault(429, {"x-should-retry": "true"}, openai("insufficient_quota")), Verdict("quota")),
    ],
)
def test_transport_and_headers(fault: Fault, verdict: Verdict) -> None:
    assert classify(fault) == verdict
    assert classify(fault) == verdict, "pure"


@pytest.mark.parametrize(
    "body", ["a page", [], [1], {"error": "text"}, {"error": None}, {"error": {"details": 7, "metadata": []}}, 3.5]
)
@pytest.mark.parametrize("status", [400, 402, 403, 429, 500])
def test_bodies_of_any_shape_are_survived(status: int, body: Any) -> None:
    assert classify(Fault(status, body=body)).kind in {"bad_request", "quota", "auth", "rate_limit", "server"}


@pytest.mark.parametrize(
    ("text", "finish", "kind"),
    [
        ("Because.", "stop", None),
        ("Because.", "other", None),
        ("", "stop", "empty"),
        (None, "stop", "empty"),
        (" \n\t", "stop", "empty"),
        (None, "tool_calls", "empty"),
        ("Let me look.", "tool_calls", "malformed"),
        ("The answer is", "length", "truncated"),
        (None, "length", "truncated"),
        ("", "content_filter", "content_filter"),
        ("I will not.", "content_filter", "content_filter"),
    ],
)
def test_answers(text: str | None, finish: FinishReason, kind: ErrorKind | None) -> None:
    verdict = judge_answer(text, finish)
    assert (verdict.kind if verdict else None) == kind
    assert verdict is None or verdict.max_attempts == (2 if verdict.retry else None)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3),
        ({"retry-after": "0"}, 0),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"retry-after-ms": "-1", "retry-after": "9"}, 9),
        ({"retry-after": format_datetime(datetime.fromtimestamp(NOW + 30, UTC), usegmt=True)}, 30),
        ({"retry-after": format_datetime(datetime.fromtimestamp(NOW - 30, UTC), usegmt=True)}, 0),
        # RFC 850 and asctime dates, which RFC 9110 tells recipients to take.
        ({"retry-after": datetime.fromtimestamp(NOW + 30, UTC).strftime("%A, %d-%b-%y %H:%M:%S GMT")}, 30),
        ({"retry-after": datetime.fromtimestamp(NOW + 30, UTC).strftime("%a %b %e %H:%M:%S %Y")}, 30),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "NaN"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Thu, 99 Foo 2026 99:99:99 GMT"}, None),
    ],
)
def test_retry_after(headers: Mapping[str, str], seconds: float | None) -> None:
    assert retry_after(headers, now=NOW) == (pytest.approx(seconds) if seconds is not None else None)


@pytest.mark.parametrize(
    ("delay", "seconds"), [("18.5s", 18.5), ("3s", 3), ("soon", None), ("-3s", None), (None, None), (7, None)]
)
def test_retry_info(delay: Any, seconds: float | None) -> None:
    body = google("RESOURCE_EXHAUSTED", quota("PerMinute"), RETRY_INFO | {"retryDelay": delay})
    assert retry_after({}, body) == seconds
    assert retry_after({"retry-after": "garbage"}, body) == seconds
    assert retry_after({"retry-after": "2"}, body) == 2


def test_retry_after_in_another_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert retry_after({"retry-after": "Fri, 21 Nov 2036 07:28:00 -0000"}, now=NOW) == pytest.approx(
            datetime(2036, 11, 21, 7, 28, tzinfo=UTC).timestamp() - NOW
        )
    finally:
        monkeypatch.undo()
        time.tzset()


class LocalProtocolError(Exception):
    """As httpx names it."""


class TransportError(Exception):
    """As httpx names it."""


class IllegalHeaderError(LocalProtocolError, TransportError):
    """Quotes the header, and the header holds the key."""


def test_faults_of_exceptions() -> None:
    assert fault_of(TimeoutError()).transport == "timeout"
    assert fault_of(json.JSONDecodeError("no", "x", 0)).transport == "malformed"
    assert fault_of(ConnectionResetError("gone")) == Fault(message="ConnectionResetError: gone", transport="connection")
    assert fault_of(ConnectionRefusedError()).unsent
    assert fault_of(ConnectionRefusedError()).unbilled
    assert not fault_of(ConnectionResetError()).unbilled
    assert fault_of(TypeError("no such argument")) == Fault(message="TypeError: no such argument")
    assert "secret" not in fault_of(IllegalHeaderError("Illegal header value b'Bearer secret'")).message


ERRORS = [
    ConsensusError("m"),
    ConfigurationError("m"),
    QuorumError("m"),
    BudgetError("m"),
    ModelError("m", kind="quota", retryable=True, wait_s=3, max_attempts=2, status=429, text="t"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling_and_json(error: ConsensusError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert copy.args == ("m",)
    # As Prefect stores what a failed task raised: the type and one message.
    serializer: JSONSerializer[Any] = JSONSerializer()
    read = serializer.loads(serializer.dumps(error))
    assert type(read) is type(error)
    assert read.message == str(read) == "m"
    if isinstance(read, ModelError):
        assert not read.retryable
