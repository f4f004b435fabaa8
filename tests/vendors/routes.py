"""Which vendor a path and its headers belong to, and that vendor's half of the work."""

from __future__ import annotations

import json
import re
from types import ModuleType
from typing import Any
from urllib.parse import unquote

from . import anthropic_wire, google_wire, openai_wire
from .aws_wire import event_stream
from .connection import RawRequest
from .script import Body, Reply, SeenRequest, Vendor
from .wire import is_object, resolve

_WIRES: dict[Vendor, ModuleType] = {"openai": openai_wire, "anthropic": anthropic_wire, "google": google_wire}

_BATCHES = re.compile(r"/batches|/files|:batchGenerateContent$")
_BATCH_ROUTES: list[tuple[Vendor, str, re.Pattern[str], str]] = [
    (vendor, method, re.compile(path), action)
    for vendor, method, path, action in (
        ("anthropic", "POST", r"/v1/messages/batches", "create"),
        ("anthropic", "GET", r"/v1/messages/batches", "list"),
        ("anthropic", "GET", r"/v1/messages/batches/([^/]+)", "retrieve"),
        ("anthropic", "POST", r"/v1/messages/batches/([^/]+)/cancel", "cancel"),
        ("anthropic", "GET", r"/v1/messages/batches/([^/]+)/results", "results"),
        ("openai", "POST", r"/v1/files", "upload"),
        ("openai", "GET", r"/v1/files/([^/]+)/content", "results"),
        ("openai", "POST", r"/v1/batches", "create"),
        ("openai", "GET", r"/v1/batches", "list"),
        ("openai", "GET", r"/v1/batches/([^/]+)", "retrieve"),
        ("openai", "POST", r"/v1/batches/([^/]+)/cancel", "cancel"),
        ("google", "POST", r"/upload/v1\w*/files", "upload"),
        ("google", "POST", r"/v1\w*/models/[^/]+:batchGenerateContent", "create"),
        ("google", "GET", r"/v1\w*/batches", "list"),
        ("google", "GET", r"/v1\w*/(batches/[^/:]+)", "retrieve"),
        ("google", "POST", r"/v1\w*/(batches/[^/:]+):cancel", "cancel"),
        ("google", "GET", r"/v1\w*/files/([^/:]+):download", "results"),
    )
]


def recognise(raw: RawRequest) -> SeenRequest | None:
    """Read a request in the wire format its path ends in.

    Args:
        raw: The request.

    Returns:
        The request normalised, or None if no vendor has such a path; raises ValueError on a body that is no JSON.
    """
    path = unquote(raw.path.partition("?")[0]).rstrip("/")
    headers = raw.headers
    if _BATCHES.search(path):
        return _of_batches(raw, path)
    if raw.method == "POST":
        params: Any = json.loads(raw.body) if raw.body else {}
        if not is_object(params):
            raise ValueError("the body is no JSON object")
        return generation(path, params, headers)
    before, found, name = path.partition("/models")
    if raw.method != "GET" or not found or (name and not name.startswith("/")):
        return None
    vendor: Vendor = "openai"
    if "anthropic-version" in headers or "x-api-key" in headers:
        vendor = "anthropic"
    elif before.endswith(("/v1beta", "/publishers/google")) or "x-goog-api-key" in headers:
        vendor = "google"
    return SeenRequest(vendor, "models", name[1:], path, [], None, {}, headers)


def generation(path: str, params: dict[str, Any], headers: dict[str, str]) -> SeenRequest | None:
    """Read a request for an answer or for embeddings, sent alone or as a line of a batch.

    Args:
        path: Path without its query.
        params: The JSON body.
        headers: Header names in lower case.

    Returns:
        The request normalised, or None if no vendor has such a path.
    """
    model = str(params.get("model", ""))
    if path.endswith("/chat/completions"):
        seen = SeenRequest("openai", "chat", model, path, [], None, params, headers, stream=bool(params.get("stream")))
        openai_wire.read(seen)
        return seen
    if path.endswith("/embeddings"):
        return SeenRequest("openai", "embeddings", model, path, [], None, params, headers)
    if path.endswith((":rawPredict", ":streamRawPredict", "/invoke", "/invoke-with-response-stream")):
        # Claude on Vertex AI and on Bedrock: the model is in the path.
        before, _, method = path.rpartition("/" if path.startswith("/model/") else ":")
        streams = method in {"streamRawPredict", "invoke-with-response-stream"}
        model = before.rpartition("/models/")[2].removeprefix("/model/")
        seen = SeenRequest("anthropic", "chat", model, path, [], None, params, headers, stream=streams)
        anthropic_wire.read(seen)
        return seen
    if path.endswith("/messages"):
        seen = SeenRequest(
            "anthropic", "chat", model, path, [], None, params, headers, stream=bool(params.get("stream"))
        )
        anthropic_wire.read(seen)
        return seen
    if path.endswith((":generateContent", ":streamGenerateContent")):
        model, _, method = path.rpartition("/models/")[2].rpartition(":")
        streams = method == "streamGenerateContent"
        seen = SeenRequest("google", "chat", model, path, [], None, params, headers, stream=streams)
        google_wire.read(seen)
        return seen
    if path.endswith(":batchEmbedContents"):
        model = path.rpartition("/models/")[2].removesuffix(":batchEmbedContents")
        return SeenRequest("google", "embeddings", model, path, [], None, params, headers)
    return None


def _of_batches(raw: RawRequest, path: str) -> SeenRequest | None:
    google = "x-goog-api-key" in raw.headers or path.startswith("/upload/")
    for vendor, method, pattern, action in _BATCH_ROUTES:
        found = pattern.fullmatch(path) if method == raw.method and google == (vendor == "google") else None
        if found is not None:
            params = json.loads(raw.body) if raw.body and action != "upload" else {}
            batch = found[1] if found.groups() else ""
            return SeenRequest(
                vendor, "batches", f"/batches/{action}", path, [], None, params, raw.headers, batch=batch
            )
    return None


def render(seen: SeenRequest, reply: Reply, names: list[str]) -> tuple[dict[str, str], bytes | list[bytes]]:
    """Put a reply into the vendor's shape.

    Args:
        seen: The request.
        reply: What was scripted; a raw body is sent whole, also where a stream was asked for.
        names: The models to list.

    Returns:
        Response headers and body, or the events of a stream.
    """
    wire = _WIRES[seen.vendor]
    body: Body = reply.body
    streams = seen.stream and body is None and reply.status < 400
    if body is None:
        if reply.status >= 400:
            body = plain_error(seen, reply.status, reply.text if isinstance(reply.text, str) else "scripted failure")
        elif seen.kind == "models":
            body = wire.model(seen.model) if seen.model else wire.models(names)
            if seen.path.endswith("/publishers/google/models"):
                body = {"publisherModels": [{"name": f"publishers/google/models/{name}"} for name in names]}
        elif seen.kind == "embeddings":
            body = wire.embeddings(seen, reply)
        elif not streams:
            body = wire.answer(seen, resolve(reply, seen))
    headers = {"content-type": "text/event-stream; charset=utf-8" if streams else "application/json"}
    headers["request-id" if seen.vendor == "anthropic" else "x-request-id"] = f"req_{seen.index}"
    for name, value in reply.headers.items():
        headers[name.lower()] = value
    if streams:
        made: list[bytes] = wire.events(seen, resolve(reply, seen), reply.breaks)
        if seen.bedrock:
            return headers | {"content-type": "application/vnd.amazon.eventstream"}, event_stream(made)
        return headers, made
    if isinstance(body, bytes):
        return headers, body
    return headers, (body if isinstance(body, str) else json.dumps(body)).encode("utf-8", "surrogatepass")


def plain_error(seen: SeenRequest, status: int, message: str) -> dict[str, Any]:
    """Build the vendor's usual error object of a status."""
    if seen.openrouter:
        return openai_wire.openrouter_error(status, message)
    if seen.bedrock:
        return {"message": message}
    built: dict[str, Any] = _WIRES[seen.vendor].error(status, message)
    return built
