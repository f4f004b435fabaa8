"""OpenAI chat completions, and every server that speaks them: OpenRouter, Hugging Face, vLLM, Ollama, llama.cpp."""

import re
from collections.abc import Mapping
from typing import Any

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from consensus_flows.tasks.calls.adapters import Reply
from consensus_flows.tasks.calls.adapters.counts import charged, doubted, field_of, usage_of
from consensus_flows.tasks.calls.adapters.repair import Repairs, schema_instruction
from consensus_flows.tasks.calls.failures import Fault
from consensus_flows.tasks.calls.local_model import MAX_ANSWER_TOKENS
from consensus_flows.tasks.calls.request import FinishReason, Request
from consensus_flows.tasks.record import Usage

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
_UNSUPPORTED = frozenset({"minLength", "maxLength", "uniqueItems", "default", "examples"})
"""Keywords that OpenAI's strict mode refuses; the reader checks them."""


def body(request: Request, repairs: Repairs) -> dict[str, Any]:
    """Build the arguments of `chat.completions.create`."""
    sampling = request.sampling
    messages = [message.model_dump() for message in request.messages]
    wanted: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_output_tokens,
        "stop": list(sampling.stop) or None,
        "seed": sampling.seed,
        "reasoning_effort": sampling.reasoning_effort,
        "service_tier": request.service_tier,
    }
    extra: dict[str, Any] = dict(sampling.extra)
    if sampling.top_k is not None and "top_k" not in repairs.dropped:
        extra["top_k"] = sampling.top_k
    if request.response_schema is not None:
        if repairs.schema_mode == 0:
            schema = _schema(request)
            wanted["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": schema, "strict": True},
            }
        else:
            messages = _with_system(messages, schema_instruction(request))
            if repairs.schema_mode == 1:
                wanted["response_format"] = {"type": "json_object"}
    arguments = {name: value for name, value in wanted.items() if value is not None and name not in repairs.dropped}
    if "max_tokens" in repairs.renamed and "max_tokens" in arguments:
        arguments["max_completion_tokens"] = arguments.pop("max_tokens")
    return {"model": request.model, "messages": messages, **arguments, **({"extra_body": extra} if extra else {})}


async def post(client: AsyncOpenAI, body: Mapping[str, Any], timeout: float) -> Any:
    """Send one chat completion."""
    return await client.chat.completions.create(**body, timeout=timeout)


def read(response: Any) -> Reply:
    """Read a chat completion."""
    return doubted(response, _read(response))


def _read(response: Any) -> Reply:
    if not isinstance(response, ChatCompletion):
        return Reply(fault=Fault(200, message="the response is no chat completion", transport="malformed"))
    choice = response.choices[0] if response.choices else None
    error = _error(response, choice)
    usage, cost = _usage(response)
    if error is not None:
        # Even beside a text: what was written before generation broke is no complete answer.
        return Reply(usage=usage, cost_usd=cost, fault=fault_in_body(error))
    message = choice.message if choice is not None else None
    # The SDK checks no types. What only describes the answer must not cost it.
    model, tier = (value if isinstance(value, str) else None for value in (response.model, response.service_tier))
    if choice is None or message is None:
        return Reply(usage=usage, cost_usd=cost, model=model, detail="no choice in the response")
    finish = _FINISH.get(choice.finish_reason or "", "other")
    if message.refusal:
        return Reply(None, "content_filter", usage, cost, model, message.refusal, None, tier)
    if not isinstance(message.content, str | None):
        fault = Fault(200, message="the content of the response is no text", transport="malformed")
        return Reply(usage=usage, cost_usd=cost, model=model, fault=fault)
    detail = f"finish_reason {choice.finish_reason}"
    return Reply(message.content, finish, usage, cost, model, detail, None, tier)


def unsent(request: Request) -> tuple[str, ...]:  # noqa: ARG001  # part of the protocol
    """Every setting has a parameter here; what a server does not take, it refuses."""
    return ()


def _error(response: ChatCompletion, choice: Any) -> Any:
    """Find the error object that OpenRouter and others put into a response of status 200."""
    for part in (response, choice):
        found = (getattr(part, "model_extra", None) or {}).get("error")
        if found:
            return found
    return {"message": "generation ended with an error"} if getattr(choice, "finish_reason", "") == "error" else None


def fault_in_body(error: Any) -> Fault:
    """Read an error object that came with HTTP status 200, as OpenRouter sends it."""
    fields = error if isinstance(error, Mapping) else {"message": str(error)}
    code = str(fields.get("code"))
    status = int(code) if re.fullmatch("[45][0-9][0-9]", code) else 502
    return Fault(status, body={"error": dict(fields)}, message=str(fields.get("message") or "error in the response"))


def _schema(request: Request) -> Any:
    if request.provider != "local":
        return strict(request.response_schema)
    return bounded(request.response_schema or {}, request.sampling.max_output_tokens or MAX_ANSWER_TOKENS)


def bounded(schema: dict[str, Any], tokens: int) -> dict[str, Any]:
    """Return `schema` with texts and lists so short that an object of them fits into `tokens`.

    The grammar of llama.cpp keeps to it, and a small model that rambles still closes its object before it is cut off.
    """
    shortened: dict[str, Any] = _short(schema, 2 * tokens, 3)
    return shortened


def _short(field: dict[str, Any], characters: int, entries: int) -> dict[str, Any]:
    """Divide `characters` among the texts in a schema; lists inside of lists have fewer entries."""
    kind, items = field.get("type"), field.get("items", {})
    if kind == "string" and "enum" not in field:
        return {"maxLength": max(24, characters), **field}
    if kind == "array" and "enum" not in items:
        few = min(entries, field.get("maxItems", entries))
        return {**field, "maxItems": few, "items": _short(items, characters // few, 1)}
    if kind == "object":
        properties = field["properties"]
        share = characters // max(1, sum(_is_open(one) for one in properties.values()))
        # The comparison of an arbiter's judgement is an object in an object: there is room for one entry a list.
        return {
            **field,
            "properties": {
                name: _short(one, share, 1 if one.get("type") == "object" else entries)
                for name, one in properties.items()
            },
        }
    return field


def _is_open(field: dict[str, Any]) -> bool:
    return field.get("type") in {"string", "array", "object"} and "enum" not in field


def strict(schema: Any) -> Any:
    """Return `schema` as OpenAI's strict mode wants it: closed objects, all properties required."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: strict(value) for key, value in schema.items() if key not in _UNSUPPORTED}
    if result.get("type") == "object" and "properties" in result:
        result["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        result["additionalProperties"] = False
        result["required"] = list(result["properties"])
    return result


def _usage(response: ChatCompletion) -> tuple[Usage | None, float | None]:
    usage = response.usage
    counted = usage_of(
        field_of(usage, "prompt_tokens"),
        field_of(usage, "completion_tokens"),
        cached=field_of(usage, "prompt_tokens_details", "cached_tokens"),
        reasoning=field_of(usage, "completion_tokens_details", "reasoning_tokens"),
    )
    cost = charged(field_of(usage, "cost"))
    if cost is None or not field_of(usage, "is_byok"):
        return counted, cost
    # With a key of one's own at the vendor behind OpenRouter, `cost` is OpenRouter's fee alone.
    details = field_of(usage, "cost_details")
    upstream = charged((details.get("upstream_inference_cost") if isinstance(details, Mapping) else None) or 0.0)
    return counted, None if upstream is None else cost + upstream


def _with_system(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    if messages and messages[0]["role"] == "system":
        return [{"role": "system", "content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
