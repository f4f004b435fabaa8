"""Google: the Gemini API."""

import logging
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import cache
from typing import Any, ClassVar

from consensus_flows.blocks.credentials import GoogleCredentials, ModelCredentials
from consensus_flows.tasks.attachments import base64_of
from consensus_flows.tasks.calls import failures
from consensus_flows.tasks.calls.failures import Fault
from consensus_flows.tasks.calls.request import FinishReason, Request
from consensus_flows.tasks.calls.vendors.batch_api import MB, BatchAPI, BatchJob, BatchLine, LineResult
from consensus_flows.tasks.calls.vendors.vendor import (
    Provider,
    Repairs,
    Reply,
    Vendor,
    Write,
    cut_off,
    field_of,
    given,
    malformed,
    schema_instruction,
    system_and_turns,
    total,
    usage_of,
)
from consensus_flows.tasks.readers import packed
from consensus_flows.tasks.record import Attachment, Usage

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
_KEY = "key"
"""Under which a line's id is in its metadata."""
_RUNNING = frozenset({"QUEUED", "PENDING", "RUNNING", "CANCELLING", "PAUSED", "UPDATING", "UNSPECIFIED"})
_STATUS = {3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 9: 400, 13: 500, 14: 503, 16: 401}
"""The HTTP status that goes with a code of gRPC, in which errors of single lines come."""
_WITH_TASK = ("gemini-embedding-001", "text-embedding-")
"""Beginnings of the names of those models that take what a vector is for; later ones refuse it."""


class GoogleBatches(BatchAPI):
    """Batches whose requests and responses are inside the job itself."""

    most_lines = 50_000
    most_bytes = 15 * MB
    """A job with its requests inside may have 20 MB."""

    async def submit(self, client: Any, model: str, lines: Sequence[BatchLine], mark: str) -> BatchJob:
        """Create the job."""
        from google.genai.types import CreateBatchJobConfig, InlinedRequest

        requests = []
        for line in lines:
            arguments = _arguments(line.request, line.body)
            config = arguments["config"].model_copy(update={"http_options": None})
            requests.append(InlinedRequest(contents=arguments["contents"], config=config, metadata={_KEY: line.id}))
        made = await client.batches.create(model=model, src=requests, config=CreateBatchJobConfig(display_name=mark))
        return _job(made)

    async def find(self, client: Any, mark: str, since: datetime, lines: int) -> AsyncIterator[BatchJob]:  # noqa: ARG002  # the mark is enough
        """Look for the mark as the display name."""
        async for job in await client.batches.list(config={"page_size": 100}):
            if job.create_time is not None and job.create_time < since:
                return
            if job.display_name == mark:
                yield _job(job)

    async def look(self, client: Any, id: str) -> BatchJob:
        """Get the job."""
        return _job(await client.batches.get(name=id))

    async def cancel(self, client: Any, id: str) -> None:
        """Cancel it."""
        await client.batches.cancel(name=id)

    async def results(self, client: Any, job: BatchJob) -> AsyncIterator[LineResult]:  # noqa: ARG002  # they are in the job
        """Read the responses in the job."""
        for one in field_of(job.source, "dest", "inlined_responses") or ():
            of = (one.metadata or {}).get(_KEY, "")
            if one.response is not None:
                yield LineResult(of, response=one.response)
            else:
                code = field_of(one.error, "code") or 13
                status = code if code >= 400 else _STATUS.get(code, 500)
                yield LineResult(of, fault=Fault(status, message=field_of(one.error, "message") or "error"))


class Google(Vendor):
    """`generate_content` and `embed_content`."""

    name = "google"
    sdk = ("google.genai.client", "google.genai.types", "google.genai.errors")
    blocks: ClassVar[tuple[type[ModelCredentials], ...]] = (GoogleCredentials,)
    providers: ClassVar[Mapping[str, Provider]] = {
        "google": Provider(
            GoogleCredentials,
            ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
            base_url_variable="GOOGLE_GEMINI_BASE_URL",
            price_id="google",
        )
    }
    kinds = frozenset({"chat", "embedding"})
    attachment_kinds = frozenset({"image", "pdf"})
    parameters: ClassVar[Mapping[str, str | None]] = {"stop": "stop_sequences"}
    aliases: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("thinking_level", "thinking_budget", "thinking_config"), "reasoning_effort"
    )
    schema_parameters = Vendor.schema_parameters | {"response_json_schema", "response_mime_type"}

    def batch_api(self, credentials: ModelCredentials | None) -> BatchAPI | None:
        """The Gemini API has one."""
        return _BATCHES if type(credentials) is GoogleCredentials else None

    def has_tier(self, provider: str, credentials: ModelCredentials | None) -> bool:  # noqa: ARG002  # as for all
        """Every model may be asked for in it."""
        return True

    def settings(self, request: Request, repairs: Repairs) -> dict[str, Any]:
        """Return the settings for which `generate_content` has a field."""
        found = super().settings(request, repairs)
        return {name: value for name, value in found.items() if name in _fields()}

    def unsent(self, request: Request) -> tuple[str, ...]:
        """Name the others."""
        return tuple(name for name in given(request) if self.parameters.get(name, name) not in _fields())

    def fault_of(self, error: BaseException) -> Fault:
        """Read a fault; the SDK has the status as `code`, the body as `details`, and reads what a model wrote as JSON too.

        Numbers of thousands of digits, and lists in lists without end, are then errors of its own.
        """
        from google.genai.errors import APIError, UnknownApiResponseError

        if isinstance(error, APIError):
            return failures.status_fault(error, error.code, error.details)
        digits = isinstance(error, ValueError) and "integer string conversion" in str(error)
        if isinstance(error, UnknownApiResponseError) or digits:
            return Fault(message="the response is not valid JSON", transport="malformed")
        return super().fault_of(error)

    def build(self, request: Request, repairs: Repairs) -> dict[str, Any]:
        """Build the arguments, the config still as plain fields."""
        if request.kind == "embedding":
            arguments: dict[str, Any] = {"model": request.model, "contents": request.messages[-1].content}
            if request.model.removeprefix("models/").startswith(_WITH_TASK):
                arguments["task_type"] = "SEMANTIC_SIMILARITY"
            return arguments
        system, turns = system_and_turns(request, _form)
        settings = self.settings(request, repairs)
        if request.response_schema is not None:
            if repairs.schema_mode < 2:
                settings["response_mime_type"] = "application/json"
            if repairs.schema_mode == 0:
                settings["response_json_schema"] = dict(request.response_schema)
            else:
                system.append(schema_instruction(request))
        if system:
            settings["system_instruction"] = "\n\n".join(system)
        if request.sampling.extra:
            settings["extra_body"] = dict(request.sampling.extra)
        return {"model": request.model, "messages": turns, **settings}

    async def send(self, client: Any, request: Request, body: Mapping[str, Any]) -> Any:
        """Send one call."""
        if request.kind == "embedding":
            return await client.models.embed_content(**_arguments(request, body))
        return await client.models.generate_content(**_arguments(request, body))

    async def stream(self, client: Any, request: Request, body: Mapping[str, Any], write: Write) -> Any:
        """Send one call and put the responses that it is answered with together."""
        from google.genai.types import Candidate, Content, GenerateContentResponse, Part

        if request.kind == "embedding":
            return await self.send(client, request, body)
        text, finish, last = "", None, dict[str, Any]()
        async with aclosing(await client.models.generate_content_stream(**_arguments(request, body))) as responses:
            async for response in responses:
                last |= {name: value for name, value in response if value is not None}
                for candidate in response.candidates or ():
                    finish = candidate.finish_reason or finish
                    if part := _text(candidate):
                        text += part
                        await write(part)
        if last.pop("candidates", None) is not None:
            if finish is None:
                raise cut_off()
            last["candidates"] = [Candidate(content=Content(parts=[Part(text=text)]), finish_reason=finish)]
        return GenerateContentResponse.model_construct(**last)

    def read(self, request: Request, body: Mapping[str, Any], response: Any) -> Reply:  # noqa: ARG002  # as for all
        """Read a response."""
        return _read_embedding(response) if request.kind == "embedding" else _read_answer(response)

    async def list_models(self, client: Any, timeout: float) -> list[str]:  # noqa: ARG002  # the caller's own holds
        """Ask for the list of models; a page holds a thousand."""
        # The SDK warns on stderr of a gateway that answers in another format.
        logging.getLogger("google_genai._transformers").setLevel(logging.ERROR)
        found = await client.models.list(config={"page_size": 1000})
        return [model.name.removeprefix("models/") async for model in found if model.name]


VENDOR = Google()
_BATCHES = GoogleBatches()


def _job(job: Any) -> BatchJob:
    status = job.state.value.removeprefix("JOB_STATE_") if job.state else "UNSPECIFIED"
    stats = job.completion_stats
    done = (field_of(stats, "successful_count") or 0) + (field_of(stats, "failed_count") or 0)
    # The SDK leaves out the counts of the Gemini API, so nothing is known until the answers are there.
    done = done or len(field_of(job, "dest", "inlined_responses") or ())
    said = field_of(job.error, "message") or "the batch failed"
    fault = Fault(400, message=said) if status == "FAILED" else None
    late = status in {"SUCCEEDED", "PARTIALLY_SUCCEEDED"} and job.dest is None
    return BatchJob(
        job.name,
        ended=status not in _RUNNING and not late,
        status=status,
        late=late,
        cut=status in {"EXPIRED", "CANCELLED"},
        done=done,
        fault=fault,
        source=job,
    )


@cache
def _fields() -> frozenset[str]:
    from google.genai.types import GenerateContentConfig

    return frozenset({*GenerateContentConfig.model_fields, "reasoning_effort"})


def _arguments(request: Request, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the SDK's method, its config made of the plain fields."""
    from google.genai.types import Content, EmbedContentConfig, GenerateContentConfig, HttpOptions

    fields = dict(body)
    model, extra, effort = fields.pop("model"), fields.pop("extra_body", None), fields.pop("reasoning_effort", None)
    options = HttpOptions(timeout=int(request.timeout * 1000), extra_body=extra)
    if request.kind == "embedding":
        text = fields.pop("contents")
        return {"model": model, "contents": text, "config": EmbedContentConfig(**fields, http_options=options)}
    contents = [
        Content(role="model" if turn["role"] == "assistant" else "user", parts=_parts(turn["content"]))
        for turn in fields.pop("messages")
    ]
    thinking = _thinking(effort) if effort else None
    config = GenerateContentConfig(**fields, http_options=options, thinking_config=thinking)
    return {"model": model, "contents": contents, "config": config}


def _form(attachment: Attachment) -> dict[str, Any]:
    """Write an attachment as plain fields."""
    return {"mime_type": attachment.type, "data": base64_of(attachment)}


def _parts(content: str | list[dict[str, Any]]) -> list[Any]:
    """Return the parts of a turn."""
    from google.genai.types import Part

    listed = [{"text": content}] if isinstance(content, str) else content
    return [
        Part(text=one["text"])
        if "text" in one
        else Part.from_bytes(data=b64decode(one["data"]), mime_type=one["mime_type"])
        for one in listed
    ]


def _text(candidate: Any) -> str:
    """Return what of a candidate is not thought."""
    parts = (candidate.content.parts if candidate.content else None) or []
    return "".join(part.text for part in parts if part.text and not part.thought)


def _read_answer(response: Any) -> Reply:
    from google.genai.types import GenerateContentResponse

    if not isinstance(response, GenerateContentResponse):
        return Reply(fault=malformed("the response is not a generate_content response"))
    usage = _usage(response)
    if not response.candidates:
        feedback = response.prompt_feedback
        if feedback and feedback.block_reason:
            reason = feedback.block_reason.value
            return Reply(None, "content_filter", usage, None, response.model_version, f"prompt blocked: {reason}")
        if usage is None and response.model_version is None:
            # The SDK drops fields it does not know, and an error object is one: what is left is nothing.
            return Reply(fault=malformed("neither an answer nor its usage in the response"))
        return Reply(usage=usage, model=response.model_version, detail="no candidate in the response")
    candidate = response.candidates[0]
    text = _text(candidate)
    reason = candidate.finish_reason.value if candidate.finish_reason else "none"
    finish = _FINISH.get(reason, "other")
    return Reply(text, finish, usage, None, response.model_version, f"finishReason {reason}", None, _tier(response))


def _read_embedding(response: Any) -> Reply:
    """Read the vector. Older models do not say how many tokens were counted."""
    from google.genai.types import EmbedContentResponse

    if not isinstance(response, EmbedContentResponse):
        return Reply(fault=malformed("the response is not an embed_content response"))
    counted = response.usage_metadata
    usage = usage_of(counted.prompt_token_count, 0) if counted is not None else None
    if not response.embeddings:
        if usage is None:
            return Reply(fault=malformed("no embedding in the response"))
        return Reply(usage=usage, detail="no embedding in the response")
    return Reply(packed(response.embeddings[0].values or ()), "stop", usage)


def _tier(response: Any) -> str | None:
    """The tier that served the call: Google says it in a header, in the body only where it has other usage to tell."""
    headers = (response.sdk_http_response.headers if response.sdk_http_response else None) or {}
    found = next((value for name, value in headers.items() if name.lower() == "x-gemini-service-tier"), None)
    return found.lower() if found else None


def _thinking(effort: str) -> Any:
    from google.genai.types import ThinkingConfig, ThinkingLevel

    if effort == "none":
        return ThinkingConfig(thinking_budget=0)
    return ThinkingConfig(thinking_level=ThinkingLevel({"max": "XHIGH"}.get(effort, effort.upper())))


def _usage(response: Any) -> Usage | None:
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
