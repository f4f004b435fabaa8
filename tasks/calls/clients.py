"""One SDK client per credentials and event loop, so that connections are reused."""

import asyncio
import hashlib
from typing import Any
from weakref import WeakKeyDictionary

from consensus_flows.blocks.credentials import MAX_RESPONSE_MB, openai_client
from consensus_flows.tasks.calls.providers import Endpoint
from consensus_flows.tasks.calls.settings import setting

_clients: "WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str, str], Any]]" = WeakKeyDictionary()


async def client_of(endpoint: Endpoint, model: str) -> Any:
    """Return the client for `endpoint`; a changed key or address gives a new one."""
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    if len(_clients) > 1:
        for loop in [loop for loop in _clients if loop.is_closed()]:
            # Open connections hold on to their loop, so that the weak key alone would never let go of it.
            del _clients[loop]
    digest = hashlib.sha256("\0".join(endpoint.secrets).encode()).hexdigest()
    # The local model's embeddings have a server of their own; everywhere else one connection serves all.
    key = (endpoint.provider, endpoint.address, digest if endpoint.credentials else endpoint.wire)
    if key not in clients:
        made = await _make(endpoint, model)
        clients.setdefault(key, made)  # the local model takes its time to start, and a second call may be faster
    return clients[key]


async def _make(endpoint: Endpoint, model: str) -> Any:
    max_response_mb = setting("MAX_RESPONSE_MB", MAX_RESPONSE_MB)
    if endpoint.credentials is not None:
        return endpoint.credentials.get_client(max_response_mb=max_response_mb)
    from consensus_flows.tasks.calls.local_model import alocal_base_url

    base_url = await alocal_base_url(model, embedding=endpoint.wire == "openai-embeddings")
    return openai_client("none", base_url, max_response_mb=max_response_mb)


async def close_clients() -> None:
    """Close every client of this event loop."""
    for client in (_clients.pop(asyncio.get_running_loop(), None) or {}).values():
        close = getattr(client, "close", None) or client.aclose
        await close()
