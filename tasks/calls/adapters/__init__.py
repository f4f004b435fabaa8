"""One thin adapter a wire format: build the body, send it through the vendor's SDK, read the response."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, cast

from consensus_flows.blocks.credentials import Wire
from consensus_flows.tasks.calls.adapters.repair import Repairs
from consensus_flows.tasks.calls.failures import Fault
from consensus_flows.tasks.calls.request import FinishReason, Request
from consensus_flows.tasks.record import Usage


@dataclass(frozen=True)
class Reply:
    """What a vendor's response says, in words that are the same for all vendors.

    `fault` is set when a response of HTTP status 200 carries an error.
    """

    text: str | None = None
    finish: FinishReason = "other"
    usage: Usage | None = None
    cost_usd: float | None = None
    model: str | None = None
    detail: str = field(default="", repr=False)
    fault: Fault | None = None
    service_tier: str | None = None
    doubts: tuple[str, ...] = ()
    """What the vendor said and cannot be: `cost`, `token usage`. It is None here."""


class Adapter(Protocol):
    """The module of one wire format."""

    def body(self, request: Request, repairs: Repairs) -> dict[str, Any]:
        """Build the SDK call's arguments."""

    async def post(self, client: Any, body: Mapping[str, Any], timeout: float) -> Any:
        """Send it, once."""

    def read(self, response: Any) -> Reply:
        """Read the SDK's response object."""

    def unsent(self, request: Request) -> tuple[str, ...]:
        """Name the settings of `request` for which this wire format has no parameter."""


_MODULES: dict[Wire, str] = {
    "openai": "consensus_flows.tasks.calls.adapters.openai_chat",
    "anthropic": "consensus_flows.tasks.calls.adapters.anthropic_messages",
    "google": "consensus_flows.tasks.calls.adapters.google_generate",
    "openai-completions": "consensus_flows.tasks.calls.adapters.openai_completions",
    "openai-embeddings": "consensus_flows.tasks.calls.adapters.openai_embeddings",
    "google-embeddings": "consensus_flows.tasks.calls.adapters.google_embeddings",
}


def adapter_of(wire: Wire) -> Adapter:
    """Return the adapter of a wire format; its SDK is imported with it."""
    return cast("Adapter", import_module(_MODULES[wire]))
