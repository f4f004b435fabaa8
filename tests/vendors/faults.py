"""All named failures in one place: each is a step that answers in the wire format of the vendor that was asked.

Refused requests come from :mod:`.http_errors`, answers that arrive with status 200 and are still no good from
:mod:`.bad_answers`; broken connections are here.
"""

from __future__ import annotations

import socket
from dataclasses import replace

from .bad_answers import (
    empty,
    error_in_success,
    html_page,
    invalid_json,
    key_repeated,
    no_choices,
    null_content,
    prompt_blocked,
    refusal,
    safety_stop,
    tool_call_only,
    truncated,
)
from .http_errors import (
    bad_request,
    conflict,
    context_too_long,
    failure,
    forbidden,
    insufficient_quota,
    no_json_schema,
    not_found,
    overloaded,
    payment_required,
    rate_limit,
    request_timeout,
    server_error,
    spend_limit,
    too_large,
    unauthorized,
    unsupported_parameter,
    unsupported_value,
)
from .routes import plain_error
from .script import Reply, SeenRequest, Step

__all__ = [
    "after",
    "bad_request",
    "close_before",
    "conflict",
    "context_too_long",
    "cut_mid_body",
    "empty",
    "end_early",
    "error_in_stream",
    "error_in_success",
    "failure",
    "forbidden",
    "hang",
    "html_page",
    "insufficient_quota",
    "invalid_json",
    "key_repeated",
    "no_choices",
    "no_json_schema",
    "not_found",
    "not_taken",
    "null_content",
    "overloaded",
    "payment_required",
    "prompt_blocked",
    "rate_limit",
    "refusal",
    "refused_url",
    "request_timeout",
    "reset",
    "safety_stop",
    "server_error",
    "spend_limit",
    "stall",
    "too_large",
    "tool_call_only",
    "truncated",
    "unauthorized",
    "unsupported_parameter",
    "unsupported_value",
]

_held: list[socket.socket] = []


def after(seconds: float, step: Step) -> Step:
    """Let any step answer later.

    Args:
        seconds: Delay to add.
        step: The step.

    Returns:
        The slower step.
    """

    def later(seen: SeenRequest) -> Reply:
        reply = step if isinstance(step, Reply) else step(seen)
        return replace(reply, delay=reply.delay + seconds)

    return later


def close_before() -> Step:
    """Close the connection instead of answering."""
    return Reply(fault="close_before")


def cut_mid_body() -> Step:
    """Close the connection half-way through the body."""
    return Reply(fault="close_mid_body")


def end_early() -> Step:
    """End a stream properly half-way, without a finish."""
    return Reply(fault="end_early")


def stall() -> Step:
    """Send no more of a stream after its first half."""
    return Reply(fault="stall")


def error_in_stream(status: int = 529, message: str = "Overloaded") -> Step:
    """An error event in the middle of a stream."""
    return lambda seen: Reply(breaks=plain_error(seen, status, message))


def reset() -> Step:
    """Reset the connection (TCP RST) instead of answering."""
    return Reply(fault="reset")


def not_taken() -> Step:
    """Reset the connection before a request to a batch API is carried out; the other broken connections follow that."""
    return Reply(status=503, fault="reset")


def hang() -> Step:
    """Never answer."""
    return Reply(fault="hang")


def refused_url(path: str = "") -> str:
    """Give a URL whose port refuses connections; the port stays taken until the process ends.

    Args:
        path: Path to append.

    Returns:
        The URL.
    """
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    _held.append(held)
    return f"http://127.0.0.1:{held.getsockname()[1]}{path}"
