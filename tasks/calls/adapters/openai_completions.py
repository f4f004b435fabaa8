"""OpenAI's legacy completions: one text in, its continuation out. OpenRouter and llama.cpp still speak them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from openai import AsyncOpenAI
from openai.types import Completion
from openai.types.chat import ChatCompletion

from consensus_flows.tasks.calls.adapters import Reply, openai_chat
from consensus_flows.tasks.calls.adapters.repair import Repairs
from consensus_flows.tasks.calls.failures import Fault
from consensus_flows.tasks.calls.request import Request


def body(request: Request, repairs: Repairs) -> dict[str, Any]:
    """Build the arguments of `completions.create`. There are no roles: messages are one text, a blank line between two."""
    sampling = request.sampling
    wanted: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_output_tokens,
        "stop": list(sampling.stop) or None,
        "seed": sampling.seed,
    }
    extra: dict[str, Any] = dict(sampling.extra)
    if sampling.top_k is not None and "top_k" not in repairs.dropped:
        extra["top_k"] = sampling.top_k
    arguments = {name: value for name, value in wanted.items() if value is not None and name not in repairs.dropped}
    prompt = "\n\n".join(message.content for message in request.messages)
    return {"model": request.model, "prompt": prompt, **arguments, **({"extra_body": extra} if extra else {})}


class Sent(NamedTuple):
    """A response, and whether its length was limited by the request."""

    response: Any
    limited: bool


async def post(client: AsyncOpenAI, body: Mapping[str, Any], timeout: float) -> Any:
    """Send one completion."""
    return Sent(await client.completions.create(**body, timeout=timeout), "max_tokens" in body)


def read(response: Any) -> Reply:
    """Read a completion: all but the place of the text is as in a chat completion.

    A continuation has no end of its own. One that stops at the length that was asked for is complete, not cut off.
    """
    response, limited = response
    if not isinstance(response, Completion):
        return Reply(fault=Fault(200, message="the response is no completion", transport="malformed"))
    fields: dict[str, Any] = response.to_dict(mode="python")
    choices = fields.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        choice["message"] = {"role": "assistant", "content": choice.pop("text", None)}
    reply = openai_chat.read(ChatCompletion.construct(**fields))
    return replace(reply, finish="other") if limited and reply.finish == "length" else reply


def unsent(request: Request) -> tuple[str, ...]:
    """Legacy completions have neither reasoning efforts nor schemas."""
    given = {"reasoning_effort": request.sampling.reasoning_effort, "response_schema": request.response_schema}
    return tuple(name for name, value in given.items() if value is not None)
