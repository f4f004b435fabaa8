"""Which beginnings of prompts are worth keeping in a vendor's prompt cache.

OpenAI and Google find by themselves what prompts have in common. Anthropic keeps what is marked, for five minutes: writing it
costs a quarter more than reading the input as ever, and finding it costs a tenth. So a beginning is marked that has been sent
to the model within these minutes. What is too short for the model to keep (1,024 to 4,096 tokens) is read as ever.
"""

import time

from consensus_flows.tasks.calls.request import Request

KEPT_S = 300.0
"""Seconds for which a beginning is kept after it was sent last."""
LEAST = 1024
"""Characters of the shortest system prompt that may have enough tokens."""
MOST = 1000
"""Beginnings that are remembered."""

_Beginning = tuple[str, ...]
_sent: dict[tuple[str, str, _Beginning], float] = {}
"""When beginnings were last sent, by address and model, the longest ago first."""


def beginning(request: Request) -> _Beginning:
    """Return the system prompt of a request, by which requests are alike."""
    return tuple(message.content for message in request.messages if message.role == "system")


def noted(request: Request, address: str) -> Request:
    """Return a request with what of its beginning was sent to its model a short while ago, and note that it is sent now."""
    system = beginning(request)
    first = next((message for message in request.messages if message.role != "system"), None)
    files = tuple(one.sha256 for one in first.attachments) if first is not None else ()
    found = ""
    if sum(map(len, system)) >= LEAST and _was_sent((address, request.model, system)):
        found = "system"
    if files and _was_sent((address, request.model, (*system, *files))):
        found = "files"
    return request.model_copy(update={"repeated": found})


def _was_sent(key: tuple[str, str, _Beginning]) -> bool:
    now = time.monotonic()
    before = _sent.pop(key, None)  # so that it goes to the end
    _sent[key] = now
    if len(_sent) > MOST:
        del _sent[next(iter(_sent))]
    return before is not None and now - before < KEPT_S
