"""From the name of a provider to where its calls go: a saved credentials block, or the vendor's own environment."""

import os
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import httpx
from prefect.context import AsyncClientContext
from prefect.settings.context import get_current_settings
from prefect.utilities.asyncutils import run_coro_as_sync
from pydantic import SecretStr, ValidationError

from consensus_flows.blocks.addresses import proxy_for
from consensus_flows.blocks.credentials import (
    AnthropicCredentials,
    GoogleCredentials,
    ModelCredentials,
    OpenAICompatibleCredentials,
    OpenAICredentials,
    Wire,
)
from consensus_flows.blocks.member import ModelName
from consensus_flows.tasks.errors import ConfigurationError

BLOCKS: dict[str, type[ModelCredentials]] = {
    block.get_block_type_slug(): block
    for block in (OpenAICredentials, AnthropicCredentials, GoogleCredentials, OpenAICompatibleCredentials)
}
LOCAL_CONCURRENCY = 4
REMEMBER_S = 30.0
"""Seconds for which a block that was looked up is not looked up again."""


@dataclass(frozen=True)
class BuiltIn:
    """A provider that works without a saved block, from environment variables."""

    block: type[ModelCredentials]
    keys: tuple[str, ...]
    base_url: str | None = None
    base_url_variable: str | None = None


BUILT_IN = {
    "openai": BuiltIn(OpenAICredentials, ("OPENAI_API_KEY",), base_url_variable="OPENAI_BASE_URL"),
    "anthropic": BuiltIn(AnthropicCredentials, ("ANTHROPIC_API_KEY",), base_url_variable="ANTHROPIC_BASE_URL"),
    "google": BuiltIn(
        GoogleCredentials, ("GEMINI_API_KEY", "GOOGLE_API_KEY"), base_url_variable="GOOGLE_GEMINI_BASE_URL"
    ),
    "openrouter": BuiltIn(
        OpenAICompatibleCredentials,
        ("OPENROUTER_API_KEY",),
        base_url="https://openrouter.ai/api/v1",
        base_url_variable="OPENROUTER_BASE_URL",
    ),
    "huggingface": BuiltIn(OpenAICompatibleCredentials, ("HF_TOKEN",), base_url="https://router.huggingface.co/v1"),
}
LOCAL = "local"


@dataclass(frozen=True)
class Endpoint:
    """Where the calls of one provider go.

    Attributes:
        provider: Name of the provider.
        wire: Wire format.
        address: Base URL, or the identity of local weights; part of the cache key.
        credentials: The block to make a client from; None for the local model.
    """

    provider: str
    wire: Wire
    address: str
    max_concurrency: int
    requests_per_minute: int | None = None
    credentials: ModelCredentials | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """The clear secrets to strike out of texts."""
        return self.credentials.secrets if self.credentials else ()


_saved: dict[tuple[str, str], tuple[float, ModelCredentials | None]] = {}
_checked: ContextVar[bool] = ContextVar("checked", default=False)


def _saved_key(provider: str) -> tuple[str, str]:
    return str(get_current_settings().api.url), provider


def _fresh(provider: str) -> bool:
    known = _saved.get(_saved_key(provider))
    return known is not None and (_checked.get() or time.monotonic() - known[0] <= REMEMBER_S)


async def look_up(providers: Iterable[str], *, again: bool = False) -> None:
    """Read the saved credentials of all `providers` in one request, and remember what was found.

    Args:
        providers: Names of providers.
        again: Read even what was read a moment ago.
    """
    wanted = sorted(name for name in set(providers) if again or not _fresh(name))
    if not wanted:
        return
    try:
        async with AsyncClientContext.get_or_create() as context:
            response = await context.client.request(
                "POST",
                "/block_documents/filter",
                json={"block_documents": {"name": {"any_": wanted}}, "include_secrets": True},
            )
    except (httpx.TransportError, RuntimeError) as error:
        # The server is away; a client that is being made just then has another error for it. What was read before still
        # holds: a call that can be made is not lost over it.
        away = isinstance(error, httpx.TransportError) or isinstance(error.__cause__, httpx.TransportError)
        if not away or not all(_saved_key(name) in _saved for name in wanted):
            raise
        for name in wanted:
            _saved[_saved_key(name)] = (time.monotonic(), _saved[_saved_key(name)][1])
        return
    found = _instances(response.json())
    for name in wanted:
        _saved[_saved_key(name)] = (time.monotonic(), found.get(name))


def _instances(documents: Any) -> dict[str, ModelCredentials]:
    found: dict[str, ModelCredentials] = {}
    for document in documents:
        block = BLOCKS.get((document.get("block_type") or {}).get("slug", ""))
        if block is not None:
            if document["name"] in found:
                # Block names are unique within a type only, and a guess might bill the wrong account.
                raise ConfigurationError(
                    f"two saved blocks of credentials are called {document['name']!r}: delete or rename one"
                )
            data = {name: value for name, value in document["data"].items() if name in block.model_fields}
            try:
                found[document["name"]] = block.model_validate(data)
            except ValidationError as error:
                fields = ", ".join(str(item["loc"][0]) for item in error.errors() if item["loc"]) or "a field"
                raise ConfigurationError(
                    f"the saved credentials {document['name']!r} cannot be used: check {fields}"
                ) from None
    return found


async def endpoint_of(provider: str, model: str) -> Endpoint:
    """Find where calls of `provider`/`model` go.

    Raises:
        ConfigurationError: If the provider is unknown, has no key, or its settings are not usable.
    """
    await look_up([provider])
    return _known_endpoint(provider, model)


def _known_endpoint(provider: str, model: str) -> Endpoint:
    saved = _saved[_saved_key(provider)][1]
    if saved is not None:
        return _endpoint(provider, saved)
    if provider == LOCAL:
        from consensus_flows.tasks.calls.local_model import weights_id

        try:
            return Endpoint(LOCAL, "openai", f"local:{weights_id(model)}", LOCAL_CONCURRENCY)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
    if provider in BUILT_IN:
        return _endpoint(provider, from_environment(provider))
    raise ConfigurationError(
        f"unknown provider {provider!r}: save its credentials with `consensus keys set {provider}`, "
        f"or use one of {', '.join([*BUILT_IN, LOCAL])}"
    )


def from_environment(provider: str) -> ModelCredentials:
    """Make the credentials of a built-in provider from its environment variables.

    Raises:
        ConfigurationError: If there is no key, or the base URL is not allowed.
    """
    built_in = BUILT_IN[provider]
    key = next((os.environ[name] for name in built_in.keys if os.environ.get(name)), None)
    variable = built_in.base_url_variable
    base_url = (os.environ.get(variable) if variable else None) or built_in.base_url
    if key is None:
        raise ConfigurationError(
            f"no key for {provider}: set {' or '.join(built_in.keys)}, or run `consensus keys set {provider}`"
        )
    hosts = [host.strip() for host in os.environ.get("CONSENSUS_ALLOWED_HTTP_HOSTS", "").split(",") if host.strip()]
    try:
        return built_in.block(api_key=SecretStr(key), base_url=base_url, allowed_http_hosts=hosts)
    except ValidationError as error:
        cause = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"{variable or provider}: {cause}") from None


def _endpoint(provider: str, credentials: ModelCredentials) -> Endpoint:
    try:
        proxy_for(credentials.address)
    except ValueError as error:
        raise ConfigurationError(f"{provider}: {error}") from None
    return Endpoint(
        provider,
        credentials.wire,
        credentials.address,
        credentials.max_concurrency,
        credentials.requests_per_minute,
        credentials,
    )


def address_of(provider: str, model: str) -> str:
    """Return the address of `provider`/`model`, for the cache key; blocks only when it was not looked up lately."""
    # As fresh as what the call itself goes by, or an answer would be stored under the key of another address.
    if not _fresh(provider):
        run_coro_as_sync(look_up([provider]))
    return _known_endpoint(provider, model).address


@contextmanager
def models_checked() -> Iterator[None]:
    """Let runs in the block go by what is known of their providers: whoever starts thousands has checked before.

    Nothing is read again in the block, so that a Prefect server that is away holds up no call.
    """
    token = _checked.set(True)
    try:
        yield
    finally:
        _checked.reset(token)


_EMBEDDINGS: dict[Wire, Wire] = {"openai": "openai-embeddings", "google": "google-embeddings"}


def embedding_endpoint(endpoint: Endpoint) -> Endpoint:
    """Return where texts are embedded at `endpoint`.

    Raises:
        ConfigurationError: If the provider has no embeddings.
    """
    wire = _EMBEDDINGS.get(endpoint.wire)
    if wire is None:
        raise ConfigurationError(
            f"embedding_model: {endpoint.provider} has no embeddings: name a model of OpenAI, Google, an "
            "OpenAI-compatible server or local, for example openai/text-embedding-3-small"
        )
    return replace(endpoint, wire=wire)


async def check_models(names: Collection[ModelName], embedding: ModelName | None = None) -> dict[ModelName, Endpoint]:
    """Find the endpoint of every model before the first call is paid for.

    Args:
        names: Models that are asked.
        embedding: The model that embeds texts, if there is one.

    Raises:
        ConfigurationError: Listing every model that cannot be asked, with its cause.
    """
    wanted = [*names, embedding] if embedding else [*names]
    await look_up({name.provider for name in wanted}, again=not _checked.get())
    endpoints: dict[ModelName, Endpoint] = {}
    problems: dict[str, None] = {}
    for name in dict.fromkeys(wanted):
        try:
            endpoints[name] = await endpoint_of(name.provider, name.model)
            if name == embedding:
                embedding_endpoint(endpoints[name])
        except ConfigurationError as error:
            problems[error.message] = None
    if problems:
        raise ConfigurationError("; ".join(problems))
    return endpoints
