"""Credentials of models behind a cloud's door, as Prefect blocks: Azure OpenAI, Vertex AI, Amazon Bedrock.

Each can do without a saved key: its cloud's own library finds the credentials of the machine.
"""

import json
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, SecretStr, field_validator

from consensus_flows.blocks.credentials import MAX_RESPONSE_MB, ModelCredentials

if TYPE_CHECKING:
    from anthropic import AsyncAnthropicBedrock, AsyncAnthropicVertex
    from google.genai.client import AsyncClient as AsyncGoogle
    from openai import AsyncOpenAI

__all__ = ["AnthropicVertexCredentials", "AzureOpenAICredentials", "BedrockCredentials", "VertexCredentials"]

_ENTRA_SCOPE = "https://cognitiveservices.azure.com/.default"
_GOOGLE_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
# They become part of an address, so that nothing else may be in them.
_REGION = r"^[a-z0-9-]+$"
_PROJECT = r"^[a-z0-9.:-]+$"
_VERSION = r"^[a-z0-9.-]+$"


class AzureOpenAICredentials(ModelCredentials):
    """Endpoint and key of an Azure OpenAI resource. A model is named by its deployment.

    Example:
        Load saved credentials and make a client:
        ```python
        from consensus_flows.blocks import AzureOpenAICredentials

        credentials = AzureOpenAICredentials.load("BLOCK_NAME")
        client = credentials.get_client()
        ```
    """

    _block_type_name = "Azure OpenAI Credentials"
    _block_type_slug = "azure-openai-credentials"

    base_url: str = Field(title="Endpoint", description="Endpoint of the resource: https://NAME.openai.azure.com.")
    api_key: SecretStr | None = Field(
        default=None,
        title="API key",
        description="Key of the resource. Default: Microsoft Entra ID, by DefaultAzureCredential of azure-identity.",
    )
    api_version: str | None = Field(
        default=None,
        pattern=_VERSION,
        title="API version",
        description="Version of the API, for example 2024-10-21. Default: the v1 API, which has no versions.",
    )

    @property
    def endpoint(self) -> str:
        """The address of the resource, whichever API was copied with it."""
        return re.sub(r"/openai(/v1)?$", "", self.base_url)

    @property
    def address(self) -> str:
        """The address of the API, with its version."""
        return f"{self.endpoint}/openai" + ("/v1" if self.api_version is None else f"?api-version={self.api_version}")

    def missing(self) -> str | None:
        """Name the extra that signs in without a key."""
        return "entra" if self.api_key is None and find_spec("azure") is None else None

    def get_client(self, timeout: float = 120.0, max_response_mb: float = MAX_RESPONSE_MB) -> "AsyncOpenAI":
        """Return a fresh `AsyncOpenAI` client of the v1 API, or an `AsyncAzureOpenAI` client of an API version.

        Args:
            timeout: Seconds to wait for a response.
            max_response_mb: The largest response that is read, in megabytes.
        """
        from openai import AsyncAzureOpenAI, AsyncOpenAI

        from consensus_flows.blocks.http_client import ModelClient

        key: Any = self.api_key.get_secret_value() if self.api_key else _entra_token()
        shared: dict[str, Any] = {
            "max_retries": 0,
            "timeout": timeout,
            "http_client": ModelClient(self.address, timeout=timeout, max_response_mb=max_response_mb),
        }
        if self.api_version is None:
            return AsyncOpenAI(api_key=key, base_url=self.address, **shared)
        shared["api_key" if self.api_key else "azure_ad_token_provider"] = key
        return AsyncAzureOpenAI(azure_endpoint=self.endpoint, api_version=self.api_version, **shared)


class _GoogleCloudCredentials(ModelCredentials):
    """What Gemini and Claude on Vertex AI share."""

    key_has_lines: ClassVar[bool] = True

    project: str = Field(pattern=_PROJECT, description="ID of the Google Cloud project.")
    location: str = Field(
        default="global", pattern=_REGION, description="Location that answers, for example europe-west4."
    )
    api_key: SecretStr | None = Field(
        default=None,
        title="Service account key",
        description="JSON key of a service account. Default: Application Default Credentials.",
    )

    @field_validator("api_key")
    @classmethod
    def _check_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is None or not key.get_secret_value().strip():
            return None
        try:
            fields = json.loads(key.get_secret_value())
            whole = all(isinstance(fields[name], str) for name in ("client_email", "private_key", "token_uri"))
        except (ValueError, TypeError, LookupError):
            whole = False
        if not whole:
            raise ValueError("this is not the JSON key of a service account")
        return key

    @property
    def host(self) -> str:
        """The address of the location."""
        if self.base_url:
            return self.base_url.removesuffix("/v1")  # as Anthropic's SDK wants it
        if self.location in {"us", "eu"}:
            return f"https://aiplatform.{self.location}.rep.googleapis.com"
        return f"https://{'' if self.location == 'global' else f'{self.location}-'}aiplatform.googleapis.com"

    @property
    def address(self) -> str:
        """The project's address at its location."""
        return f"{self.host}/v1/projects/{self.project}/locations/{self.location}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What of the key is secret."""
        return (json.loads(self.api_key.get_secret_value())["private_key"],) if self.api_key else ()

    def _signer(self) -> Any:
        """Return the service account's credentials of google-auth; None for those that it finds by itself."""
        if self.api_key is None:
            return None
        from google.oauth2.service_account import Credentials

        fields = json.loads(self.api_key.get_secret_value())
        return Credentials.from_service_account_info(fields, scopes=[_GOOGLE_SCOPE])  # type: ignore[no-untyped-call]


class VertexCredentials(_GoogleCloudCredentials):
    """Project and location of Gemini on Vertex AI.

    Example:
        Load saved credentials and make a client:
        ```python
        from consensus_flows.blocks import VertexCredentials

        credentials = VertexCredentials.load("BLOCK_NAME")
        client = credentials.get_client()
        ```
    """

    _block_type_name = "Vertex AI Credentials"
    _block_type_slug = "vertex-ai-credentials"

    def get_client(self, timeout: float = 120.0, max_response_mb: float = MAX_RESPONSE_MB) -> "AsyncGoogle":
        """Return a fresh async client of `google-genai` for Vertex AI.

        Args:
            timeout: Seconds to wait for a response; the SDK itself would wait for ever.
            max_response_mb: The largest response that is read, in megabytes.
        """
        from google import genai
        from google.genai.types import HttpOptions, HttpRetryOptions

        from consensus_flows.blocks.http_client import ModelClient

        options = HttpOptions(
            base_url=self.host,
            timeout=int(timeout * 1000),
            retry_options=HttpRetryOptions(attempts=1),
            httpx_async_client=ModelClient(self.address, timeout=timeout, max_response_mb=max_response_mb),
        )
        return genai.Client(
            vertexai=True,
            project=self.project,
            location=self.location,
            credentials=self._signer(),
            http_options=options,
        ).aio


class AnthropicVertexCredentials(_GoogleCloudCredentials):
    """Project and location of Claude on Vertex AI.

    Example:
        Load saved credentials and make a client:
        ```python
        from consensus_flows.blocks import AnthropicVertexCredentials

        credentials = AnthropicVertexCredentials.load("BLOCK_NAME")
        client = credentials.get_client()
        ```
    """

    _block_type_name = "Anthropic Vertex AI Credentials"
    _block_type_slug = "anthropic-vertex-ai-credentials"

    def get_client(self, timeout: float = 120.0, max_response_mb: float = MAX_RESPONSE_MB) -> "AsyncAnthropicVertex":
        """Return a fresh `AsyncAnthropicVertex` client.

        Args:
            timeout: Seconds to wait for a response.
            max_response_mb: The largest response that is read, in megabytes.
        """
        from anthropic import AsyncAnthropicVertex

        from consensus_flows.blocks.http_client import ModelClient

        return AsyncAnthropicVertex(
            region=self.location,
            project_id=self.project,
            credentials=self._signer(),
            base_url=f"{self.host}/v1",
            max_retries=0,
            timeout=timeout,
            http_client=ModelClient(self.address, timeout=timeout, max_response_mb=max_response_mb),
        )


class BedrockCredentials(ModelCredentials):
    """Region and key of Claude on Amazon Bedrock. A model is named by its model ID or inference profile.

    Example:
        Load saved credentials and make a client:
        ```python
        from consensus_flows.blocks import BedrockCredentials

        credentials = BedrockCredentials.load("BLOCK_NAME")
        client = credentials.get_client()
        ```
    """

    _block_type_name = "Amazon Bedrock Credentials"
    _block_type_slug = "amazon-bedrock-credentials"

    region: str = Field(pattern=_REGION, description="AWS region, for example us-east-1.")
    access_key_id: str | None = Field(
        default=None,
        title="Access key ID",
        description="ID of an access key, for requests that are signed with its secret access key.",
    )
    api_key: SecretStr | None = Field(
        default=None,
        title="API key",
        description="API key of Bedrock, or the secret access key of the access key ID. Default: the credentials that boto3 "
        "finds, in variables, a profile or a role.",
    )

    @property
    def address(self) -> str:
        """The address of the region; behind another one, the region still decides who answers."""
        if self.base_url:
            return f"{self.base_url}#{self.region}"
        return f"https://bedrock-runtime.{self.region}.amazonaws.com"

    def missing(self) -> str | None:
        """Name the extra that signs requests and reads streams."""
        return "bedrock" if find_spec("boto3") is None else None

    def get_client(self, timeout: float = 120.0, max_response_mb: float = MAX_RESPONSE_MB) -> "AsyncAnthropicBedrock":
        """Return a fresh `AsyncAnthropicBedrock` client.

        Args:
            timeout: Seconds to wait for a response.
            max_response_mb: The largest response that is read, in megabytes.
        """
        from anthropic import AsyncAnthropicBedrock

        from consensus_flows.blocks.http_client import ModelClient

        key = self.api_key.get_secret_value() if self.api_key else None
        client = AsyncAnthropicBedrock(
            aws_region=self.region,
            api_key=None if self.access_key_id else key,
            base_url=self.address.partition("#")[0],
            max_retries=0,
            timeout=timeout,
            http_client=ModelClient(self.address, timeout=timeout, max_response_mb=max_response_mb),
        )
        if self.access_key_id:
            # The SDK takes no access key as an argument where AWS_BEARER_TOKEN_BEDROCK is set.
            client.api_key, client.aws_access_key, client.aws_secret_key = None, self.access_key_id, key
        return client


def _entra_token() -> Any:
    """Return what gets a token of Microsoft Entra ID, without holding up the event loop. It is kept until it ends."""
    import asyncio

    from azure.identity import DefaultAzureCredential, get_bearer_token_provider

    token = get_bearer_token_provider(DefaultAzureCredential(), _ENTRA_SCOPE)
    return lambda: asyncio.to_thread(token)
