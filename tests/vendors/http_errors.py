"""Refused requests: HTTP errors in the shape of the vendor that was asked."""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from . import anthropic_wire, google_wire, openai_wire
from .script import Reply, SeenRequest, Step


def failure(
    status: int,
    message: str,
    *,
    openai: Mapping[str, str | None] | None = None,
    anthropic: Mapping[str, str | None] | None = None,
    google: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    metadata: dict[str, Any] | None = None,
) -> Step:
    """Refuse a request in the vendor's own error shape.

    Args:
        status: HTTP status.
        message: Words for people.
        openai: ``kind``, ``code`` and ``param`` for OpenAI.
        anthropic: ``kind`` and ``code`` for Anthropic.
        google: ``kind`` and ``details`` for Gemini.
        headers: Headers for all but Gemini, which sends none of use.
        metadata: ``error.metadata`` for OpenRouter.

    Returns:
        The step.
    """

    def step(seen: SeenRequest) -> Reply:
        if seen.vendor == "google":
            return Reply(status=status, body=google_wire.error(status, message, **(google or {})))
        if seen.vendor == "anthropic":
            body = anthropic_wire.error(status, message, **(anthropic or {}))
        elif seen.openrouter:
            body = openai_wire.openrouter_error(status, message, metadata)
        else:
            body = openai_wire.error(status, message, **(openai or {}))
        return Reply(status=status, headers=dict(headers or {}), body=body)

    return step


def rate_limit(retry_after: float | str | datetime | None = None, retry_after_ms: int | None = None) -> Step:
    """429: too many requests.

    Args:
        retry_after: Seconds, a date, or any string sent as it is; Gemini gets numbers as ``RetryInfo``.
        retry_after_ms: Milliseconds for the ``retry-after-ms`` header.

    Returns:
        The step.
    """
    headers: dict[str, str] = {}
    details: list[dict[str, Any]] = []
    if isinstance(retry_after, datetime):
        headers["retry-after"] = email.utils.format_datetime(retry_after, usegmt=True)  # needs a UTC datetime
    elif retry_after is not None:
        headers["retry-after"] = str(retry_after)
    if retry_after_ms is not None:
        headers["retry-after-ms"] = str(retry_after_ms)
    seconds = retry_after if isinstance(retry_after, (int, float)) else None
    if seconds is None and retry_after_ms is not None:
        seconds = retry_after_ms / 1000
    if seconds is not None:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{seconds:g}s"})
    return failure(
        429,
        "Rate limit reached for requests.",
        openai={"code": "rate_limit_exceeded"},
        google={"details": details},
        headers=headers,
        metadata={"headers": headers},
    )


def insufficient_quota() -> Step:
    """429 that waiting does not cure: no credit (OpenAI), spend limit (Anthropic), daily quota (Gemini)."""
    quota = {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel", "quotaValue": "0"}],
    }
    return failure(
        429,
        "You exceeded your current quota.",
        openai={"kind": "insufficient_quota", "code": "insufficient_quota"},
        anthropic={"code": "enforced_spend_limit_reached"},
        google={"details": [quota]},
    )


def spend_limit(code: str = "enforced_spend_limit_reached") -> Step:
    """429 with a stable code: a spend limit was reached; no retry-after."""
    return failure(429, "A spend limit was reached.", openai={"code": code}, anthropic={"code": code})


def payment_required(limit_source: str | None = None) -> Step:
    """402: billing; OpenRouter's ``limit_source`` may say that only the budget in flight is used up."""
    metadata = None if limit_source is None else {"limit_source": limit_source}
    return failure(402, "Insufficient credits.", metadata=metadata)


def unauthorized(message: str = "Incorrect API key provided.") -> Step:
    """401: the key is wrong; Gemini says 400 with the reason API_KEY_INVALID."""
    reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    other = failure(401, message, openai={"code": "invalid_api_key"})
    google = failure(400, message, google={"details": [reason]})
    return lambda seen: _answer(google if seen.vendor == "google" else other, seen)


def forbidden(metadata: dict[str, Any] | None = None) -> Step:
    """403: permission, region or moderation."""
    return failure(403, "This key may not use the model.", metadata=metadata)


def not_found() -> Step:
    """404: no such model."""
    return failure(404, "The model does not exist.", openai={"code": "model_not_found", "param": "model"})


def bad_request(message: str = "The request is invalid.") -> Step:
    """400 without a further code."""
    return failure(400, message)


def request_timeout() -> Step:
    """408: the vendor gave up waiting."""
    return failure(408, "The request timed out.")


def conflict() -> Step:
    """409."""
    return failure(409, "The request conflicts with another.")


def too_large() -> Step:
    """413: too many bytes."""
    return failure(413, "The request is too large.")


def server_error(status: int = 500, retry_after: float | None = None) -> Step:
    """500, 502, 503 or 504."""
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return failure(status, "The server had an error.", headers=headers)


def overloaded() -> Step:
    """529 ``overloaded_error`` for Anthropic, 503 for the others."""
    anthropic, other = failure(529, "Overloaded."), failure(503, "The model is overloaded.")
    return lambda seen: _answer(anthropic if seen.vendor == "anthropic" else other, seen)


def context_too_long() -> Step:
    """400: the prompt does not fit the model's context."""
    openai = failure(
        400,
        "Input exceeds the model's context window.",
        openai={"code": "context_length_exceeded", "param": "messages"},
    )
    anthropic = failure(400, "prompt is too long: 250000 tokens > 200000 maximum")
    google = failure(400, "The input token count exceeds the maximum number of tokens allowed.")
    steps = {"openai": openai, "anthropic": anthropic, "google": google}
    return lambda seen: _answer(steps[seen.vendor], seen)


def unsupported_parameter(param: str = "temperature") -> Step:
    """400: the model has no such parameter; for ``max_tokens`` the message names the one to use."""
    hint = " Use 'max_completion_tokens' instead." if param == "max_tokens" else ""
    message = f"Unsupported parameter: '{param}' is not supported with this model.{hint}"
    return failure(400, message, openai={"code": "unsupported_parameter", "param": param})


def unsupported_value(param: str = "temperature") -> Step:
    """400: the model takes only the parameter's default value."""
    message = f"Unsupported value: '{param}' does not support this value. Only the default is supported."
    return failure(400, message, openai={"code": "unsupported_value", "param": param})


def no_json_schema() -> Step:
    """A server without structured output: 400 if a schema was sent in the request's format field, else the default."""
    refused = failure(
        400,
        "response_format type 'json_schema' is not supported.",
        openai={"param": "response_format", "code": "invalid_value"},
    )
    return lambda seen: _answer(refused, seen) if seen.schema is not None and seen.tool is None else Reply()


def _answer(step: Step, seen: SeenRequest) -> Reply:
    return step if isinstance(step, Reply) else step(seen)
