"""OpenAI, and every vendor and server that speaks its formats: OpenRouter, Groq, Mistral, vLLM, Ollama, llama.cpp."""

import json
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from consensus_flows.blocks.credentials import ModelCredentials, OpenAICompatibleCredentials, OpenAICredentials
from consensus_flows.tasks.attachments import data_url
from consensus_flows.tasks.calls.failures import Fault, refusal_of
from consensus_flows.tasks.calls.request import FinishReason, Request
from consensus_flows.tasks.calls.vendors.batch_api import BatchAPI, BatchJob, BatchLine, LineResult
from consensus_flows.tasks.calls.vendors.vendor import (
    Provider,
    Repairs,
    Reply,
    Vendor,
    Write,
    charged,
    cut_off,
    field_of,
    malformed,
    schema_instruction,
    turn,
    usage_of,
)
from consensus_flows.tasks.readers import packed
from consensus_flows.tasks.record import Attachment, Usage

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
_UNSUPPORTED = frozenset({"minLength", "maxLength", "uniqueItems", "default", "examples"})
"""Keywords that OpenAI's strict mode refuses; the reader checks them."""
_NOT_OF_COMPLETIONS = ("reasoning_effort", "service_tier")
_STREAM: dict[str, Any] = {"stream_options": {"include_usage": True}, "stream": True}
"""What asks for a stream; a server that refuses the first may still take the second."""
_CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
_MARK = "consensus"
"""Name of our mark in the metadata of a batch."""
_RUNNING = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
_FULL = "token_limit_exceeded"
_NOT_EXECUTED = frozenset({"batch_expired", "batch_cancelled"})
_OF_ANSWER = ("model", "service_tier", "usage")
"""What the chunks say beside the text."""


def _compatible(name: str, base_url: str, price_id: str) -> Provider:
    """Describe a vendor that speaks OpenAI's format, with the variables that its own SDK reads."""
    return Provider(
        OpenAICompatibleCredentials,
        (f"{name.upper()}_API_KEY",),
        base_url=base_url,
        base_url_variable=f"{name.upper()}_BASE_URL",
        price_id=price_id,
    )


def _self_hosted(name: str, port: int, max_concurrency: int | None = None) -> Provider:
    """Describe a server that people run themselves, on its usual port; one behind a proxy may ask for a key."""
    return Provider(
        OpenAICompatibleCredentials,
        (f"{name.upper()}_API_KEY",),
        base_url=f"http://127.0.0.1:{port}/v1",
        base_url_variable=f"{name.upper()}_BASE_URL",
        self_hosted=True,
        max_concurrency=max_concurrency,
    )


class OpenAIBatches(BatchAPI):
    """A file of requests, and two files of results: one of answers, one of errors."""

    most_lines = 50_000

    async def submit(self, client: Any, model: str, lines: Sequence[BatchLine], mark: str) -> BatchJob:  # noqa: ARG002  # in every line
        """Upload the lines and create the batch."""
        content = "".join(f"{json.dumps(_line(line))}\n" for line in lines).encode()
        file = await client.files.create(file=(f"{mark}.jsonl", content), purpose="batch")
        made = await client.batches.create(
            input_file_id=file.id,
            endpoint=_CHAT,
            completion_window="24h",
            metadata={_MARK: mark},
        )
        return _job(made)

    async def find(self, client: Any, mark: str, since: datetime, lines: int) -> AsyncIterator[BatchJob]:  # noqa: ARG002  # the mark is enough
        """Look for the mark in the metadata."""
        async for batch in client.batches.list(limit=100):
            if batch.created_at < since.timestamp():
                return
            if (batch.metadata or {}).get(_MARK) == mark:
                yield _job(batch)

    async def look(self, client: Any, id: str) -> BatchJob:
        """Retrieve it."""
        return _job(await client.batches.retrieve(id))

    async def cancel(self, client: Any, id: str) -> None:
        """Cancel it."""
        await client.batches.cancel(id)

    async def results(self, client: Any, job: BatchJob) -> AsyncIterator[LineResult]:
        """Read both files."""
        for file in filter(None, (job.source.output_file_id, job.source.error_file_id)):
            async with client.files.with_streaming_response.content(file) as response:
                async for text in response.iter_lines():
                    if text.strip():
                        yield _line_result(json.loads(text))


class OpenAI(Vendor):
    """Chat completions, embeddings and legacy completions."""

    name = "openai"
    sdk = ("openai", "openai.types.chat")
    blocks: ClassVar[tuple[type[ModelCredentials], ...]] = (OpenAICredentials, OpenAICompatibleCredentials)
    providers: ClassVar[Mapping[str, Provider]] = {
        "openai": Provider(
            OpenAICredentials, ("OPENAI_API_KEY",), base_url_variable="OPENAI_BASE_URL", price_id="openai"
        ),
        "openrouter": Provider(
            OpenAICompatibleCredentials,
            ("OPENROUTER_API_KEY",),
            base_url="https://openrouter.ai/api/v1",
            base_url_variable="OPENROUTER_BASE_URL",
            price_id="openrouter",
        ),
        "huggingface": Provider(
            OpenAICompatibleCredentials, ("HF_TOKEN",), base_url="https://router.huggingface.co/v1"
        ),
        "cerebras": _compatible("cerebras", "https://api.cerebras.ai/v1", "cerebras"),
        "deepseek": _compatible("deepseek", "https://api.deepseek.com/v1", "deepseek"),
        "fireworks": _compatible("fireworks", "https://api.fireworks.ai/inference/v1", "fireworks"),
        "groq": _compatible("groq", "https://api.groq.com/openai/v1", "groq"),
        "mistral": _compatible("mistral", "https://api.mistral.ai/v1", "mistral"),
        "together": _compatible("together", "https://api.together.xyz/v1", "together"),
        "xai": _compatible("xai", "https://api.x.ai/v1", "x-ai"),
        # Ollama and LM Studio queue what they cannot answer at once, while the timeout of a call runs.
        "ollama": _self_hosted("ollama", 11434, max_concurrency=4),
        "lmstudio": _self_hosted("lmstudio", 1234, max_concurrency=4),
        "vllm": _self_hosted("vllm", 8000),
    }
    kinds = frozenset({"chat", "embedding", "completion"})
    attachment_kinds = frozenset({"image", "pdf"})
    parameters: ClassVar[Mapping[str, str | None]] = {"max_output_tokens": "max_tokens"}
    alternatives: ClassVar[Mapping[str, str]] = {"max_tokens": "max_completion_tokens"}
    # OpenRouter and other gateways pass on what the vendors behind them say.
    aliases: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("thinking_level", "thinking_budget", "thinking_config"), "reasoning_effort"
    )
    schema_parameters = Vendor.schema_parameters | {"output_config", "response_json_schema", "response_mime_type"}

    def batch_api(self, credentials: ModelCredentials | None) -> BatchAPI | None:
        """OpenAI itself has one."""
        return _BATCHES if type(credentials) is OpenAICredentials else None

    def has_tier(self, provider: str, credentials: ModelCredentials | None) -> bool:
        """OpenAI has it, and OpenRouter passes it on; each bills the tier that it says it has served.

        Groq sells more calls under that name, at the full price, and other servers may answer an unknown parameter with
        an error.
        """
        if credentials is None or isinstance(credentials, OpenAICredentials):
            return credentials is not None
        host = urlsplit(credentials.address).hostname or ""
        return provider == "openrouter" or host == "openrouter.ai" or host.endswith(".openrouter.ai")

    def refused(self, fault: Fault, sent: Collection[str]) -> str | None:
        """Return the refused parameter; a 404 of OpenRouter's says that no provider of the model has the tier."""
        if fault.status == 404 and "service_tier" in sent and "no endpoints" in fault.message.lower():
            return "service_tier"
        if streaming := [name for name in _STREAM if name in sent]:
            named, refuses = refusal_of(fault)
            if fault.status == 501 or (refuses and fault.status in {400, 422}):
                said = f"{named} {fault.message}".lower()
                if found := next((name for name in streaming if name in said), None):
                    return found
        return super().refused(fault, sent)

    def fault_of(self, error: BaseException) -> Fault:
        """Read a fault; an error event in a stream is an exception without a status."""
        from openai import APIError

        return fault_in_body(error.body) if type(error) is APIError else super().fault_of(error)

    def build(self, request: Request, repairs: Repairs) -> dict[str, Any]:
        """Build the arguments; the SDK merges `extra_body` into the body that it sends."""
        if request.kind == "embedding":
            # base64 is a quarter of the bytes, and what the SDK itself asks for; a server without it sends numbers.
            return {"model": request.model, "input": request.messages[-1].content, "encoding_format": "base64"}
        settings = self.settings(request, repairs)
        if request.kind == "completion":
            # There are no roles: messages are one text, a blank line between two.
            prompt = "\n\n".join(message.content for message in request.messages)
            settings = {name: value for name, value in settings.items() if name not in _NOT_OF_COMPLETIONS}
            return {"model": request.model, "prompt": prompt, "extra_body": settings | request.sampling.extra}
        messages = [turn(message, _form) for message in request.messages]
        if request.response_schema is not None:
            if repairs.schema_mode == 0:
                schema = {"name": "answer", "schema": self.schema(request), "strict": True}
                settings["response_format"] = {"type": "json_schema", "json_schema": schema}
            else:
                messages = _with_system(messages, schema_instruction(request))
                if repairs.schema_mode == 1:
                    settings["response_format"] = {"type": "json_object"}
        return {"model": request.model, "messages": messages, "extra_body": settings | request.sampling.extra}

    def schema(self, request: Request) -> Any:
        """Return the schema of the answer as the server wants it."""
        return strict(request.response_schema)

    def unsent(self, request: Request) -> tuple[str, ...]:
        """Name what legacy completions have not; of a chat, what a server does not take, it refuses."""
        if request.kind != "completion":
            return ()
        given = {"reasoning_effort": request.sampling.reasoning_effort, "response_schema": request.response_schema}
        return tuple(name for name, value in given.items() if value is not None)

    async def send(self, client: Any, request: Request, body: Mapping[str, Any]) -> Any:
        """Send one request as it was built: the SDK's `create` goes through all of it by the types of its parameters first."""
        from openai.types import Completion, CreateEmbeddingResponse
        from openai.types.chat import ChatCompletion

        path, answer = {
            "chat": ("/chat/completions", ChatCompletion),
            "completion": ("/completions", Completion),
            "embedding": ("/embeddings", CreateEmbeddingResponse),
        }[request.kind]
        whole = {name: value for name, value in body.items() if name != "extra_body"} | body.get("extra_body", {})
        return await client.post(
            path, cast_to=answer, body=whole, options={"timeout": request.timeout, "security": {"bearer_auth": True}}
        )

    def stream_arguments(self, request: Request, repairs: Repairs) -> dict[str, Any]:
        """Ask for a stream with its usage, or as much of that as the server takes."""
        if request.kind != "chat" or "stream" in repairs.dropped:
            return {}
        return {name: value for name, value in _STREAM.items() if name not in repairs.dropped}

    async def stream(self, client: Any, request: Request, body: Mapping[str, Any], write: Write) -> Any:
        """Send one request and put its chunks together; a server that does not know of streams answers with the whole."""
        from openai.types.chat import ChatCompletion

        from consensus_flows.blocks.http_client import is_event_stream

        if "stream" not in body:
            return await self.send(client, request, body)
        chunks = await client.chat.completions.create(**body, timeout=request.timeout)
        if not is_event_stream(chunks.response):
            whole = chunks.response.json()
            return ChatCompletion.construct(**whole) if isinstance(whole, dict) else whole
        said: dict[str, list[str]] = {"content": [], "refusal": []}
        finish, last = None, dict[str, Any]()
        async with chunks:
            async for chunk in chunks:
                last |= {name: value for name, value in chunk if name in _OF_ANSWER and value is not None}
                for choice in chunk.choices or ():
                    finish = choice.finish_reason or finish
                    for part, texts in said.items():
                        text = field_of(choice.delta, part)
                        if text is not None:
                            texts.append(text)
                        if text and part == "content":
                            await write(text)
        if finish is None:
            raise cut_off()
        message = {part: "".join(texts) if texts else None for part, texts in said.items()}
        return ChatCompletion.construct(**last, choices=[{"message": message, "finish_reason": finish}])

    def read(self, request: Request, body: Mapping[str, Any], response: Any) -> Reply:
        """Read a response; what only describes the answer must not cost it, because the SDK checks no types."""
        if request.kind == "embedding":
            reply = _read_embedding(response)
        elif request.kind == "completion":
            reply = _read_completion(response, limited="max_tokens" in body["extra_body"])
        else:
            reply = _read_chat(response)
        reported = field_of(response, "usage", "cost")
        return replace(reply, doubts=("cost",)) if reported is not None and reply.cost_usd is None else reply

    async def sees(self, client: Any, model: str, timeout: float) -> frozenset[str] | None:
        """Ask OpenRouter and Mistral, whose lists of models say it; OpenRouter reads a PDF for every model."""
        if urlsplit(str(client.base_url)).hostname == "api.openai.com":
            return None
        listed = [one async for one in client.models.list(timeout=timeout) if one.id == model]
        said = (listed[0].model_extra or {}) if listed else {}
        inputs = (said.get("architecture") or {}).get("input_modalities")
        vision = (said.get("capabilities") or {}).get("vision")
        if not isinstance(inputs, list) and not isinstance(vision, bool):
            return None
        return frozenset({"pdf", *(["image"] if vision is True or "image" in (inputs or ()) else [])})

    async def list_models(self, client: Any, timeout: float) -> list[str]:
        """Ask for the list of models."""
        return [model.id async for model in client.models.list(timeout=timeout)]


VENDOR = OpenAI()
_BATCHES = OpenAIBatches()


def _line(line: BatchLine) -> dict[str, Any]:
    body = {name: value for name, value in line.body.items() if name != "extra_body"} | line.body["extra_body"]
    return {"custom_id": line.id, "method": "POST", "url": _CHAT, "body": body}


def _job(batch: Any) -> BatchJob:
    """Read a batch. One that has ended without a file that its counts speak of is late."""
    counts = batch.request_counts
    done, failed = field_of(counts, "completed") or 0, field_of(counts, "failed") or 0
    over = batch.status not in _RUNNING
    late = over and bool((done and not batch.output_file_id) or (failed and not batch.error_file_id))
    errors = field_of(batch.errors, "data") or []
    faults = [
        Fault(400, body={"error": {"code": one.code}}, message=one.message or one.code or "refused") for one in errors
    ]
    whole = faults[0] if faults else Fault(400, message="the batch failed its validation")
    return BatchJob(
        batch.id,
        ended=over and not late,
        status=batch.status,
        late=late,
        cut=batch.status in {"expired", "cancelled"},
        done=done + failed,
        fault=whole if batch.status == "failed" else None,
        full=any(one.code == _FULL for one in errors),
        refused={one.line - 1: fault for one, fault in zip(errors, faults, strict=True) if one.line},
        tokens=field_of(batch.usage, "total_tokens"),
        source=batch,
    )


def _line_result(said: dict[str, Any]) -> LineResult:
    from openai.types.chat import ChatCompletion

    of, response, error = said["custom_id"], said.get("response"), said.get("error")
    if response is None:
        if error is not None and error.get("code") in _NOT_EXECUTED:
            return LineResult(of)
        return LineResult(of, fault=fault_in_body(error or {}))
    body, status = response["body"], response["status_code"]
    if status >= 400:
        found = body.get("error") if isinstance(body, dict) else None
        message = found.get("message") if isinstance(found, dict) else None
        return LineResult(of, fault=Fault(status, body=body, message=str(message or "error")))
    return LineResult(of, response=ChatCompletion.construct(**body))


def _read_chat(response: Any) -> Reply:
    from openai.types.chat import ChatCompletion

    if not isinstance(response, ChatCompletion):
        return Reply(fault=malformed("the response is not a chat completion"))
    choice = response.choices[0] if response.choices else None
    error = _error(response, choice)
    usage, cost = _usage(response)
    if error is not None:
        # Even beside a text: what was written before generation broke is no complete answer.
        return Reply(usage=usage, cost_usd=cost, fault=fault_in_body(error))
    message = choice.message if choice is not None else None
    model, tier = (value if isinstance(value, str) else None for value in (response.model, response.service_tier))
    if choice is None or message is None:
        return Reply(usage=usage, cost_usd=cost, model=model, detail="no choice in the response")
    finish = _FINISH.get(choice.finish_reason or "", "other")
    if message.refusal:
        return Reply(None, "content_filter", usage, cost, model, message.refusal, None, tier)
    if not isinstance(message.content, str | None):
        fault = malformed("the content of the response is not text")
        return Reply(usage=usage, cost_usd=cost, model=model, fault=fault)
    detail = f"finish_reason {choice.finish_reason}"
    return Reply(message.content, finish, usage, cost, model, detail, None, tier)


def _read_completion(response: Any, *, limited: bool) -> Reply:
    """Read a completion: all but the place of the text is as in a chat completion.

    A continuation has no end of its own. One that stops at the length that was asked for is complete, not cut off.
    """
    from openai.types import Completion
    from openai.types.chat import ChatCompletion

    if not isinstance(response, Completion):
        return Reply(fault=malformed("the response is not a completion"))
    fields: dict[str, Any] = response.to_dict(mode="python")
    choices = fields.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        choice["message"] = {"role": "assistant", "content": choice.pop("text", None)}
    reply = _read_chat(ChatCompletion.construct(**fields))
    return replace(reply, finish="other") if limited and reply.finish == "length" else reply


def _read_embedding(response: Any) -> Reply:
    from openai.types import CreateEmbeddingResponse

    if not isinstance(response, CreateEmbeddingResponse):
        return Reply(fault=malformed("the response is not a list of embeddings"))
    error = (response.model_extra or {}).get("error")
    if error:
        return Reply(fault=fault_in_body(error))
    usage, cost = usage_of(field_of(response.usage, "prompt_tokens"), 0), charged(field_of(response.usage, "cost"))
    served: Any = response.model
    model = served if isinstance(served, str) else None
    if not response.data:
        return Reply(usage=usage, cost_usd=cost, model=model, detail="no embedding in the response")
    vector: Any = response.data[0].embedding
    return Reply(vector if isinstance(vector, str) else packed(vector), "stop", usage, cost, model)


def _error(response: Any, choice: Any) -> Any:
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


def _usage(response: Any) -> tuple[Usage | None, float | None]:
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


def _form(attachment: Attachment) -> dict[str, Any]:
    """Write an attachment as a part of a message."""
    if attachment.kind == "image":
        return {"type": "image_url", "image_url": {"url": data_url(attachment)}}
    return {"type": "file", "file": {"filename": attachment.name, "file_data": data_url(attachment)}}


def _with_system(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    if messages and messages[0]["role"] == "system":
        return [{"role": "system", "content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
