"""OpenAI embeddings, and every server that speaks them: OpenRouter, vLLM, Ollama, llama.cpp."""

from collections.abc import Mapping
from typing import Any

from openai import AsyncOpenAI
from openai.types import CreateEmbeddingResponse

from consensus_flows.tasks.calls.adapters import Reply
from consensus_flows.tasks.calls.adapters.counts import charged, doubted, field_of, usage_of
from consensus_flows.tasks.calls.adapters.openai_chat import fault_in_body
from consensus_flows.tasks.calls.adapters.repair import Repairs
from consensus_flows.tasks.calls.failures import Fault
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.calls.vectors import packed
from consensus_flows.tasks.record import Usage


def body(request: Request, repairs: Repairs) -> dict[str, Any]:  # noqa: ARG001  # part of the protocol
    """Build the arguments of `embeddings.create`."""
    # base64 is a quarter of the bytes, and what the SDK itself asks for; a server that has none of it sends numbers.
    return {"model": request.model, "input": request.messages[-1].content, "encoding_format": "base64"}


async def post(client: AsyncOpenAI, body: Mapping[str, Any], timeout: float) -> Any:
    """Send one text."""
    return await client.embeddings.create(**body, timeout=timeout)


def read(response: Any) -> Reply:
    """Read the vector."""
    if not isinstance(response, CreateEmbeddingResponse):
        return Reply(fault=Fault(200, message="the response is no list of embeddings", transport="malformed"))
    error = (response.model_extra or {}).get("error")
    if error:
        return Reply(fault=fault_in_body(error))
    usage, cost = _usage(response)
    served: Any = response.model  # the SDK checks no types
    model = served if isinstance(served, str) else None
    if not response.data:
        return Reply(usage=usage, cost_usd=cost, model=model, detail="no embedding in the response")
    vector: Any = response.data[0].embedding
    text = vector if isinstance(vector, str) else packed(vector)
    return doubted(response, Reply(text, "stop", usage, cost, model))


def unsent(request: Request) -> tuple[str, ...]:  # noqa: ARG001  # part of the protocol
    """An embedding has no settings."""
    return ()


def _usage(response: CreateEmbeddingResponse) -> tuple[Usage | None, float | None]:
    usage = response.usage
    return usage_of(field_of(usage, "prompt_tokens"), 0), charged(field_of(usage, "cost"))
