"""The vendors' prompt caches: OpenAI and Google keep the beginning of every long prompt, Anthropic what is marked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from .script import SeenRequest
from .wire import is_object, objects, plain

LEAST = 1024
"""Tokens of the shortest beginning that is kept."""
LEAST_OF = {"claude-haiku-4-5": 4096, "claude-opus-4-5": 4096}
"""The same of models that keep only longer ones."""
STEP = 128
"""By so many tokens beginnings differ at OpenAI."""
CHARACTERS = 4
"""Of a token."""


class PromptCache:
    """What was kept of the prompts so far."""

    def __init__(self) -> None:
        """Start empty."""
        self._kept: set[tuple[str, str, bytes]] = set()

    def count(self, seen: SeenRequest) -> None:
        """Say in a request how many of its tokens are kept, and how many its vendor charges for writing."""
        places = [place for place, key in _beginnings(seen) if (seen.vendor, seen.model, key) in self._kept]
        seen.cached = max(places, default=0)
        if seen.vendor == "anthropic":
            seen.written = max((place for place, _ in _beginnings(seen)), default=0) - seen.cached

    def keep(self, seen: SeenRequest) -> None:
        """Keep the beginnings of a request that was answered."""
        self._kept |= {(seen.vendor, seen.model, key) for _, key in _beginnings(seen)}


def _beginnings(seen: SeenRequest) -> Iterator[tuple[int, bytes]]:
    """The beginnings of a prompt that may be kept: how many tokens each has, and what it is known by."""
    whole = (seen.system or "") + "".join(message["content"] for message in seen.messages)
    if len(whole) < LEAST * CHARACTERS:
        return
    if seen.vendor == "anthropic":
        text = ""
        contents = [seen.params.get("system"), *(one.get("content") for one in objects(seen.params.get("messages")))]
        for content in contents:
            for block in content if isinstance(content, list) else [content]:
                text += plain(block)
                tokens = len(text) // CHARACTERS
                if is_object(block) and "cache_control" in block and tokens >= LEAST_OF.get(seen.model, LEAST):
                    yield tokens, hashlib.sha256(text.encode()).digest()
        return
    digest = hashlib.sha256()
    for tokens in range(STEP, len(whole) // CHARACTERS + 1, STEP):
        digest.update(whole[(tokens - STEP) * CHARACTERS : tokens * CHARACTERS].encode("utf-8", "surrogatepass"))
        if tokens >= LEAST:
            yield tokens, digest.digest()
