"""What the three wire formats share: the parts of an answer before a vendor's shape is put on it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

from .schema import example
from .script import Reply, SeenRequest, Usage

CREATED = 1_760_000_000
"""Fixed creation time, so that answers are reproducible."""

COST_PER_TOKEN = 1e-6
"""Dollars per token that OpenRouter-like answers charge when nothing else is scripted."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One resolved answer, ready to be put into a vendor's shape."""

    text: str | None
    tool: str | None
    tool_input: dict[str, Any] | None
    thoughts: str | None
    finish: str
    usage: Usage | dict[str, Any] | None

    @property
    def stop(self) -> str:
        """The finish word, turned to "tool_calls" when a normal stop carries a tool call."""
        return "tool_calls" if self.tool_input is not None and self.finish == "stop" else self.finish


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a parsed JSON value is an object."""
    return isinstance(value, dict)


def digest(*parts: str) -> str:
    """A short stable hash of some texts."""
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def tokens(text: str) -> int:
    """A rough, deterministic token count: four characters each, at least one."""
    return max(1, (len(text) + 3) // 4)


def items(value: object) -> list[object]:
    """A JSON list's items; nothing if it is no list."""
    return cast("list[object]", value) if isinstance(value, list) else []


def objects(value: object) -> list[dict[str, Any]]:
    """The objects in a JSON list; nothing if it is no list."""
    return [item for item in items(value) if is_object(item)]


def plain(content: object) -> str:
    """The text in a message's content, whether it is a string, a part or a list of parts."""
    if isinstance(content, str):
        return content
    if is_object(content):
        return str(content.get("text", ""))
    return "\n".join(filter(None, map(plain, items(content))))


def words(text: str | None) -> list[str]:
    """The pieces in which a text is streamed: words with the blanks behind them."""
    return re.findall(r"\s*\S+\s?|\s+", text or "")


def event(data: object, name: str | None = None) -> bytes:
    """One server-sent event."""
    said = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {said}\n\n".encode("utf-8", "surrogatepass")


def resolve(reply: Reply, seen: SeenRequest) -> Answer:
    """Fill in what a reply leaves open.

    Args:
        reply: The scripted or default reply.
        seen: The request it answers.

    Returns:
        The answer with text or tool call and usage settled.
    """
    mark = digest(seen.model, seen.system or "", seen.prompt)
    text = reply.text(seen) if callable(reply.text) else reply.text
    tool_input = reply.tool_input
    if text is None and tool_input is None:
        if seen.schema is None:
            text = f"{seen.model} answers {digest(seen.prompt)}"
        else:
            made = example(seen.schema, seed=mark)
            if seen.tool is not None and is_object(made):
                tool_input = made
            else:
                text = json.dumps(made)
    usage = reply.usage
    if usage is None:
        asked = tokens(seen.system or "") + sum(tokens(message["content"]) for message in seen.messages)
        said = (text or "") + ("" if tool_input is None else json.dumps(tool_input))
        thought = tokens(reply.thoughts) if reply.thoughts else 0
        usage = Usage(
            input=asked,
            output=tokens(said) + thought,
            cached=seen.cached,
            cache_write=seen.written,
            reasoning=thought,
        )
    return Answer(
        text=text,
        tool=(seen.tool or "answer") if tool_input is not None else None,
        tool_input=tool_input,
        thoughts=reply.thoughts,
        finish=reply.finish,
        usage=None if usage == "missing" else usage,
    )
