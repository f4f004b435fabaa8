"""What is asked of a model, what comes back, and the key under which it is stored: plain JSON, frozen.

A stored result names this module.
"""

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from consensus_flows.blocks.sampling import Sampling, ServiceTier
from consensus_flows.tasks.record import Attachment, Usage

Role = Literal["system", "user", "assistant"]
CallKind = Literal["chat", "completion", "embedding"]
FinishReason = Literal["stop", "length", "content_filter", "tool_calls", "other"]


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    content: str
    attachments: tuple[Attachment, ...] = Field((), exclude_if=lambda found: not found)
    """Files that this turn is about. A turn of the user's without a text gives its files to the turn after it."""

    @property
    def only_attaches(self) -> bool:
        """Whether it gives its files to the turn after it."""
        return self.role == "user" and bool(self.attachments) and not self.content


class Request(BaseModel):
    """One call of a model.

    Credentials travel by name: `provider` is looked up inside the task. What decides the answer is in the cache key;
    `label`, `timeout`, `service_tier`, `repeated` and `answer_in` are not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: str
    model: str
    messages: tuple[Message, ...] = Field(min_length=1)
    sampling: Sampling = Sampling()
    response_schema: dict[str, JsonValue] | None = None
    """JSON schema of the answer; the vendor's own structured output is used where there is one."""
    reader: str = ""
    """Name of the function in `consensus_flows.tasks.readers` that must be able to read the answer before it is stored."""
    sample: int = Field(0, ge=0)
    """Tells apart repeated samples of one question, which would otherwise share one stored answer."""
    kind: CallKind = "chat"
    """Which of the vendor's endpoints is asked: chat, legacy completions or embeddings."""

    label: str = ""
    """Name of the call in logs and in the UI, for example `openai/gpt-x #2 · iteration 1`."""
    timeout: float = Field(120.0, gt=0)
    """Seconds that one attempt may take."""
    service_tier: ServiceTier | None = None
    """The tier in which it should be served; it decides price and time, not the answer."""
    repeated: Literal["", "system", "files"] = ""
    """How much of its beginning its model was sent a short while ago: the system prompt, or the files after it too."""
    answer_in: str | None = None
    """Where in the text that is written the answer of the run stands, so that it can be read while it is written: a field of
    the JSON object, or empty for all of it. None where it may not become the answer."""

    @field_validator("messages")
    @classmethod
    def _attach(cls, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Put files into the turn that they are for: some servers refuse two turns of one side in a row."""
        made: list[Message] = []
        for message in messages:
            if made and made[-1].only_attaches and message.role == "user":
                files = (*made.pop().attachments, *message.attachments)
                made.append(message.model_copy(update={"attachments": files}))
            else:
                made.append(message)
        return tuple(made)

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """The files of all turns."""
        return tuple(one for message in self.messages for one in message.attachments)

    @property
    def name(self) -> str:
        """The model as `provider/model`."""
        return f"{self.provider}/{self.model}"

    @property
    def title(self) -> str:
        """What the call is called in the UI."""
        return self.label or self.name


VERSION = 1
"""Raised when the meaning of a stored answer changes."""

KEYED = frozenset({"provider", "model", "messages", "sampling", "response_schema", "reader", "sample", "kind"})
LEFT_OUT = frozenset({"label", "timeout", "service_tier", "repeated", "answer_in"})


def request_key(request: Request, address: str) -> str:
    """Return the key of `request` sent to `address`, as a sha256 over canonical JSON.

    Args:
        request: The request.
        address: Base URL of the provider, or the identity of local weights.
    """
    fields = request.model_dump(mode="json", include=set(KEYED), exclude_none=True)
    document = {"version": VERSION, "address": address, **fields}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"answer-{hashlib.sha256(text.encode()).hexdigest()}"


class Answer(BaseModel):
    """A complete answer, as it is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    finish_reason: FinishReason = "stop"
    model_served: str | None = None
    """The model that the provider says has answered, which may differ from the one asked."""
    usage: Usage = Usage()
    cost_usd: float | None = None
    """What the call cost when it was made; None when unknown."""
    latency_s: float = 0.0
    service_tier: str | None = None
    """The tier that the vendor says has served it, which decides the price."""
    warnings: tuple[str, ...] = ()
    """What of the request was not sent as it was asked for."""
    doubts: tuple[str, ...] = ()
    """What is odd about the response: figures that are missing or cannot be true, a key that was repeated."""
