"""Vertex AI: Gemini in a Google Cloud project."""

from collections.abc import Mapping
from typing import Any, ClassVar

from consensus_flows.blocks.cloud_credentials import VertexCredentials
from consensus_flows.blocks.credentials import ModelCredentials
from consensus_flows.tasks.calls.failures import Fault
from consensus_flows.tasks.calls.vendors.google import Google
from consensus_flows.tasks.calls.vendors.vendor import Provider, unsigned


class Vertex(Google):
    """`generate_content`, of a project at a location."""

    name = "vertex"
    kinds = frozenset({"chat"})
    blocks = (VertexCredentials,)
    providers: ClassVar[Mapping[str, Provider]] = {
        "vertex": Provider(
            VertexCredentials,
            base_url_variable="GOOGLE_VERTEX_BASE_URL",
            variables={"project": ("GOOGLE_CLOUD_PROJECT",), "location": ("GOOGLE_CLOUD_LOCATION",)},
            needs=("GOOGLE_CLOUD_PROJECT",),
            price_id="google",
        )
    }

    def has_tier(self, provider: str, credentials: ModelCredentials | None) -> bool:  # noqa: ARG002  # as for all
        """Vertex AI asks for tiers in another way."""
        return False

    def fault_of(self, error: BaseException) -> Fault:
        """Read a fault; a token that cannot be had is an exception of google-auth."""
        return unsigned(error, "google.auth") or super().fault_of(error)

    async def list_models(self, client: Any, timeout: float) -> list[str]:
        """Ask for the list of models."""
        names = await super().list_models(client, timeout)
        return [name.removeprefix("publishers/google/models/") for name in names]


VENDOR = Vertex()
