"""The Gemini ``generateContent`` wire format."""

from __future__ import annotations

from typing import Any

from .openai_wire import DIMENSIONS, embed
from .script import Reply, SeenRequest, Usage
from .wire import Answer, digest, event, is_object, objects, plain, tokens, words

_FINISH = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
    "refusal": "SAFETY",
    "tool_calls": "STOP",
    "context": "MAX_TOKENS",
}
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "RESOURCE_EXHAUSTED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
    529: "UNAVAILABLE",
}


def read(seen: SeenRequest) -> None:
    """Fill in messages, system text, schema and tool from a request's body.

    Args:
        seen: The request; changed in place.
    """
    params = seen.params
    system = params.get("systemInstruction") or params.get("system_instruction")
    if is_object(system):
        seen.system = plain(system.get("parts"))
    for content in objects(params.get("contents")):
        role = "assistant" if content.get("role") == "model" else str(content.get("role") or "user")
        seen.messages.append({"role": role, "content": plain(content.get("parts"))})
    config = params.get("generationConfig")
    config = config if is_object(config) else {}
    wanted = config.get("responseJsonSchema") or config.get("responseSchema")
    if is_object(wanted):
        seen.schema = wanted
    elif config.get("responseMimeType") == "application/json":
        seen.schema = {"type": "object", "properties": {"answer": {"type": "string"}}}
    else:
        _read_tool(seen)


def _read_tool(seen: SeenRequest) -> None:
    for tool in objects(seen.params.get("tools")):
        for function in objects(tool.get("functionDeclarations")):
            schema = function.get("parametersJsonSchema") or function.get("parameters")
            seen.tool, seen.schema = function.get("name"), schema or {"type": "object"}
            return


def answer(seen: SeenRequest, said: Answer) -> dict[str, Any]:
    """Build a response with one candidate.

    Args:
        seen: The request.
        said: What to answer; an empty text gives content without parts.

    Returns:
        The response body.
    """
    parts: list[dict[str, Any]] = []
    if said.thoughts is not None:
        parts.append({"text": said.thoughts, "thought": True})
    if said.text:
        parts.append({"text": said.text})
    if said.tool_input is not None:
        parts.append({"functionCall": {"name": said.tool, "args": said.tool_input}})
    content: dict[str, Any] = {"role": "model"}
    if parts:
        content["parts"] = parts
    body: dict[str, Any] = {
        "candidates": [{"content": content, "finishReason": _FINISH.get(said.stop, said.stop), "index": 0}],
        "modelVersion": seen.model,
        "responseId": digest(seen.model, seen.prompt, str(seen.index)),
    }
    if said.usage is not None:
        body["usageMetadata"] = usage(said.usage) if isinstance(said.usage, Usage) else said.usage
    return body


def events(seen: SeenRequest, said: Answer, breaks: dict[str, Any] | None) -> list[bytes]:
    """Build the responses of a streamed answer, word by word; the last one has the finish and all counts.

    Args:
        seen: The request.
        said: What to answer.
        breaks: The error object to break off with half-way.

    Returns:
        The events.
    """
    whole = answer(seen, said)
    candidate = whole["candidates"][0]
    counts, parts, finish = (
        whole.pop("usageMetadata", None),
        candidate["content"].pop("parts", []),
        candidate.pop("finishReason"),
    )

    def response(found: list[dict[str, Any]]) -> dict[str, Any]:
        content = candidate["content"] | ({"parts": found} if found else {})
        so_far = {"usageMetadata": counts | {"candidatesTokenCount": 1}} if counts is not None else {}
        return whole | {"candidates": [candidate | {"content": content}]} | so_far

    pieces = [part | {"text": word} for part in parts if "text" in part for word in words(part["text"])]
    made = [response([piece]) for piece in [*pieces, *(part for part in parts if "text" not in part)]] or [response([])]
    if breaks is not None:
        return [event(one) for one in [*made[: len(made) // 2 + 1], breaks]]
    made[-1]["candidates"][0]["finishReason"] = finish
    if counts is not None:
        made[-1]["usageMetadata"] = counts
    return [event(one) for one in made]


def embeddings(seen: SeenRequest, reply: Reply) -> dict[str, Any]:
    """Build the response to ``batchEmbedContents``, one embedding a request.

    Args:
        seen: The request.
        reply: What was scripted.

    Returns:
        The response body.
    """
    found, count = list[dict[str, Any]](), 0
    for one in objects(seen.params.get("requests")):
        content = one.get("content")
        text = plain(content.get("parts")) if is_object(content) else ""
        size = int(one.get("outputDimensionality") or DIMENSIONS)
        values = list(reply.vector(text)) if reply.vector else embed(text, size)
        if values:
            found.append({"values": values})
        count += tokens(text)
    body: dict[str, Any] = {"embeddings": found}
    if reply.usage != "missing":
        asked = reply.usage.input if isinstance(reply.usage, Usage) else count
        details = [{"modality": "TEXT", "tokenCount": asked}]
        body["usageMetadata"] = {"promptTokenCount": asked, "promptTokenDetails": details}
    return body


def usage(counts: Usage) -> dict[str, Any]:
    """Build the usage object; cached tokens are in the prompt's, thoughts are counted apart from the candidates'.

    Args:
        counts: The counts.

    Returns:
        The usage object; zero counts are left out, as the service does.
    """
    built: dict[str, Any] = {
        "promptTokenCount": counts.input,
        "candidatesTokenCount": counts.output - counts.reasoning,
        "totalTokenCount": counts.input + counts.output,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": counts.input}],
    }
    if counts.cached:
        built["cachedContentTokenCount"] = counts.cached
    if counts.reasoning:
        built["thoughtsTokenCount"] = counts.reasoning
    return built


def blocked(seen: SeenRequest, reason: str) -> dict[str, Any]:
    """Build the response to a blocked prompt: feedback and usage, no candidates."""
    return {
        "promptFeedback": {"blockReason": reason},
        "usageMetadata": {"promptTokenCount": 8, "totalTokenCount": 8},
        "modelVersion": seen.model,
        "responseId": digest(seen.model, seen.prompt),
    }


def error(
    status: int, message: str, *, kind: str | None = None, details: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Build an error body.

    Args:
        status: HTTP status.
        message: Words for people.
        kind: The canonical ``status`` word; None takes the usual one of the HTTP status.
        details: Typed details, such as ``RetryInfo``.

    Returns:
        The response body.
    """
    inner: dict[str, Any] = {"code": status, "message": message, "status": kind or _STATUS.get(status, "UNKNOWN")}
    if details:
        inner["details"] = details
    return {"error": inner}


def model(name: str) -> dict[str, Any]:
    """Build one entry of the list of models."""
    return {
        "name": f"models/{name}",
        "displayName": name,
        "version": "001",
        "inputTokenLimit": 1_000_000,
        "outputTokenLimit": 64_000,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
    }


def models(names: list[str]) -> dict[str, Any]:
    """Build the list of models, as one page."""
    return {"models": [model(name) for name in names]}
