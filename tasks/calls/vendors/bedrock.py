"""Amazon Bedrock: Claude by Anthropic's Messages API, signed as AWS wants it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from consensus_flows.blocks.cloud_credentials import BedrockCredentials
from consensus_flows.tasks.calls.failures import Fault
from consensus_flows.tasks.calls.vendors.anthropic import Anthropic
from consensus_flows.tasks.calls.vendors.vendor import Provider, unsigned

_OTHER_STATUS = {424: 500}
"""A model that failed is a failed dependency to Bedrock."""


class Bedrock(Anthropic):
    """`InvokeModel` and `InvokeModelWithResponseStream`."""

    name = "bedrock"
    blocks = (BedrockCredentials,)
    providers: ClassVar[Mapping[str, Provider]] = {
        "bedrock": Provider(
            BedrockCredentials,
            ("AWS_BEARER_TOKEN_BEDROCK",),
            base_url_variable="ANTHROPIC_BEDROCK_BASE_URL",
            variables={"region": ("AWS_REGION", "AWS_DEFAULT_REGION")},
            needs=("AWS_REGION", "AWS_DEFAULT_REGION"),
            price_id="aws",
        )
    }

    def fault_of(self, error: BaseException) -> Fault:
        """Read a fault; credentials that cannot be found are an exception of botocore, or of the SDK without a type."""
        none_found = type(error) is RuntimeError and "AWS credentials" in str(error)
        found = unsigned(error, "builtins" if none_found else "botocore") or super().fault_of(error)
        return replace(found, status=_OTHER_STATUS.get(found.status or 0, found.status))

    async def list_models(self, client: Any, timeout: float) -> list[str]:  # noqa: ARG002  # nobody is asked
        """Name none: the models are listed by another API of AWS, which needs permissions of its own."""
        return []


VENDOR = Bedrock()
