"""Azure OpenAI: OpenAI's formats, models named by their deployment."""

from collections.abc import Mapping
from typing import Any, ClassVar

from consensus_flows.blocks.cloud_credentials import AzureOpenAICredentials
from consensus_flows.tasks.calls.failures import Fault
from consensus_flows.tasks.calls.vendors.openai import OpenAI
from consensus_flows.tasks.calls.vendors.vendor import Provider, unsigned


class Azure(OpenAI):
    """The v1 API of a resource, or an older one by its version."""

    name = "azure"
    blocks = (AzureOpenAICredentials,)
    providers: ClassVar[Mapping[str, Provider]] = {
        "azure": Provider(
            AzureOpenAICredentials,
            ("AZURE_OPENAI_API_KEY",),
            base_url_variable="AZURE_OPENAI_ENDPOINT",
            variables={"api_version": ("OPENAI_API_VERSION",)},
            needs=("AZURE_OPENAI_ENDPOINT",),
            price_id="azure",
        )
    }

    def fault_of(self, error: BaseException) -> Fault:
        """Read a fault; a token that cannot be had is an exception of azure-identity."""
        return unsigned(error, "azure") or super().fault_of(error)

    async def list_models(self, client: Any, timeout: float) -> list[str]:  # noqa: ARG002  # nobody is asked
        """Name none: Azure lists what may be deployed, and not what is."""
        return []


VENDOR = Azure()
