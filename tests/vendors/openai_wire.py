"""The OpenAI chat-completions wire format, also spoken by OpenRouter and other compatible servers."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
from typing import Any

from .script import Reply, SeenRequest, Usage
from .wire import COST_PER_TOKEN, CREATED, Answer, digest, event, is_object, objects, plain, tokens, words

DIMENSIONS = 64
"""Length of an embedding when the request does not say."""

_FINISH = {"refusal": "stop", "context": "length"}
_TYPES = {429: "requests"}


def read(seen: SeenRequest) -> None:
    """Fill in messages, system text, schema and tool from a request's body.

    Args:
        seen: The request; changed in place.
    """
    params = seen.params
    system: list[str] = []
    for message in objects(params.get("messages")):
        role, text = str(message.get("role", "user")), plain(message.get("content"))
        if role in ("system", "developer"):
            system.append(text)
        else:
            seen.messages.append({"role": role, "content": text})
    seen.system = "\n".join(system) if system else None
    wanted = params.get("response_format")
    if is_object(wanted) and wanted.get("type") == "json_schema" and is_object(wanted.get("json_schema")):
        seen.schema = wanted["json_schema"].get("schema")
    elif is_object(wanted) and wanted.get("type") == "json_object":
        seen.schema = {"type": "object", "properties": {"answer": {"type": "string"}}}
    elif params.get("tools") and params.get("tool_choice") != "none":
        _read_tool(seen)


def _read_tool(seen: SeenRequest) -> None:
    choice = seen.params.get("tool_choice")
    forced = choice["function"].get("name") if is_object(choice) and is_object(choice.get("function")) else None
    for tool in objects(seen.params["tools"]):
        function = tool.get("function", {})
        if forced in (None, function.get("name")):
            seen.tool, seen.schema = function.get("name"), function.get("parameters", {"type": "object"})
            return


def answer(seen: SeenRequest, said: Answer) -> dict[str, Any]:
    """Build a chat completion.

    Args:
        seen: The request.
        said: What to answer.

    Returns:
        The response body.
    """
    message: dict[str, Any] = {"role": "assistant", "content": said.text, "refusal": None, "annotations": []}
    if said.finish == "refusal":
        message |= {"content": None, "refusal": said.text}
    if said.tool_input is not None:
        call = {"name": said.tool, "arguments": json.dumps(said.tool_input)}
        message["tool_calls"] = [{"id": f"call_{digest(seen.prompt)}", "type": "function", "function": call}]
    if said.thoughts is not None:
        message["reasoning"] = said.thoughts
    stop = _FINISH.get(said.stop, said.stop)
    body: dict[str, Any] = {
        "id": f"chatcmpl-{digest(seen.model, seen.prompt, str(seen.index))}",
        "object": "chat.completion",
        "created": CREATED,
        "model": seen.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": stop}],
        "service_tier": seen.params.get("service_tier", "default"),
        "system_fingerprint": None,
    }
    if seen.openrouter:
        body["provider"] = "Loopback"
        body["choices"][0]["native_finish_reason"] = stop
    if said.usage is not None:
        body["usage"] = usage(said.usage, openrouter=seen.openrouter) if isinstance(said.usage, Usage) else said.usage
    return body


def events(seen: SeenRequest, said: Answer, breaks: dict[str, Any] | None) -> list[bytes]:
    """Build the chunks of a streamed chat completion: role, text word by word, finish, usage if asked for, and the end.

    Args:
        seen: The request.
        said: What to answer.
        breaks: The error object to break off with half-way.

    Returns:
        The events.
    """
    whole = answer(seen, said)
    counts, choice = whole.pop("usage", None), whole["choices"][0]
    message, finish = choice["message"], choice["finish_reason"]
    options = seen.params.get("stream_options")
    wanted = seen.openrouter or (is_object(options) and options.get("include_usage"))
    whole |= {"object": "chat.completion.chunk"} | ({"usage": None} if wanted else {})

    def chunk(delta: dict[str, Any], ended: str | None = None) -> bytes:
        return event(whole | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": ended}]})

    part = "refusal" if message["refusal"] else "content"
    deltas = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning": word} for word in words(said.thoughts)] + [{part: word} for word in words(message[part])]
    deltas += [{"tool_calls": [{"index": 0, **call}]} for call in message.get("tool_calls", [])]
    chunks = [chunk(delta) for delta in deltas]
    if breaks is not None:
        broken = whole | breaks | {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]}
        return [*chunks[: len(chunks) // 2 + 1], event(broken)]
    usage_chunk = [event(whole | {"choices": [], "usage": counts})] if wanted and counts is not None else []
    return [*chunks, chunk({}, finish), *usage_chunk, event("[DONE]")]


def usage(counts: Usage, *, openrouter: bool = False) -> dict[str, Any]:
    """Build the usage object; cached and reasoning tokens are included in the totals.

    Args:
        counts: The counts.
        openrouter: Whether to add the charged cost even if none was scripted.

    Returns:
        The usage object.
    """
    total = counts.input + counts.output
    built: dict[str, Any] = {
        "prompt_tokens": counts.input,
        "completion_tokens": counts.output,
        "total_tokens": total,
        "prompt_tokens_details": {
            "cached_tokens": counts.cached,
            "cache_write_tokens": counts.cache_write,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": counts.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    if counts.cost is not None or openrouter:
        cost = counts.cost if counts.cost is not None else round(total * COST_PER_TOKEN, 9)
        built |= {"cost": cost, "is_byok": False, "cost_details": {"upstream_inference_cost": None}}
    return built


def error(
    status: int, message: str, *, kind: str | None = None, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """Build an error body.

    Args:
        status: HTTP status.
        message: Words for people.
        kind: The error's ``type``; None takes the usual one of the status.
        code: Stable code.
        param: Name of the offending parameter.

    Returns:
        The response body.
    """
    usual = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind or _TYPES.get(status, usual), "param": param, "code": code}}


def openrouter_error(status: int, message: str, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    """Build an OpenRouter error body, whose code is the number of the status."""
    inner: dict[str, Any] = {"code": status, "message": message}
    if metadata is not None:
        inner["metadata"] = metadata
    return {"error": inner, "user_id": "user_loopback"}


def model(name: str) -> dict[str, Any]:
    """Build one entry of the list of models."""
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "loopback"}


def models(names: list[str]) -> dict[str, Any]:
    """Build the list of models."""
    return {"object": "list", "data": [model(name) for name in names]}


def embeddings(seen: SeenRequest, reply: Reply) -> dict[str, Any]:
    """Build embeddings of the request's input texts.

    Args:
        seen: The request.
        reply: What was scripted.

    Returns:
        The response body, with vectors as lists or in base64 as asked for.
    """
    given = seen.params.get("input", "")
    texts: list[str] = [given] if isinstance(given, str) else [str(text) for text in given]
    size = int(seen.params.get("dimensions") or DIMENSIONS)
    data: list[dict[str, Any]] = []
    for index, text in enumerate(texts):
        values = list(reply.vector(text)) if reply.vector else embed(text, size)
        vector: list[float] | str = values
        if seen.params.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
        if values:
            data.append({"object": "embedding", "index": index, "embedding": vector})
    body: dict[str, Any] = {"object": "list", "data": data, "model": seen.model}
    if reply.usage != "missing":
        count = reply.usage.input if isinstance(reply.usage, Usage) else sum(tokens(text) for text in texts)
        body["usage"] = {"prompt_tokens": count, "total_tokens": count}
        if seen.openrouter:
            charged = reply.usage.cost if isinstance(reply.usage, Usage) else None
            body["usage"]["cost"] = round(count * COST_PER_TOKEN, 9) if charged is None else charged
    return body


def embed(text: str, size: int = DIMENSIONS) -> list[float]:
    """Turn a text into a unit vector: each word adds one at a place and sign given by its hash.

    Args:
        text: The text.
        size: Length of the vector.

    Returns:
        The vector; texts that share words are close, equal bags of words are equal.
    """
    vector = [0.0] * size
    for word in text.lower().split() or [""]:
        hashed = int.from_bytes(hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()[:8], "big")
        vector[hashed % size] += 1.0 if hashed >> 63 else -1.0
    norm = math.sqrt(sum(value * value for value in vector))
    if norm == 0.0:  # words that cancel out
        return [1.0] + [0.0] * (size - 1)
    return [value / norm for value in vector]
