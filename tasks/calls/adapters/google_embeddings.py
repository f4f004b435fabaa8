"""Google Gemini embed_content."""

from collections.abc import Mapping
from typing import Any

from google.genai.client import AsyncClient
from google.genai.types import EmbedContentConfig, EmbedContentResponse, HttpOptions

from consensus_flows.tasks.calls.adapters import Reply
from consensus_flows.tasks.calls.adapters.counts import usage_of
from consensus_flows.tasks.calls.adapters.repair import Repairs
from consensus_flows.tasks.calls.failures import Fault
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.calls.vectors import packed

_WITH_TASK = ("gemini-embedding-001", "text-embedding-")
"""Beginnings of the names of those models that are told what the vector is for; later ones refuse it."""


def body(request: Request, repairs: Repairs) -> dict[str, Any]:  # noqa: ARG001  # part of the protocol
    """Build the arguments of `models.embed_content`, the config still as plain fields."""
    arguments: dict[str, Any] = {"model": request.model, "contents": request.messages[-1].content}
    if request.model.removeprefix("models/").startswith(_WITH_TASK):
        arguments["task_type"] = "SEMANTIC_SIMILARITY"
    return arguments


async def post(client: AsyncClient, body: Mapping[str, Any], timeout: float) -> Any:
    """Send one text."""
    fields = dict(body)
    model, contents = fields.pop("model"), fields.pop("contents")
    config = EmbedContentConfig(**fields, http_options=HttpOptions(timeout=int(timeout * 1000)))
    return await client.models.embed_content(model=model, contents=contents, config=config)


def read(response: Any) -> Reply:
    """Read the vector. Older models do not say how many tokens were counted."""
    if not isinstance(response, EmbedContentResponse):
        return Reply(fault=Fault(200, message="the response is no embed_content response", transport="malformed"))
    counted = response.usage_metadata
    usage = usage_of(counted.prompt_token_count, 0) if counted is not None else None
    if not response.embeddings:
        if usage is None:
            # The SDK drops fields it does not know, and an error object is one: what is left is nothing.
            return Reply(fault=Fault(200, message="no embedding in the response", transport="malformed"))
        return Reply(usage=usage, detail="no embedding in the response")
    return Reply(packed(response.embeddings[0].values or ()), "stop", usage)


def unsent(request: Request) -> tuple[str, ...]:  # noqa: ARG001  # part of the protocol
    """An embedding has no settings."""
    return ()
