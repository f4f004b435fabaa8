"""What the loopback vendors are told to answer, and what they saw.

A :class:`Reply` is one scripted answer, a :class:`Script` the queue of answers of one model, a
:class:`SeenRequest` one request as it arrived, normalised over the three wire formats.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Vendor: TypeAlias = Literal["openai", "anthropic", "google"]
Kind: TypeAlias = Literal["chat", "embeddings", "models", "batches"]
Fault: TypeAlias = Literal["close_before", "close_mid_body", "end_early", "hang", "reset", "stall"]

CLIENT_GONE = 499
"""Status noted for a request whose client went away before it was answered."""


@dataclass(slots=True)
class SeenRequest:
    """One request as the server saw it.

    Attributes:
        vendor: Wire format; OpenAI-compatible servers are "openai".
        kind: Generation ("chat"), "embeddings", listing "models", or a request to a vendor's batch API ("batches").
        model: Model asked for; empty for a list of models; for "batches" what is done, such as "/batches/create".
        path: Path of the request without its query.
        messages: ``[{"role": "user" | "assistant" | ..., "content": text}]`` without system messages.
        system: System text, joined, or None.
        params: The JSON body as sent.
        headers: Header names in lower case.
        schema: JSON schema the answer must satisfy, if one was asked for.
        tool: Name of the tool the answer must call, if tools were offered.
        index: Position among the requests of this kind for this model, from 0.
        at: Wall-clock time of arrival, seconds since the epoch.
        status: HTTP status sent; 0 while unanswered or broken off by a fault, 499 if the client left first.
        stream: Whether the answer is to come as a stream of events.
        query: The query of the path.
        batch: Id of the batch job that it is a line of; for "batches" the id of the job or file in the path.
        cached: Tokens of its beginning that are in the vendor's prompt cache.
        written: Tokens after those that are written into it, where its vendor charges for that.
    """

    vendor: Vendor
    kind: Kind
    model: str
    path: str
    messages: list[dict[str, str]]
    system: str | None
    params: dict[str, Any]
    headers: dict[str, str]
    schema: dict[str, Any] | None = None
    tool: str | None = None
    index: int = 0
    at: float = 0.0
    status: int = 0
    stream: bool = False
    query: str = ""
    batch: str = ""
    cached: int = 0
    written: int = 0

    @property
    def prompt(self) -> str:
        """The last user message, or the last message, or nothing."""
        for message in reversed(self.messages):
            if message["role"] == "user":
                return message["content"]
        return self.messages[-1]["content"] if self.messages else ""

    @property
    def key(self) -> str:
        """The key that it was asked with."""
        headers = self.headers
        said = headers.get("x-api-key") or headers.get("x-goog-api-key") or headers.get("authorization", "")
        return said.removeprefix("Bearer ")

    @property
    def bedrock(self) -> bool:
        """Whether the path is one of Amazon Bedrock's."""
        return self.path.startswith("/model/")

    @property
    def openrouter(self) -> bool:
        """Whether the path says that an OpenRouter-like server was addressed."""
        return "openrouter" in self.path


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one answer, in terms that hold for every vendor.

    Attributes:
        input: All prompt tokens, cached ones included.
        output: All billed output tokens, reasoning included.
        cached: Prompt tokens read from a cache.
        cache_write: Prompt tokens written to a cache.
        reasoning: Output tokens spent on reasoning.
        cost: Charged amount in dollars (OpenRouter); None leaves the default.
    """

    input: int = 12
    output: int = 7
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0
    cost: float | None = None


Text: TypeAlias = str | Callable[[SeenRequest], str] | None
Body: TypeAlias = dict[str, Any] | list[Any] | str | bytes | None


@dataclass(frozen=True, slots=True)
class Reply:
    """One scripted answer.

    Attributes:
        text: Answer text, or a function of the request; None gives the deterministic default.
        delay: Seconds to wait, on top of the server's own latency.
        status: HTTP status; from 400 on, without a body, the vendor's plain error object is sent.
        headers: Headers to add; they win over the server's own.
        body: Raw body instead of the built one; ``dict`` and ``list`` are sent as JSON.
        finish: "stop", "length", "content_filter", "refusal", "tool_calls" or "context" are put into the
            vendor's words, any other value is sent verbatim.
        usage: Counts, a raw object to send as it is, "missing" to send none, None to derive them from the texts.
        fault: What to do to the connection instead of answering properly.
        tool_input: Arguments of a tool call to answer with, instead of text.
        thoughts: Visible reasoning (Anthropic thinking block, Gemini thought part, OpenRouter reasoning).
        vector: For embeddings, what a text becomes; no numbers leave the text out of the response.
        pace: Seconds between the events of a stream.
        breaks: In a stream, the error object that comes half-way in place of the rest.
    """

    text: Text = None
    delay: float = 0.0
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Body = None
    finish: str = "stop"
    usage: Usage | dict[str, Any] | Literal["missing"] | None = None
    fault: Fault | None = None
    tool_input: dict[str, Any] | None = None
    thoughts: str | None = None
    vector: Callable[[str], Sequence[float]] | None = None
    pace: float = 0.0
    breaks: dict[str, Any] | None = None


Step: TypeAlias = Reply | Callable[[SeenRequest], Reply]


def json_reply(value: object, *, delay: float = 0.0, usage: Usage | None = None) -> Reply:
    """Answer with a value as JSON text.

    Args:
        value: Anything ``json.dumps`` takes.
        delay: Seconds to wait first.
        usage: Token counts to report.

    Returns:
        The reply.
    """
    return Reply(text=json.dumps(value), delay=delay, usage=usage)


class Script:
    """The steps of one model: each request takes the next, then the default answers."""

    def __init__(self, *steps: Step, then: Step | None = None) -> None:
        """Queue the steps.

        Args:
            steps: Answers in order.
            then: What answers once they are used up; None leaves it to the server's default.
        """
        self._steps = deque(steps)
        self._then = then
        self._lock = threading.Lock()

    def next(self) -> Step | None:
        """Take the next step; None when the server's default should answer."""
        with self._lock:
            return self._steps.popleft() if self._steps else self._then

    @property
    def left(self) -> int:
        """How many steps have not been taken yet."""
        with self._lock:
            return len(self._steps)
