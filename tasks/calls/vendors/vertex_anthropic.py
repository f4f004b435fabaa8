"""Vertex AI: Claude in a Google Cloud project."""

from collections.abc import Mapping
from typing import Any, ClassVar

from consensus_flows.blocks.cloud_credentials import AnthropicVertexCredentials
from consensus_flows.tasks.calls.failures import Fault
from consensus_flows.tasks.calls.vendors.anthropic import Anthropic
from consensus_flows.tasks.calls.vendors.vendor import Provider, unsigned


class VertexAnthropic(Anthropic):
    """Messages, of a project at a location."""

    name = "vertex-anthropic"
    blocks = (AnthropicVertexCredentials,)
    providers: ClassVar[Mapping[str, Provider]] = {
        "vertex-anthropic": Provider(
            AnthropicVertexCredentials,
            base_url_variable="ANTHROPIC_VERTEX_BASE_URL",
            variables={
                "project": ("ANTHROPIC_VERTEX_PROJECT_ID", "GOOGLE_CLOUD_PROJECT"),
                "location": ("CLOUD_ML_REGION", "GOOGLE_CLOUD_LOCATION"),
            },
            needs=("ANTHROPIC_VERTEX_PROJECT_ID", "GOOGLE_CLOUD_PROJECT"),
            price_id="google",
        )
    }

    def fault_of(self, error: BaseException) -> Fault:
        """Read a fault; a token that cannot be had is an exception of google-auth."""
        return unsigned(error, "google.auth") or super().fault_of(error)

    async def list_models(self, client: Any, timeout: float) -> list[str]:  # noqa: ARG002  # nobody is asked
        """Name none: Vertex AI lists Google's models only."""
        return []


VENDOR = VertexAnthropic()
