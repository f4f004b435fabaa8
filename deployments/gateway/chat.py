"""`POST /v1/chat/completions`: what is read of a request, and a run as a completion or as a stream of chunks."""

import json
import re
import time
from collections.abc import AsyncIterator, Collection, Iterator
from typing import Annotated, Any, Literal

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from consensus_flows.blocks.sampling import ReasoningEffort
from consensus_flows.deployments.gateway.errors import GatewayError, as_gateway_error, no_answer
from consensus_flows.deployments.gateway.runs import GatewayRun
from consensus_flows.deployments.view import line_of
from consensus_flows.tasks.attachments import attached, is_url
from consensus_flows.tasks.calls.request import Message, Role
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.readers import UnreadableError, json_object
from consensus_flows.tasks.record import Attachment, Record
from consensus_flows.tasks.watch import Piece

PIECE = 80
"""Characters of a piece of an answer that is known as a whole."""
SETTINGS = {
    "sampling.temperature": "temperature",
    "sampling.top_p": "top_p",
    "sampling.max_output_tokens": "max_completion_tokens",
    "sampling.seed": "seed",
    "sampling.reasoning_effort": "reasoning_effort",
    "fresh": "consensus.fresh",
    "answer_schema": "response_format",
    "attestation": "consensus.challenge",
    "attestation.challenge": "consensus.challenge",
}
"""For the path of a setting the parameter that sets it."""


FILES = ("image_url", "file", "input_image", "input_file")
"""The types of parts that are files: of chat completions, and of responses."""


class _Lenient(BaseModel):
    """A part of a request; what it does not name is ignored."""

    model_config = ConfigDict(extra="allow")


class ChatMessage(_Lenient):
    """A message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]] | None = Field(None, description="A text, or parts: text, image_url, file.")


class StreamOptions(_Lenient):
    """Options of a stream."""

    include_usage: bool = Field(False, description="Send one more chunk with the usage at the end.")


class ConsensusOptions(BaseModel):
    """What a panel has beside OpenAI's parameters."""

    model_config = ConfigDict(extra="forbid")

    fresh: bool | None = Field(None, description="Ignore cached answers: ask again, and replace them.")
    challenge: str | None = Field(
        None, description="Text that the attestation repeats, 8 to 88 bytes, where answers are attested."
    )


class AnswerSchema(_Lenient):
    """A JSON schema, as OpenAI's API has it."""

    json_schema: dict[str, Any] = Field(alias="schema")


class JsonSchema(BaseModel):
    """The answer is JSON of this schema; members, arbiter and aggregator write it."""

    type: Literal["json_schema"]
    json_schema: AnswerSchema


class OtherFormat(BaseModel):
    """The answer is a text, or the JSON object that the conversation asks for."""

    type: Literal["text", "json_object"]


ResponseFormat = Annotated[JsonSchema | OtherFormat, Field(discriminator="type")]


class ChatRequest(_Lenient):
    """A request for a chat completion."""

    model: str = Field(description="Name of a saved configuration, or NAME:title for its companion.")
    messages: list[ChatMessage] = Field(min_length=1, description="The conversation; the last message is the question.")
    stream: bool = Field(False, description="Send the answer in pieces, as server-sent events.")
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, description="Sampling temperature of the members.")
    top_p: float | None = Field(None, description="Nucleus sampling of the members.")
    max_completion_tokens: int | None = Field(None, description="Maximum number of tokens in a member's answer.")
    max_tokens: int | None = Field(None, description="The same, under its older name.")
    seed: int | None = Field(None, description="Sampling seed of the members.")
    reasoning_effort: ReasoningEffort | None = Field(None, description="Reasoning effort of the members.")
    response_format: ResponseFormat | None = Field(None, description="The form of the answer.")
    stop: str | list[str] | None = Field(None, description="The answer ends before the first of these texts.")
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    modalities: list[Literal["text"]] | None = None
    audio: None = None
    tools: list[dict[str, Any]] | None = Field(None, description="Refused, unless tool_choice is none.")
    tool_choice: Any = None
    functions: list[dict[str, Any]] | None = Field(None, description="Refused, unless function_call is none.")
    function_call: Any = None
    include_reasoning: bool | None = Field(None, description="Stream the panel's progress as reasoning_content.")
    consensus: ConsensusOptions | None = None

    def settings(self) -> dict[str, Any]:
        """Return the settings that lie over those of the saved configuration."""
        sampling = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_output_tokens": self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens,
            "seed": self.seed,
            "reasoning_effort": self.reasoning_effort,
        }
        given = {name: value for name, value in sampling.items() if value is not None}
        own = self.consensus or ConsensusOptions()
        wanted = self.response_format
        schema = wanted.json_schema.json_schema if isinstance(wanted, JsonSchema) else None
        attestation = None if own.challenge is None else {"challenge": own.challenge}
        settings = {
            "sampling": given or None,
            "fresh": own.fresh,
            "answer_schema": schema,
            "attestation": attestation,
        }
        return {name: value for name, value in settings.items() if value is not None}

    @property
    def wants_json(self) -> bool:
        """Whether the answer must be JSON."""
        return self.response_format is not None and self.response_format.type != "text"

    @property
    def reads_pieces(self) -> bool:
        """Whether the answer is sent while it is written; of JSON it must first be known that it is."""
        return self.stream and not self.wants_json

    def conversation(self) -> list[Message]:
        """Return the conversation, of which the last message is the question.

        Raises:
            GatewayError: If the request asks for something that a panel cannot do.
        """
        for tools, choice in (("tools", "tool_choice"), ("functions", "function_call")):
            if getattr(self, tools) and getattr(self, choice) != "none":
                raise _refused(tools, f"members call no tools: leave it out, or set {choice} to none")
        messages = [said for place, one in enumerate(self.messages) for said in _said(place, one)]
        *before, last = messages
        if last.role != "user" or not last.content.strip():
            raise _refused("messages", "the last message must be the user's, with a text")
        return [*(one for one in before if one.content.strip() or one.attachments), last]

    def ignored(self) -> list[str]:
        """Name what was given and has no effect."""
        return sorted(self.model_extra or {})


def _refused(param: str, why: str) -> GatewayError:
    return GatewayError(400, f"{param}: {why}", "unsupported_value", param=param)


def _said(place: int, message: ChatMessage) -> list[Message]:
    """Return a message, and before it the turn that gives it its files."""
    if (message.model_extra or {}).get("tool_calls"):
        raise _refused(f"messages[{place}].tool_calls", "members call no tools: leave it out")
    role = "system" if message.role == "developer" else message.role
    parts = message.content if isinstance(message.content, list) else [{"type": "text", "text": message.content or ""}]
    return with_files(role, parts, f"messages[{place}].content", ("text",))


def with_files(role: Role, parts: list[dict[str, Any]], param: str, texts: Collection[str]) -> list[Message]:
    """Return the message that parts are, and before it the turn that gives it its files.

    Args:
        role: Whose message it is.
        parts: Texts, images and files, in the form of one of OpenAI's APIs.
        param: What an error calls them.
        texts: The types of texts.

    Raises:
        GatewayError: If one cannot be used.
    """
    said, files = [], []
    for number, part in enumerate(parts):
        kind, place = part.get("type"), f"{param}[{number}]"
        if kind in texts and isinstance(part.get("text"), str):
            said.append(part["text"])
        elif kind in FILES and role == "user":
            files.append(_file(part, place))
        else:
            raise _refused(
                place, f"a part of type {kind!r} is not supported: send type {min(texts)}, or {' or '.join(FILES)}"
            )
    message = Message(role=role, content="".join(said))
    return [*([Message(role=role, content="", attachments=tuple(files))] if files else []), message]


def _file(part: dict[str, Any], place: str) -> Attachment:
    """Keep the file of a part. A client must not have this server fetch what only the server can reach."""
    image = part.get("image_url")
    inner = part["file"] if isinstance(part.get("file"), dict) else part
    url = image.get("url") if isinstance(image, dict) else image or inner.get("file_data")
    if not isinstance(url, str):
        raise _refused(place, "send the bytes: a data URL in image_url, or in file_data")
    try:
        made = attached(url if is_url(url) else f"data:{url.removeprefix('data:')}", place, anywhere=False)
    except ConfigurationError as error:
        raise _refused(place, error.reason) from None
    name = inner.get("filename")
    return made.model_copy(update={"name": name}) if isinstance(name, str) and name else made


class Stops:
    """Ends an answer before the first of some texts, though it comes in pieces."""

    def __init__(self, stop: str | list[str] | None) -> None:
        texts = [stop] if isinstance(stop, str) else stop or []
        self._stop = re.compile("|".join(re.escape(text) for text in texts if text)) if any(texts) else None
        self._kept = max(map(len, texts), default=1) - 1
        self._held = ""
        self.stopped = False

    def take(self, text: str, *, last: bool = False) -> str:
        """Return what of the answer can be sent after `text` has come; what may begin a stop is held back until the last."""
        self._held += text
        if self.stopped or self._stop is None:
            ready, self._held = "" if self.stopped else self._held, ""
            return ready
        if found := self._stop.search(self._held):
            self.stopped, ready = True, self._held[: found.start()]
            return ready
        end = len(self._held) if last else max(len(self._held) - self._kept, 0)
        ready, self._held = self._held[:end], self._held[end:]
        return ready


class Written:
    """What of an answer has been sent while it was written."""

    def __init__(self) -> None:
        self._sent = self._written = ""

    def take(self, piece: Piece) -> str:
        """Return what can be sent after a piece has come: nothing as long as it does not go on after what has been sent."""
        goes_on = piece.start == len(self._written)
        self._written = self._written + piece.text if goes_on else piece.text
        if not self._written.startswith(self._sent):
            return ""
        new, self._sent = self._written[len(self._sent) :], self._written
        return new

    def rest(self, record: Record, answer: str | None = None) -> str:
        """Return what of the answer is left to be sent.

        Args:
            record: The record of the run.
            answer: The answer, where it is not that of the record as it is.

        Raises:
            GatewayError: If the answer is another one: its first writer broke off, or it was not the best.
        """
        answer = record.answer or "" if answer is None else answer
        if answer.startswith(self._sent):
            return answer[len(self._sent) :]
        raise GatewayError(
            502,
            f"the answer is another one than the text that was streamed, whose writer failed: run {record.flow_run_id} has it",
            "answer_changed",
            retry=True,
            run_id=record.flow_run_id,
        )


def answer_of(record: Record, *, wants_json: bool = False) -> str:
    """Return the answer of a run.

    Args:
        record: Its record.
        wants_json: Whether it must be a JSON object: of a vote, the whole text of the first member that gave the answer.

    Raises:
        GatewayError: If there is none, or none of this form.
    """
    if record.answer is None:
        raise no_answer(record)
    if not wants_json:
        return record.answer
    try:
        return json.dumps(json_object(record.full_text or record.answer), ensure_ascii=False)
    except UnreadableError as error:
        raise GatewayError(
            502, f"the answer is not JSON: {error}", "not_json", param="response_format", run_id=record.flow_run_id
        ) from None


def usage_of(record: Record) -> dict[str, Any]:
    """Return the sum over all calls of a run."""
    usage = record.usage
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "cost": record.cost_usd,
    }


def consensus_of(record: Record, ui_url: str, ignored: list[str]) -> dict[str, Any]:
    """Return what a client may want to know of a run beside its answer."""
    failed = {call.member: call.error.kind for one in record.iterations for call in one.responses if call.error}
    return {
        "run_id": record.flow_run_id,
        "url": f"{ui_url}/runs/flow-run/{record.flow_run_id}",
        "flow": record.flow,
        "status": record.status,
        "degraded": record.degraded,
        "agreement": record.agreement,
        "confidence": record.confidence,
        "confidence_measure": record.confidence_measure,
        "tie": record.tie,
        "failed": [{"member": member, "kind": kind} for member, kind in failed.items()],
        "warnings": [one.message for one in record.warnings],
        "calls": record.calls,
        "cached_calls": record.cached_calls,
        "cost_usd": record.cost_usd,
        "duration_s": record.duration_s,
        "ignored": ignored,
        # What `consensus verify` reads; the attestation is a part of it.
        **({"record": record.model_dump(mode="json")} if record.attestation else {}),
    }


class Completion:
    """A run as the answer to a request."""

    def __init__(self, asked: ChatRequest, run: GatewayRun, run_id: str, ui_url: str) -> None:
        self._asked, self._run, self._ui_url = asked, run, ui_url
        self._head = {"id": f"chatcmpl-{run_id}", "created": int(time.time()), "model": asked.model}

    async def whole(self) -> dict[str, Any]:
        """Return the completion.

        Raises:
            GatewayError: If the run has no answer.
        """
        record = await self._run.record()
        text = Stops(self._asked.stop).take(answer_of(record, wants_json=self._asked.wants_json), last=True)
        message = {"role": "assistant", "content": text, "refusal": None}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": usage_of(record),
            "consensus": self._consensus(record),
        }

    async def stream(self, *, progress: bool) -> AsyncIterator[bytes]:
        """Return the completion as server-sent events; an error is one of them.

        Args:
            progress: Whether what happens is told as reasoning.
        """
        yield self._chunk({"role": "assistant", "content": ""})
        stops, written = Stops(self._asked.stop), Written()
        try:
            async for happened in self._run.events():
                if happened is None:
                    yield KEEPALIVE_COMMENT
                elif happened.event == "wrote":
                    if text := stops.take(written.take(happened.value)):
                        yield self._chunk({"content": text})
                elif progress and (line := line_of(*happened)):
                    yield self._chunk({"reasoning_content": f"{line.strip()}\n"})
            record = await self._run.record()
            for piece in pieces(written.rest(record, answer_of(record, wants_json=self._asked.wants_json))):
                if text := stops.take(piece):
                    yield self._chunk({"content": text})
            if text := stops.take("", last=True):
                yield self._chunk({"content": text})
            yield self._chunk({}, finish="stop", consensus=self._consensus(record))
            if self._asked.stream_options and self._asked.stream_options.include_usage:
                yield self._event({**self._head, "choices": [], "usage": usage_of(record)})
        except Exception as error:
            yield _data(as_gateway_error(error).body())
        yield format_sse_event(data_str="[DONE]")

    def _consensus(self, record: Record) -> dict[str, Any]:
        return consensus_of(record, self._ui_url, self._asked.ignored())

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, **beside: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._event({**self._head, "choices": [choice], **beside})

    def _event(self, chunk: dict[str, Any]) -> bytes:
        return _data({"object": "chat.completion.chunk", **chunk})


_JSON = TypeAdapter(dict[str, Any])


def _data(value: dict[str, Any]) -> bytes:
    return format_sse_event(data_str=_JSON.dump_json(value).decode())


def pieces(text: str) -> Iterator[str]:
    """Return a text in pieces that end between words."""
    return (found.group() for found in re.finditer(rf"[\s\S]{{1,{PIECE}}}\S*\s*", text))
