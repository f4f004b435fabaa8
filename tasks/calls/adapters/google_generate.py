"""Google Gemini generate_content."""

from collections.abc import Mapping
from typing import Any

from google.genai.client import AsyncClient
from google.genai.types import (
    Content,
    GenerateContentConfig,
    GenerateContentResponse,
    HttpOptions,
    Part,
    ThinkingConfig,
    ThinkingLevel,
)

from consensus_flows.tasks.calls.adapters import Reply
from consensus_flows.tasks.calls.adapters.counts import total, usage_of
from consensus_flows.tasks.calls.adapters.repair import Repairs, schema_instruction
from consensus_flows.tasks.calls.failures import Fault
from consensus_flows.tasks.calls.request import FinishReason, Request
from consensus_flows.tasks.record import Usage

_FINISH: dict[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "UNEXPECTED_TOOL_CALL": "tool_calls",
    "TOO_MANY_TOOL_CALLS": "tool_calls",
    "MALFORMED_FUNCTION_CALL": "tool_calls",
    "LANGUAGE": "content_filter",
}


def body(request: Request, repairs: Repairs) -> dict[str, Any]:
    """Build the arguments of `models.generate_content`, the config still as plain fields."""
    sampling = request.sampling
    system = [message.content for message in request.messages if message.role == "system"]
    wanted: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_output_tokens": sampling.max_output_tokens,
        "stop_sequences": list(sampling.stop) or None,
        "seed": sampling.seed,
        "reasoning_effort": sampling.reasoning_effort,
        "service_tier": request.service_tier,
    }
    if request.response_schema is not None:
        if repairs.schema_mode < 2:
            wanted["response_mime_type"] = "application/json"
        if repairs.schema_mode == 0:
            wanted["response_json_schema"] = dict(request.response_schema)
        else:
            system.append(schema_instruction(request))
    wanted["system_instruction"] = "\n\n".join(system) or None
    return {
        "model": request.model,
        "messages": [m.model_dump() for m in request.messages if m.role != "system"],
        **{name: value for name, value in wanted.items() if value is not None and name not in repairs.dropped},
        **({"extra_body": dict(sampling.extra)} if sampling.extra else {}),
    }


async def post(client: AsyncClient, body: Mapping[str, Any], timeout: float) -> Any:
    """Send one generate_content call."""
    fields = dict(body)
    model, messages, extra = fields.pop("model"), fields.pop("messages"), fields.pop("extra_body", None)
    effort = fields.pop("reasoning_effort", None)
    config = GenerateContentConfig(
        **fields,
        http_options=HttpOptions(timeout=int(timeout * 1000), extra_body=extra),
        thinking_config=_thinking(effort) if effort else None,
    )
    contents = [
        Content(role="model" if m["role"] == "assistant" else "user", parts=[Part(text=m["content"])]) for m in messages
    ]
    return await client.models.generate_content(model=model, contents=contents, config=config)


def read(response: Any) -> Reply:
    """Read a generate_content response."""
    if not isinstance(response, GenerateContentResponse):
        return Reply(fault=Fault(200, message="the response is no generate_content response", transport="malformed"))
    usage = _usage(response)
    if not response.candidates:
        feedback = response.prompt_feedback
        if feedback and feedback.block_reason:
            reason = feedback.block_reason.value
            return Reply(None, "content_filter", usage, None, response.model_version, f"prompt blocked: {reason}")
        if usage is None and response.model_version is None:
            # The SDK drops fields it does not know, and an error object is one: what is left is nothing.
            return Reply(
                fault=Fault(200, message="neither an answer nor its usage in the response", transport="malformed")
            )
        return Reply(usage=usage, model=response.model_version, detail="no candidate in the response")
    candidate = response.candidates[0]
    parts = (candidate.content.parts if candidate.content else None) or []
    text = "".join(part.text for part in parts if part.text and not part.thought)
    reason = candidate.finish_reason.value if candidate.finish_reason else "none"
    finish = _FINISH.get(reason, "other")
    return Reply(text, finish, usage, None, response.model_version, f"finishReason {reason}", None, _tier(response))


def unsent(request: Request) -> tuple[str, ...]:  # noqa: ARG001  # part of the protocol
    """Every setting has a parameter here."""
    return ()


def _tier(response: GenerateContentResponse) -> str | None:
    """The tier that served the call: Google says it in a header, in the body only where it has other usage to tell."""
    headers = (response.sdk_http_response.headers if response.sdk_http_response else None) or {}
    found = next((value for name, value in headers.items() if name.lower() == "x-gemini-service-tier"), None)
    return found.lower() if found else None


def _thinking(effort: str) -> ThinkingConfig:
    if effort == "none":
        return ThinkingConfig(thinking_budget=0)
    level = {"max": "XHIGH"}.get(effort, effort.upper())
    return ThinkingConfig(thinking_level=ThinkingLevel(level))


def _usage(response: GenerateContentResponse) -> Usage | None:
    usage = response.usage_metadata
    if usage is None or usage.prompt_token_count is None:
        return None
    thoughts = usage.thoughts_token_count
    return usage_of(
        total(usage.prompt_token_count, usage.tool_use_prompt_token_count),
        # Thoughts are billed as output and counted apart; what is 0 is left out.
        total(usage.candidates_token_count, thoughts),
        cached=usage.cached_content_token_count,
        reasoning=thoughts,
    )
