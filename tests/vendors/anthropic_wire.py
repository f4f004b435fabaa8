"""The Anthropic messages wire format."""

from __future__ import annotations

import json
from typing import Any

from .script import SeenRequest, Usage
from .wire import Answer, digest, event, is_object, objects, plain, words

_STOP = {
    "stop": "end_turn",
    "length": "max_tokens",
    "content_filter": "refusal",
    "tool_calls": "tool_use",
    "context": "model_context_window_exceeded",
}
_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def read(seen: SeenRequest) -> None:
    """Fill in messages, system text, schema and tool from a request's body.

    Args:
        seen: The request; changed in place.
    """
    params = seen.params
    if params.get("system"):
        seen.system = plain(params["system"])
    for message in objects(params.get("messages")):
        seen.messages.append({"role": str(message.get("role", "user")), "content": plain(message.get("content"))})
    config = params.get("output_config")
    wanted = config.get("format") if is_object(config) else None
    wanted = wanted or params.get("output_format")
    if is_object(wanted) and wanted.get("type") == "json_schema":
        seen.schema = wanted.get("schema")
        return
    choice = params.get("tool_choice")
    choice = choice if is_object(choice) else {}
    for tool in objects(params.get("tools")):
        if choice.get("type") != "none" and choice.get("name") in (None, tool.get("name")):
            seen.tool, seen.schema = tool.get("name"), tool.get("input_schema", {"type": "object"})
            return


def answer(seen: SeenRequest, said: Answer) -> dict[str, Any]:
    """Build a message.

    Args:
        seen: The request.
        said: What to answer; an empty text gives an empty list of content blocks.

    Returns:
        The response body.
    """
    mark = digest(seen.model, seen.prompt, str(seen.index))
    content: list[dict[str, Any]] = []
    if said.thoughts is not None:
        content.append({"type": "thinking", "thinking": said.thoughts, "signature": mark})
    if said.text:
        content.append({"type": "text", "text": said.text, "citations": None})
    if said.tool_input is not None:
        content.append({"type": "tool_use", "id": f"toolu_{mark}", "name": said.tool, "input": said.tool_input})
    stop = _STOP.get(said.stop, said.stop)
    details = {"type": "refusal", "category": None, "explanation": None} if stop == "refusal" else None
    body: dict[str, Any] = {
        "id": f"msg_{mark}",
        "type": "message",
        "role": "assistant",
        "model": seen.model,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "stop_details": details,
    }
    if said.usage is not None:
        body["usage"] = usage(said.usage) if isinstance(said.usage, Usage) else said.usage
    return body


def events(seen: SeenRequest, said: Answer, breaks: dict[str, Any] | None) -> list[bytes]:
    """Build the events of a streamed message, its content block by block, its text word by word.

    Args:
        seen: The request.
        said: What to answer.
        breaks: The error object to break off with half-way.

    Returns:
        The events; the input's tokens are in the first one, the output's in the last but one.
    """
    whole = answer(seen, said)
    counts, stop, content = whole.pop("usage", None), whole["stop_reason"], whole["content"]
    first = whole | {"content": [], "stop_reason": None, "stop_details": None}
    delta = {"stop_reason": stop, "stop_sequence": None, "stop_details": whole["stop_details"]}
    end: dict[str, Any] = {"type": "message_delta", "delta": delta}
    if counts is not None:
        first["usage"] = counts | {"output_tokens": 1, "output_tokens_details": None}
        end["usage"] = {name: counts.get(name) for name in ("output_tokens", "output_tokens_details")}
    made: list[dict[str, Any]] = [{"type": "message_start", "message": first}, {"type": "ping"}]
    for index, block in enumerate(content):
        kind = block["type"]
        empty = {name: "" for name in ("text", "thinking") if name in block} | (
            {"input": {}} if "input" in block else {}
        )
        made.append({"type": "content_block_start", "index": index, "content_block": block | empty})
        if kind == "tool_use":
            deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
        else:
            deltas = [{"type": f"{kind}_delta", kind: word} for word in words(block[kind])]
        made += [{"type": "content_block_delta", "index": index, "delta": one} for one in deltas]
        made.append({"type": "content_block_stop", "index": index})
    if breaks is not None:
        made = [*made[: len(made) // 2 + 1], breaks]
    else:
        made += [end, {"type": "message_stop"}]
    return [event(one, one["type"]) for one in made]


def usage(counts: Usage) -> dict[str, Any]:
    """Build the usage object; ``input_tokens`` leaves out what the cache read or wrote.

    Args:
        counts: The counts.

    Returns:
        The usage object.
    """
    return {
        "input_tokens": counts.input - counts.cached - counts.cache_write,
        "cache_read_input_tokens": counts.cached,
        "cache_creation_input_tokens": counts.cache_write,
        "cache_creation": {"ephemeral_5m_input_tokens": counts.cache_write, "ephemeral_1h_input_tokens": 0},
        "output_tokens": counts.output,
        "output_tokens_details": {"thinking_tokens": counts.reasoning},
        "service_tier": "standard",
    }


def error(status: int, message: str, *, kind: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Build an error body.

    Args:
        status: HTTP status.
        message: Words for people.
        kind: The error's ``type``; None takes the usual one of the status.
        code: Stable code, sent as ``error.details.error_code``.

    Returns:
        The response body.
    """
    usual = "api_error" if status >= 500 else "invalid_request_error"
    inner: dict[str, Any] = {"type": kind or _TYPES.get(status, usual), "message": message}
    if code is not None:
        inner["details"] = {"error_code": code}
    return {"type": "error", "error": inner, "request_id": f"req_{digest(message, str(status))}"}


def model(name: str) -> dict[str, Any]:
    """Build one entry of the list of models."""
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": "2026-01-02T00:00:00Z",
        "deprecated_at": None,
        "retires_at": None,
        "lifecycle": "active",
        "line": None,
        "capabilities": None,
        "max_input_tokens": 200_000,
        "max_tokens": 64_000,
    }


def models(names: list[str]) -> dict[str, Any]:
    """Build the list of models, as one page."""
    ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
    return {"data": [model(name) for name in names], "has_more": False, **ends}
