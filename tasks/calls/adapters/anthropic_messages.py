"""Anthropic messages."""

from collections.abc import Mapping
from typing import Any

from anthropic import AsyncAnthropic, transform_schema
from anthropic.types import Message

from consensus_flows.tasks.calls.adapters import Reply
from consensus_flows.tasks.calls.adapters.counts import field_of, total, usage_of
from consensus_flows.tasks.calls.adapters.repair import Repairs, schema_instruction
from consensus_flows.tasks.calls.failures import Fault
from consensus_flows.tasks.calls.money.worst_case import SENT_LIMITS
from consensus_flows.tasks.calls.request import FinishReason, Request
from consensus_flows.tasks.record import Usage

_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
    "tool_use": "tool_calls",
    "pause_turn": "tool_calls",
}
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "overloaded_error": 529,
}
"""The status that goes with an error object, for one that comes with status 200."""


def body(request: Request, repairs: Repairs) -> dict[str, Any]:
    """Build the arguments of `messages.create`."""
    sampling = request.sampling
    system = [message.content for message in request.messages if message.role == "system"]
    output: dict[str, Any] = {}
    if sampling.reasoning_effort in {"low", "medium", "high", "xhigh", "max"} and "effort" not in repairs.dropped:
        output["effort"] = sampling.reasoning_effort
    if request.response_schema is not None:
        if repairs.schema_mode == 0:
            output["format"] = {"type": "json_schema", "schema": transform_schema(dict(request.response_schema))}
        else:
            system.append(schema_instruction(request))
    # The SDK has no arguments for these any more; models that still take them read them from the body.
    sampled = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    extra = {k: v for k, v in sampled.items() if v is not None and k not in repairs.dropped} | dict(sampling.extra)
    optional: dict[str, Any] = {
        "system": "\n\n".join(system),
        "stop_sequences": list(sampling.stop),
        "output_config": output,
        "extra_body": extra,
    }
    return {
        "model": request.model,
        "max_tokens": sampling.max_output_tokens or SENT_LIMITS["anthropic"],
        "messages": [m.model_dump() for m in request.messages if m.role != "system"],
        **{name: value for name, value in optional.items() if value and name not in repairs.dropped},
    }


async def post(client: AsyncAnthropic, body: Mapping[str, Any], timeout: float) -> Any:
    """Send one message."""
    return await client.messages.create(**body, timeout=timeout)


def read(response: Any) -> Reply:
    """Read a message."""
    if not isinstance(response, Message) or response.content is None:
        error = (getattr(response, "model_extra", None) or {}).get("error")
        if isinstance(error, Mapping):
            return Reply(
                fault=Fault(_status(error), body={"error": dict(error)}, message=str(error.get("message", "")))
            )
        return Reply(fault=Fault(200, message="the response is no message", transport="malformed"))
    text = "".join(block.text for block in response.content if block.type == "text")
    finish = _FINISH.get(response.stop_reason or "", "other")
    return Reply(text, finish, _usage(response), None, response.model, f"stop_reason {response.stop_reason}")


def unsent(request: Request) -> tuple[str, ...]:
    """Messages has no seed, and no effort below `low`."""
    sampling = request.sampling
    seed = ("seed",) if sampling.seed is not None else ()
    return (*seed, "reasoning_effort") if sampling.reasoning_effort in {"none", "minimal"} else seed


def _status(error: Mapping[str, Any]) -> int:
    return _STATUS.get(str(error.get("type")), 500)


def _usage(response: Message) -> Usage | None:
    usage = response.usage
    cached, written = field_of(usage, "cache_read_input_tokens"), field_of(usage, "cache_creation_input_tokens")
    own = field_of(usage, "input_tokens")
    return usage_of(
        # Anthropic counts cached input apart.
        None if own is None else total(own, cached, written),
        field_of(usage, "output_tokens"),
        cached=cached,
        written=written,
        reasoning=field_of(usage, "output_tokens_details", "thinking_tokens"),
    )
