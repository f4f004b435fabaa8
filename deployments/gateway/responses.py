"""`POST /v1/responses`: a run as a response of OpenAI's Responses API, whole or as a stream of events."""

import time
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from consensus_flows.blocks.sampling import ReasoningEffort
from consensus_flows.deployments.gateway.chat import (
    SETTINGS,
    ChatRequest,
    ConsensusOptions,
    Written,
    consensus_of,
    pieces,
    usage_of,
    with_files,
)
from consensus_flows.deployments.gateway.errors import GatewayError, as_gateway_error, no_answer
from consensus_flows.deployments.gateway.runs import GatewayRun
from consensus_flows.tasks.calls.request import Message, Role
from consensus_flows.tasks.errors import HistoryError
from consensus_flows.tasks.history.address import find_address
from consensus_flows.tasks.history.database import opened
from consensus_flows.tasks.history.reading import named
from consensus_flows.tasks.history.writing import Conversation
from consensus_flows.tasks.record import Record

RESPONSE = "resp_"
"""What the id of a response begins with; the run's id follows."""
RESPONSES_SETTINGS = SETTINGS | {
    "sampling.max_output_tokens": "max_output_tokens",
    "sampling.reasoning_effort": "reasoning.effort",
}
_TEXTS = {"input_text", "output_text", "text"}
_JSON = TypeAdapter(dict[str, Any])


class _Lenient(BaseModel):
    """A part of a request; what it does not name is ignored."""

    model_config = ConfigDict(extra="allow")


class Reasoning(_Lenient):
    """How much the members think."""

    effort: ReasoningEffort | None = None


class TextFormat(_Lenient):
    """The form of the answer."""

    type: Literal["text"] = "text"


class TextOptions(_Lenient):
    """What the answer is like."""

    format: TextFormat | None = None


class ResponsesRequest(_Lenient):
    """A request for a response."""

    model: str = Field(description="Name of a saved configuration, or NAME:title for its companion.")
    input: str | list[dict[str, Any]] = Field(description="The question, or the messages that end with it.")
    instructions: str | None = Field(None, description="A system message.")
    previous_response_id: str | None = Field(None, description="The response after which the conversation goes on.")
    stream: bool = Field(False, description="Send the answer in pieces, as server-sent events.")
    temperature: float | None = Field(None, description="Sampling temperature of the members.")
    top_p: float | None = Field(None, description="Nucleus sampling of the members.")
    max_output_tokens: int | None = Field(None, description="Maximum number of tokens in a member's answer.")
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    tools: list[dict[str, Any]] | None = Field(None, description="Refused, unless tool_choice is none.")
    tool_choice: Any = None
    background: Literal[False] | None = None
    conversation: None = Field(None, description="Refused: name the previous response.")
    prompt: None = Field(None, description="Refused: there are no stored prompts.")
    consensus: ConsensusOptions | None = None

    def settings(self) -> dict[str, Any]:
        """Return the settings that lie over those of the saved configuration."""
        chat = ChatRequest.model_construct(
            model=self.model,
            messages=[],
            max_tokens=None,
            temperature=self.temperature,
            top_p=self.top_p,
            max_completion_tokens=self.max_output_tokens,
            reasoning_effort=self.reasoning.effort if self.reasoning else None,
            consensus=self.consensus,
        )
        return chat.settings()

    def messages(self, before: Conversation | None) -> list[Message]:
        """Return the conversation, of which the last message is the question.

        Args:
            before: What was said until the previous response.

        Raises:
            GatewayError: If the request asks for something that a panel cannot do.
        """
        if self.tools and self.tool_choice != "none":
            raise _refused("tools", "members call no tools: leave it out, or set tool_choice to none")
        items = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input
        given = [message for place, item in enumerate(items) for message in _messages(place, item)]
        if not given or given[-1].role != "user" or not given[-1].content.strip():
            raise _refused("input", "the last item must be a message of the user's, with a text")
        instructions = [Message(role="system", content=self.instructions)] if (self.instructions or "").strip() else []
        earlier = [one for one in before.messages if one.role != "system"] if before else []
        said = [*earlier, *given]
        return [*instructions, *(one for one in said if one.content.strip() or one.attachments)]

    async def before(self) -> Conversation | None:
        """Return the conversation up to the previous response.

        Raises:
            GatewayError: If the history does not hold it.
        """
        if self.previous_response_id is None:
            return None
        run_id = self.previous_response_id.removeprefix(RESPONSE)
        await find_address()
        try:
            with opened() as history:
                return history.read(lambda connection: named(connection, run_id))
        except HistoryError as error:
            param = "previous_response_id"
            raise GatewayError(400, f"{param}: {error}", "previous_response_not_found", param=param) from None


def _refused(param: str, why: str) -> GatewayError:
    return GatewayError(400, f"{param}: {why}", "unsupported_value", param=param)


def _messages(place: int, item: dict[str, Any]) -> list[Message]:
    """Return the message that an item of the input is; what a model has thought is none."""
    kind, role, content = item.get("type", "message"), item.get("role"), item.get("content")
    if kind == "reasoning":
        return []
    if kind != "message" or role not in {"system", "developer", "user", "assistant"}:
        raise _refused(f"input[{place}]", f"an item of type {kind!r} and role {role!r} is not supported: send messages")
    whose: Role = "system" if role == "developer" else role
    if isinstance(content, list):
        return with_files(whose, content, f"input[{place}].content", _TEXTS)
    return [Message(role=whose, content=content or "")]


class PanelResponse:
    """A run as the answer to a request."""

    def __init__(self, asked: ResponsesRequest, run: GatewayRun, run_id: str, ui_url: str) -> None:
        self._asked, self._run, self._run_id, self._ui_url = asked, run, run_id, ui_url
        self._created = int(time.time())
        self._number = 0

    async def whole(self) -> dict[str, Any]:
        """Return the response.

        Raises:
            GatewayError: If the run has no answer.
        """
        record = await self._run.record()
        if record.answer is None:
            raise no_answer(record)
        return self._completed(record)

    async def stream(self) -> AsyncIterator[bytes]:
        """Return the response as server-sent events; an error is one of them."""
        begun = self._response("in_progress")
        yield self._event("response.created", response=begun)
        yield self._event("response.in_progress", response=begun)
        message = self._message("in_progress", [])
        yield self._event("response.output_item.added", output_index=0, item=message)
        place = {"item_id": message["id"], "output_index": 0, "content_index": 0}
        yield self._event("response.content_part.added", **place, part=_part(""))
        written = Written()
        try:
            async for happened in self._run.events():
                if happened is None:
                    yield KEEPALIVE_COMMENT
                elif happened.event == "wrote" and (text := written.take(happened.value)):
                    yield self._event("response.output_text.delta", **place, delta=text, logprobs=[])
            record = await self._run.record()
            if record.answer is None:
                raise no_answer(record)
            for piece in pieces(written.rest(record)):
                yield self._event("response.output_text.delta", **place, delta=piece, logprobs=[])
            part = _part(record.answer)
            yield self._event("response.output_text.done", **place, text=record.answer, logprobs=[])
            yield self._event("response.content_part.done", **place, part=part)
            yield self._event("response.output_item.done", output_index=0, item=self._message("completed", [part]))
            yield self._event("response.completed", response=self._completed(record))
        except Exception as error:
            made = as_gateway_error(error)
            failed = self._response("failed") | {"error": {"code": made.code, "message": made.message}}
            yield self._event("response.failed", response=failed)

    def _completed(self, record: Record) -> dict[str, Any]:
        used = usage_of(record)
        return self._response("completed") | {
            "output": [self._message("completed", [_part(record.answer or "")])],
            "usage": {
                "input_tokens": used["prompt_tokens"],
                "input_tokens_details": used["prompt_tokens_details"],
                "output_tokens": used["completion_tokens"],
                "output_tokens_details": used["completion_tokens_details"],
                "total_tokens": used["total_tokens"],
                "cost": used["cost"],
            },
            "consensus": consensus_of(record, self._ui_url, sorted(self._asked.model_extra or {})),
        }

    def _response(self, status: str) -> dict[str, Any]:
        asked = self._asked
        return {
            "id": f"{RESPONSE}{self._run_id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "model": asked.model,
            "output": [],
            "instructions": asked.instructions,
            "previous_response_id": asked.previous_response_id,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "max_output_tokens": asked.max_output_tokens,
            "tools": [],
            "tool_choice": "none",
            "parallel_tool_calls": False,
            "text": {"format": {"type": "text"}},
            "metadata": {},
            "error": None,
            "incomplete_details": None,
            "usage": None,
        }

    def _message(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        identity = {"id": f"msg_{self._run_id}", "type": "message", "role": "assistant"}
        return {**identity, "status": status, "content": content}

    def _event(self, kind: str, **values: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._number, **values}
        self._number += 1
        return format_sse_event(data_str=_JSON.dump_json(event).decode(), event=kind)


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
