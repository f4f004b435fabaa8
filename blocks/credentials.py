"""Credentials of model providers, as Prefect blocks. Vendor SDKs are imported when a client is first made."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from prefect.blocks.abstract import CredentialsBlock
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator, model_validator

from consensus_flows.blocks.addresses import checked_base_url
from consensus_flows.blocks.member import parse_price

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from google.genai.client import AsyncClient as AsyncGoogle
    from openai import AsyncOpenAI

__all__ = ["AnthropicCredentials", "GoogleCredentials", "OpenAICompatibleCredentials", "OpenAICredentials"]

MAX_RESPONSE_MB = 16.0
"""The largest response that is read, unpacked. The longest answers of models have one; JSON of 16 MB made to be slow takes
two seconds to parse, in which no other call continues."""

# Prefect's own picture of a secret, as `prefect.blocks.system` names it, and its pages about blocks.
_LOGO = HttpUrl(
    "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9/assets/block-logos/secret.png"
)
_DOCUMENTATION = HttpUrl("https://www.prefect.io/docs/latest/develop/blocks")


class ModelCredentials(CredentialsBlock):
    """What the credentials of every provider share."""

    # An error of pydantic quotes its input, and the input of a block holds the key.
    model_config = ConfigDict(hide_input_in_errors=True)

    _logo_url = _LOGO
    _documentation_url = _DOCUMENTATION

    default_base_url: ClassVar[str | None] = None
    key_has_lines: ClassVar[bool] = False
    """Whether the key is a text of several lines."""

    base_url: str | None = Field(
        default=None,
        title="Base URL",
        description="URL of the provider's API: https, or http to this machine. Default: the vendor's own.",
    )
    allowed_http_hosts: list[str] = Field(
        default_factory=list,
        title="Allowed http hosts",
        description="Hosts other than this machine that may receive the key over plain http.",
    )
    max_concurrency: int | None = Field(
        default=None,
        ge=1,
        title="Maximum concurrency",
        description="Maximum number of concurrent calls in each process. Default: as many as the provider takes.",
    )
    requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        title="Requests per minute",
        description="Maximum number of calls started per minute in each process.",
    )

    prices: list[str] = Field(
        default_factory=list,
        title="Prices",
        description="Price of a model, as MODEL=IN/OUT in US dollars per million input and output tokens; overrides the price table.",
    )

    @field_validator("prices")
    @classmethod
    def _check_prices(cls, prices: list[str]) -> list[str]:
        for price in prices:
            parse_price(price)
        return prices

    @field_validator("api_key", check_fields=False)
    @classmethod
    def _check_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is None:
            return None
        text = key.get_secret_value().strip()  # a key read from a file ends with a line break
        if not text and cls.model_fields["api_key"].is_required():
            raise ValueError("the key is empty")
        # An HTTP library that cannot put a key into a header says so with the key in the message.
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("the key contains whitespace or an invalid character: copy it again")
        return SecretStr(text)

    @model_validator(mode="after")
    def _check_base_url(self) -> "ModelCredentials":
        if self.base_url is not None:
            # object.__setattr__: an assignment would run this validator again.
            object.__setattr__(self, "base_url", checked_base_url(self.base_url, self.allowed_http_hosts))
        return self

    @property
    def address(self) -> str:
        """The address that requests go to; it is part of every cache key."""
        return self.base_url or self.default_base_url or ""

    @property
    def secrets(self) -> tuple[str, ...]:
        """The clear secrets of this block, so that they can be redacted from error texts."""
        key: SecretStr | None = getattr(self, "api_key", None)
        return (key.get_secret_value(),) if key is not None and key.get_secret_value() else ()

    def missing(self) -> str | None:
        """Name the extra of this package that the client needs and that is not installed, if any."""
        return None

    @abstractmethod
    def get_client(self, *args: Any, **kwargs: Any) -> Any:
        """Return a fresh async client of the vendor's SDK, with the SDK's own retries off."""


def openai_client(
    key: str, address: str, *, timeout: float = 120.0, max_response_mb: float, organization: str | None = None
) -> "AsyncOpenAI":
    """Return a fresh client of OpenAI's SDK for the server at `address`."""
    from openai import AsyncOpenAI

    from consensus_flows.blocks.http_client import ModelClient

    return AsyncOpenAI(
        api_key=key,
        base_url=address,
        organization=organization,
        max_retries=0,
        timeout=timeout,
        http_client=ModelClient(address, timeout=timeout, max_response_mb=max_response_mb),
    )


class OpenAICredentials(ModelCredentials):
    """Key for OpenAI's API.

    Example:
        Load saved credentials and make a client:
        ```python
        from consensus_flows.blocks import OpenAICredentials

        credentials = OpenAICredentials.load("BLOCK_NAME")
        client = credentials.get_client()
        ```
    """

    _block_type_name = "OpenAI Credentials"
    _block_type_slug = "openai-credentials"

    default_base_url: ClassVar[str | None] = "https://api.openai.com/v1"

    api_key: SecretStr = Field(title="API key", description="Secret key of the OpenAI project.")
    organization: str | None = Field(default=None, description="Organization to bill, if the key has several.")

    def get_client(self, timeout: float = 120.0, max_response_mb: float = MAX_RESPONSE_MB) -> "AsyncOpenAI":
        """Return a fresh `AsyncOpenAI` client.

        Args:
            timeout: Seconds to wait for a response.
            max_response_mb: The largest response that is read, in megabytes.
        """
        return openai_client(
            self.api_key.get_secret_value(),
            self.address,
            timeout=timeout,
            max_response_mb=max_response_mb,
            organization=self.organization,
        )


class OpenAICompatibleCredentials(ModelCredentials):
    """Address and key of a server that speaks OpenAI's chat completions: OpenRouter, vLLM, Ollama, llama.cpp and others.

    Example:
        Load saved credentials and make a client:
        ```python
        from consensus_flows.blocks import OpenAICompatibleCredentials

        credentials = OpenAICompatibleCredentials.load("BLOCK_NAME")
        client = credentials.get_client()
        ```
    """

    _block_type_name = "OpenAI Compatible Credentials"
    _block_type_slug = "openai-compatible-credentials"

    base_url: str = Field(
        title="Base URL", description="URL of the server's API, for example https://openrouter.ai/api/v1."
    )
    api_key: SecretStr | None = Field(
        default=None, title="API key", description="Secret key, if the server requires one."
    )

    def get_client(self, timeout: float = 120.0, max_response_mb: float = MAX_RESPONSE_MB) -> "AsyncOpenAI":
        """Return a fresh `AsyncOpenAI` client of this server.

        Args:
            timeout: Seconds to wait for a response.
            max_response_mb: The largest response that is read, in megabytes.
        """
        key = self.api_key.get_secret_value() if self.api_key else ""
        return openai_client(key or "none", self.address, timeout=timeout, max_response_mb=max_response_mb)


class AnthropicCredentials(ModelCredentials):
    """Key for Anthropic's API.

    Example:
        Load saved credentials and make a client:
        ```python
        from consensus_flows.blocks import AnthropicCredentials

        credentials = AnthropicCredentials.load("BLOCK_NAME")
        client = credentials.get_client()
        ```
    """

    _block_type_name = "Anthropic Credentials"
    _block_type_slug = "anthropic-credentials"

    default_base_url: ClassVar[str | None] = "https://api.anthropic.com"

    api_key: SecretStr = Field(title="API key", description="Secret key of the Anthropic workspace.")

    def get_client(self, timeout: float = 120.0, max_response_mb: float = MAX_RESPONSE_MB) -> "AsyncAnthropic":
        """Return a fresh `AsyncAnthropic` client.

        Args:
            timeout: Seconds to wait for a response.
            max_response_mb: The largest response that is read, in megabytes.
        """
        from anthropic import AsyncAnthropic

        from consensus_flows.blocks.http_client import ModelClient

        return AsyncAnthropic(
            api_key=self.api_key.get_secret_value(),
            base_url=self.address,
            max_retries=0,
            timeout=timeout,
            http_client=ModelClient(self.address, timeout=timeout, max_response_mb=max_response_mb),
        )


class GoogleCredentials(ModelCredentials):
    """Key for Google's Gemini API.

    Example:
        Load saved credentials and make a client:
        ```python
        from consensus_flows.blocks import GoogleCredentials

        credentials = GoogleCredentials.load("BLOCK_NAME")
        client = credentials.get_client()
        ```
    """

    _block_type_name = "Google Gemini Credentials"
    _block_type_slug = "google-gemini-credentials"

    default_base_url: ClassVar[str | None] = "https://generativelanguage.googleapis.com"

    api_key: SecretStr = Field(title="API key", description="Secret key of the Gemini API.")

    def get_client(self, timeout: float = 120.0, max_response_mb: float = MAX_RESPONSE_MB) -> "AsyncGoogle":
        """Return a fresh async client of `google-genai`.

        Args:
            timeout: Seconds to wait for a response; the SDK itself would wait for ever.
            max_response_mb: The largest response that is read, in megabytes.
        """
        from google import genai
        from google.genai.types import HttpOptions, HttpRetryOptions

        from consensus_flows.blocks.http_client import ModelClient

        options = HttpOptions(
            base_url=self.address,
            timeout=int(timeout * 1000),
            retry_options=HttpRetryOptions(attempts=1),
            # With a client of ours the SDK does not take aiohttp, where that is installed.
            httpx_async_client=ModelClient(self.address, timeout=timeout, max_response_mb=max_response_mb),
        )
        return genai.Client(api_key=self.api_key.get_secret_value(), vertexai=False, http_options=options).aio
