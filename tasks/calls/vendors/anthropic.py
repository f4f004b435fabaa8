"""Anthropic: the Messages API."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from consensus_flows.blocks.credentials import AnthropicCredentials, ModelCredentials
from consensus_flows.tasks.attachments import base64_of
from consensus_flows.tasks.calls.failures import Fault
from consensus_flows.tasks.calls.request import FinishReason, Request
from consensus_flows.tasks.calls.vendors.batch_api import BatchAPI, BatchJob, BatchLine, LineResult
from consensus_flows.tasks.calls.vendors.vendor import (
    Provider,
    Repairs,
    Reply,
    Vendor,
    Write,
    cut_off,
    field_of,
    malformed,
    schema_instruction,
    system_and_turns,
    total,
    usage_of,
)
from consensus_flows.tasks.record import Attachment, Usage

_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
    "tool_use": "tool_calls",
    "pause_turn": "tool_calls",
}
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "overloaded_error": 529,
}
"""The status that goes with an error object, for one that comes with status 200."""
_MARK = "cache_control"
_MARKED = {_MARK: {"type": "ephemeral"}}
"""Marks the end of what the prompt cache is to keep."""
_ARGUMENTS = ("max_tokens", "stop_sequences")
"""Settings for which the SDK has arguments; models that still take the others read them from the body."""


class AnthropicBatches(BatchAPI):
    """Message batches. They bear no mark, and the ids of their lines are in the results alone."""

    most_lines = 100_000
    marked = False

    async def submit(self, client: Any, model: str, lines: Sequence[BatchLine], mark: str) -> BatchJob:  # noqa: ARG002  # as for all
        """Create the batch."""
        requests = [{"custom_id": line.id, "params": _params(line.body)} for line in lines]
        return _job(await client.messages.batches.create(requests=requests))

    async def find(self, client: Any, mark: str, since: datetime, lines: int) -> AsyncIterator[BatchJob]:  # noqa: ARG002  # there is none
        """Look for batches of that time and number of lines."""
        async for batch in client.messages.batches.list(limit=100):
            if batch.created_at < since:
                return
            if sum(count for _, count in batch.request_counts) == lines:
                yield _job(batch)

    async def look(self, client: Any, id: str) -> BatchJob:
        """Retrieve it."""
        return _job(await client.messages.batches.retrieve(id))

    async def cancel(self, client: Any, id: str) -> None:
        """Cancel it."""
        await client.messages.batches.cancel(id)

    async def results(self, client: Any, job: BatchJob) -> AsyncIterator[LineResult]:
        """Read the results."""
        async for one in await client.messages.batches.results(job.id):
            yield _line_result(one)


class Anthropic(Vendor):
    """Messages. There are no embeddings, no seed, and no discount: its service tiers are about reserved capacity."""

    name = "anthropic"
    sdk = ("anthropic", "anthropic.types")
    blocks: ClassVar[tuple[type[ModelCredentials], ...]] = (AnthropicCredentials,)
    providers: ClassVar[Mapping[str, Provider]] = {
        "anthropic": Provider(
            AnthropicCredentials, ("ANTHROPIC_API_KEY",), base_url_variable="ANTHROPIC_BASE_URL", price_id="anthropic"
        )
    }
    parameters: ClassVar[Mapping[str, str | None]] = {
        "max_output_tokens": "max_tokens",
        "stop": "stop_sequences",
        "reasoning_effort": "effort",
        "seed": None,
        "service_tier": None,
    }
    schema_parameters = Vendor.schema_parameters | {"output_config"}
    attachment_kinds = frozenset({"image", "pdf"})
    image_tokens = 4_784
    page_tokens = 3_000 + image_tokens
    marks_repeated = True
    sent_limit = 8192
    """The API wants a limit. Above about 21,000 the SDK refuses to wait without streaming."""

    def batch_api(self, credentials: ModelCredentials | None) -> BatchAPI | None:
        """Anthropic itself has one."""
        return _BATCHES if type(credentials) is AnthropicCredentials else None

    def build(self, request: Request, repairs: Repairs) -> dict[str, Any]:
        """Build the arguments of `messages.create`."""
        from anthropic import transform_schema

        system, turns = system_and_turns(request, _form)
        settings = self.settings(request, repairs)
        effort = settings.pop("effort", None)
        output: dict[str, Any] = {"effort": effort} if effort not in {None, "none", "minimal"} else {}
        if request.response_schema is not None:
            if repairs.schema_mode == 0:
                output["format"] = {"type": "json_schema", "schema": transform_schema(dict(request.response_schema))}
            else:
                system.append(schema_instruction(request))
        arguments = {name: settings.pop(name) for name in _ARGUMENTS if name in settings}
        instructions: str | list[dict[str, Any]] = "\n\n".join(system)
        if request.repeated and _MARK not in repairs.dropped:
            if instructions:
                instructions = [{"type": "text", "text": instructions, **_MARKED}]
            if request.repeated == "files":  # the text of the turn comes after them
                turns[0]["content"][-2] |= _MARKED
        optional = {
            "system": instructions,
            "output_config": output,
            "extra_body": settings | request.sampling.extra,
        }
        return {
            "model": request.model,
            "messages": turns,
            "max_tokens": request.sampling.max_output_tokens or self.sent_limit,
            **arguments,
            **{name: value for name, value in optional.items() if value},
        }

    def unsent(self, request: Request) -> tuple[str, ...]:
        """Name what has no parameter, an effort below `low` among it."""
        low = ("reasoning_effort",) if request.sampling.reasoning_effort in {"none", "minimal"} else ()
        return (*super().unsent(request), *low)

    def refused(self, fault: Fault, sent: Collection[str]) -> str | None:
        """Return the refused parameter; `output_config` holds the effort beside the format."""
        if fault.status == 400 and _MARK in fault.message:  # a gateway or an old model without a prompt cache
            return _MARK
        name = super().refused(fault, sent)
        if name == "output_config" and "effort" in sent and ("format" not in sent or "effort" in fault.message):
            return "effort"
        return name

    def fault_of(self, error: BaseException) -> Fault:
        """Read a fault; an error event in a stream is an exception with the stream's status."""
        found = super().fault_of(error)
        said = found.body.get("error") if found.status == 200 and isinstance(found.body, Mapping) else None
        return _fault_in_body(said) if isinstance(said, Mapping) else found

    async def send(self, client: Any, request: Request, body: Mapping[str, Any]) -> Any:
        """Send one message."""
        return await client.messages.create(**body, timeout=request.timeout)

    async def stream(self, client: Any, request: Request, body: Mapping[str, Any], write: Write) -> Any:
        """Send one message and put the events of the answer together."""
        from anthropic.types import Message

        from consensus_flows.blocks.http_client import is_event_stream

        events = await client.messages.create(**body, stream=True, timeout=request.timeout)
        if not is_event_stream(events.response):
            whole = events.response.json()
            return Message.construct(**whole) if isinstance(whole, dict) else whole
        parts, usage = list[str](), dict[str, Any]()
        model = stopped = None
        async with events:
            async for event in events:
                if event.type == "message_start":
                    model = event.message.model
                elif event.type == "message_delta":
                    stopped = event.delta.stop_reason or stopped
                elif event.type == "content_block_delta" and event.delta.type == "text_delta":
                    parts.append(event.delta.text)
                    await write(event.delta.text)
                # Counts are totals so far; what the last one leaves out is as it was.
                counted = field_of(event, "usage") or field_of(event, "message", "usage")
                usage |= {name: value for name, value in counted or () if value is not None}
        if stopped is None:
            raise cut_off()
        content = [{"type": "text", "text": "".join(parts)}]
        return Message.construct(model=model, stop_reason=stopped, content=content, usage=usage or None)

    def read(self, request: Request, body: Mapping[str, Any], response: Any) -> Reply:  # noqa: ARG002  # as for all
        """Read a message."""
        from anthropic.types import Message

        if not isinstance(response, Message) or response.content is None:
            error = (getattr(response, "model_extra", None) or {}).get("error")
            if isinstance(error, Mapping):
                return Reply(fault=_fault_in_body(error))
            return Reply(fault=malformed("the response is not a message"))
        text = "".join(block.text for block in response.content if block.type == "text")
        finish = _FINISH.get(response.stop_reason or "", "other")
        return Reply(text, finish, _usage(response), None, response.model, f"stop_reason {response.stop_reason}")

    async def sees(self, client: Any, model: str, timeout: float) -> frozenset[str] | None:
        """Ask what the model can do."""
        able = (await client.models.retrieve(model, timeout=timeout)).capabilities
        if able is None:
            return None
        said = {"image": field_of(able, "image_input", "supported"), "pdf": field_of(able, "pdf_input", "supported")}
        return frozenset(kind for kind, supported in said.items() if supported is not False)

    async def list_models(self, client: Any, timeout: float) -> list[str]:
        """Ask for the list of models; a page holds a thousand."""
        return [model.id async for model in client.models.list(limit=1000, timeout=timeout)]


VENDOR = Anthropic()
_BATCHES = AnthropicBatches()


def _params(body: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: value for name, value in body.items() if name != "extra_body"}, **body.get("extra_body", {})}


def _job(batch: Any) -> BatchJob:
    counts = batch.request_counts
    done = counts.succeeded + counts.errored + counts.canceled + counts.expired
    over, ready = batch.processing_status == "ended", batch.results_url is not None
    return BatchJob(
        batch.id,
        ended=over and ready,
        status=batch.processing_status,
        late=over and not ready,
        done=done,
        source=batch,
    )


def _line_result(one: Any) -> LineResult:
    result = one.result
    if result.type == "succeeded":
        return LineResult(one.custom_id, response=result.message)
    if result.type == "errored":
        said = field_of(result.error, "error")
        return LineResult(one.custom_id, fault=_fault_in_body(said.to_dict() if said is not None else {}))
    return LineResult(one.custom_id)


def _form(attachment: Attachment) -> dict[str, Any]:
    """Write an attachment as a content block."""
    source = {"type": "base64", "media_type": attachment.type, "data": base64_of(attachment)}
    return {"type": "image" if attachment.kind == "image" else "document", "source": source}


def _fault_in_body(error: Mapping[str, Any]) -> Fault:
    """Read an error object that came with HTTP status 200."""
    status = _STATUS.get(str(error.get("type")), 500)
    return Fault(status, body={"error": dict(error)}, message=str(error.get("message", "")))


def _usage(response: Any) -> Usage | None:
    usage = response.usage
    cached, written = field_of(usage, "cache_read_input_tokens"), field_of(usage, "cache_creation_input_tokens")
    own = field_of(usage, "input_tokens")
    return usage_of(
        # Cached input is counted apart.
        None if own is None else total(own, cached, written),
        field_of(usage, "output_tokens"),
        cached=cached,
        written=written,
        reasoning=field_of(usage, "output_tokens_details", "thinking_tokens"),
    )
