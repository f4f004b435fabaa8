"""The key under which an answer is stored: exactly the fields that decide it."""

import hashlib
import json
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext

from consensus_flows.tasks.calls.providers import Endpoint, endpoint_now
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.calls.storage import guard
from consensus_flows.tasks.errors import ConfigurationError

VERSION = 1
"""Raised when the meaning of a stored answer changes."""

KEYED = frozenset({"provider", "model", "messages", "sampling", "response_schema", "reader", "sample", "kind"})
LEFT_OUT = frozenset({"label", "timeout", "service_tier"})


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


@dataclass(frozen=True)
class Prepared:
    """What was found of a call while its key was computed, so that the call itself need not look again."""

    request: Request
    endpoint: Endpoint
    key: str


prepared: ContextVar[Prepared | None] = ContextVar("prepared", default=None)


class RequestKey(CachePolicy):
    """Cache policy of calls.

    Derived from `CachePolicy` because compound policies replace subclasses of `Inputs` and drop what they override.
    """

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],  # noqa: ARG002  # what decides the answer is in the request
        **_: Any,
    ) -> str | None:
        """Return the key of the request among the task's inputs; None when the call cannot be made anyway."""
        prepared.set(None)
        request = inputs.get("request")
        if not isinstance(request, Request):
            return None
        try:
            endpoint = endpoint_now(request.provider, request.model)
            key = request_key(request, endpoint.address)
            guard(task_ctx.result_store, key)
        except ConfigurationError:
            # Prefect would log it with a traceback and go on; the task itself raises the same before it pays.
            return None
        prepared.set(Prepared(request, endpoint, key))
        return key
