"""From the name of a provider to where its calls go, a saved credentials block or the vendor's own environment; and the client.

A client is kept per credentials and event loop, so that connections are reused.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from math import isfinite
from threading import Thread
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import httpx
from prefect.context import AsyncClientContext
from prefect.settings.context import get_current_settings
from prefect.utilities.asyncutils import run_coro_as_sync
from pydantic import ValidationError

from consensus_flows.blocks.addresses import checked_base_url, proxy_for
from consensus_flows.blocks.credentials import MAX_RESPONSE_MB, ModelCredentials
from consensus_flows.blocks.member import PANEL, ModelName
from consensus_flows.blocks.spelling import did_you_mean
from consensus_flows.tasks.calls.request import CallKind
from consensus_flows.tasks.calls.vendors.vendor import Provider, Vendor, all_vendors
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.record import Attachment
from consensus_flows.tasks.watch import emit

KEYLESS_CONCURRENCY = 4
HUB = "huggingface"
"""The provider whose saved key downloads models, too."""
LOOK_UP_S = 10.0
"""Seconds that a vendor has to say what a model takes."""
REMEMBER_S = 30.0
"""Seconds for which a block that was looked up is not looked up again."""


class BaseURL(NamedTuple):
    """The base URL of a provider whose key is saved: its block's own, else that of the environment."""

    url: str | None
    variable: str = ""
    """The environment variable that it is from."""
    ignored: str = ""
    """The environment variable that says otherwise."""

    def describe(self) -> str:
        """Say which of block and environment gave it, or nothing where they do not differ."""
        if self.ignored:
            return f"the base URL is that of the saved credentials, not {self.ignored}={os.environ.get(self.ignored)}"
        return f"the base URL is {self.variable}" if self.variable else ""


def base_url_of(provider: str, own: str | None) -> BaseURL:
    """Return the base URL of a provider whose saved block has `own`; one that is the provider's default was not chosen."""
    known = built_in().get(provider)
    variable = (known and known.base_url_variable) or ""
    given = os.environ.get(variable, "").strip().rstrip("/") if variable else ""
    if not given or given == own:
        return BaseURL(own)
    chosen = (
        own is not None
        and known is not None
        and own not in {known.base_url, known.block and known.block.default_base_url}
    )
    return BaseURL(own, ignored=variable) if chosen else BaseURL(given, variable)


@dataclass(frozen=True)
class Endpoint:
    """Where the calls of one provider go.

    Attributes:
        provider: Name of the provider.
        vendor: Whose API it speaks.
        address: Base URL, or the identity of local weights; part of the cache key.
        max_concurrency: Maximum number of concurrent calls; None for as many as the provider takes.
        requests_per_minute: Maximum number of calls started per minute; None for no limit.
        credentials: The block to make a client from; None where none are needed, and calls cost nothing.
        saved: Whether the credentials are a saved block.
        base_url: Where the address comes from.
    """

    provider: str
    vendor: Vendor
    address: str
    max_concurrency: int | None
    requests_per_minute: int | None = None
    credentials: ModelCredentials | None = None
    saved: bool = False
    base_url: "BaseURL" = field(default_factory=lambda: BaseURL(None))

    @property
    def is_free(self) -> bool:
        """Whether answers cost nothing where no price is given: people run the model themselves."""
        return is_self_hosted(self.provider)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The clear secrets to redact from texts."""
        return self.credentials.secrets if self.credentials else ()

    def tier(self, tier: str | None, kind: CallKind = "chat") -> str | None:
        """Return the tier that may be asked for: `tier`, or None where the vendor does not have it. It is for chats."""
        has_it = tier is not None and kind == "chat" and self.vendor.has_tier(self.provider, self.credentials)
        return tier if has_it else None


def built_in() -> dict[str, Provider]:
    """Return the providers that work without a saved block, by name."""
    return {name: provider for vendor in all_vendors().values() for name, provider in vendor.providers.items()}


def is_self_hosted(provider: str) -> bool:
    """Tell whether the models of a built-in provider run on a machine of one's own."""
    known = built_in().get(provider)
    return known is not None and (known.block is None or known.self_hosted)


def is_without_credentials(provider: str) -> bool:
    """Tell whether a built-in provider runs models in processes of this one's own."""
    known = built_in().get(provider)
    return known is not None and known.block is None


def is_keyless(provider: str) -> bool:
    """Tell whether the environment lacks what a built-in provider needs, which is mostly its key."""
    needed = built_in()[provider].needed
    return bool(needed) and not any(os.environ.get(name) for name in needed)


def credential_blocks() -> dict[str, type[ModelCredentials]]:
    """Return every type of credentials by its slug."""
    return {block.get_block_type_slug(): block for vendor in all_vendors().values() for block in vendor.blocks}


def _vendor_of(provider: str, block: type[ModelCredentials] | None) -> Vendor:
    for vendor in all_vendors().values():
        if provider in vendor.providers if block is None else block in vendor.blocks:
            return vendor
    raise ConfigurationError(f"no vendor for {provider}")


_saved: dict[tuple[str, str], tuple[float, ModelCredentials | None]] = {}
_names: dict[str, list[str]] = {}
"""The names of all saved credentials, by server, where an unknown one was asked for."""
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
    if not {*wanted} <= {*found, *built_in()}:
        async with AsyncClientContext.get_or_create() as context:
            body = {"block_types": {"slug": {"any_": sorted(credential_blocks())}}}
            response = await context.client.request("POST", "/block_documents/filter", json=body)
            _names[_saved_key("")[0]] = [document["name"] for document in response.json()]
    for name in wanted:
        _saved[_saved_key(name)] = (time.monotonic(), found.get(name))


def _instances(documents: Any) -> dict[str, ModelCredentials]:
    found: dict[str, ModelCredentials] = {}
    for document in documents:
        block = credential_blocks().get((document.get("block_type") or {}).get("slug", ""))
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


BACKOFF_S = 1.0
"""Seconds before the second try of a call; doubled each time."""


def setting(name: str, default: float) -> float:
    """Read `CONSENSUS_<name>` from the environment.

    Raises:
        ConfigurationError: If it is not a number, or is below 0.
    """
    value = os.environ.get(f"CONSENSUS_{name}")
    if not value:
        return default
    try:
        number = float(value)
    except ValueError:
        number = -1
    if not isfinite(number) or number < 0:
        raise ConfigurationError(f"CONSENSUS_{name} is {value!r}: write a number from 0 up")
    return number


async def endpoint_of(provider: str, model: str) -> Endpoint:
    """Find where calls of `provider`/`model` go.

    Raises:
        ConfigurationError: If the provider is unknown, has no key, or its settings are not usable.
    """
    await look_up([provider])
    if is_without_credentials(provider) and _saved[_saved_key(provider)][1] is None:
        await look_up([HUB])
        hub = _saved[_saved_key(HUB)][1]
        try:
            await _vendor_of(provider, None).find(model, hub.secrets[0] if hub is not None and hub.secrets else None)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
    return _known_endpoint(provider, model)


def _known_endpoint(provider: str, model: str) -> Endpoint:
    if provider == PANEL:
        raise ConfigurationError(f"{PANEL}/{model}: a saved panel cannot be used here: name a model")
    saved = _saved[_saved_key(provider)][1]
    if saved is not None:
        base_url = base_url_of(provider, saved.base_url)
        if base_url.variable:
            saved = _at(saved, base_url)
        return replace(_endpoint(provider, saved), saved=True, base_url=base_url)
    known = built_in().get(provider)
    if known is None:
        raise ConfigurationError(
            f"unknown provider {provider!r}.{did_you_mean(provider, {*built_in(), *_names.get(_saved_key('')[0], ())})} Save its "
            f"credentials with `consensus keys set {provider} --base-url URL`, or use one of {', '.join(built_in())}"
        )
    if known.block is not None:
        return _endpoint(provider, from_environment(provider))
    vendor = _vendor_of(provider, None)
    try:
        return Endpoint(provider, vendor, vendor.address(model), known.max_concurrency or KEYLESS_CONCURRENCY)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def _at(credentials: ModelCredentials, base_url: BaseURL) -> ModelCredentials:
    hosts = [*credentials.allowed_http_hosts, *_http_hosts()]
    try:
        checked = checked_base_url(base_url.url or "", hosts)
    except ValueError as error:
        raise ConfigurationError(f"{base_url.variable}: {error}") from None
    return credentials.model_copy(update={"base_url": checked, "allowed_http_hosts": hosts})


def _http_hosts() -> list[str]:
    return [host.strip() for host in os.environ.get("CONSENSUS_ALLOWED_HTTP_HOSTS", "").split(",") if host.strip()]


def from_environment(provider: str) -> ModelCredentials:
    """Make the credentials of a built-in provider from its environment variables.

    Raises:
        ConfigurationError: If there is no key, or the base URL is not allowed.
    """
    known = built_in()[provider]
    assert known.block is not None
    if is_keyless(provider):
        what = f"{provider} is not set up" if known.needs else f"no key for {provider}"
        raise ConfigurationError(f"{what}: set {' or '.join(known.needed)}, or run `consensus keys set {provider}`")
    limit = f"{provider.upper().replace('-', '_')}_REQUESTS_PER_MINUTE"
    fields: dict[str, Any] = {"base_url": known.base_url, **known.given(os.environ)}
    if os.environ.get(limit):
        fields["requests_per_minute"] = os.environ[limit]
    if known.max_concurrency is not None:
        fields["max_concurrency"] = known.max_concurrency
    try:
        return known.block(allowed_http_hosts=_http_hosts(), **fields)
    except ValidationError as error:
        first = error.errors()[0]
        field_name = str(first["loc"][0]) if first["loc"] else "base_url"
        names = {"requests_per_minute": (limit,), "api_key": known.keys, **known.variables}.get(field_name, ())
        where = next(filter(os.environ.get, names), None) or known.base_url_variable or provider
        raise ConfigurationError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None


def _endpoint(provider: str, credentials: ModelCredentials) -> Endpoint:
    if extra := credentials.missing():
        raise ConfigurationError(f"{provider} needs the extra {extra}: pip install 'consensus-flows[{extra}]'")
    try:
        proxy_for(credentials.address)
    except ValueError as error:
        raise ConfigurationError(f"{provider}: {error}") from None
    return Endpoint(
        provider,
        _vendor_of(provider, type(credentials)),
        credentials.address,
        credentials.max_concurrency,
        credentials.requests_per_minute,
        credentials,
    )


def endpoint_now(provider: str, model: str) -> Endpoint:
    """Find where calls go without waiting; blocks only when the provider was not looked up lately.

    Raises:
        ConfigurationError: As `endpoint_of`.
    """
    if not _fresh(provider):
        run_coro_as_sync(look_up([provider]))
    return _known_endpoint(provider, model)


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


def check_kind(endpoint: Endpoint, kind: CallKind) -> None:
    """Check that a vendor answers calls of a kind.

    Raises:
        ConfigurationError: If not.
    """
    if kind in endpoint.vendor.kinds:
        return
    able = [name for vendor in all_vendors().values() if kind in vendor.kinds for name in vendor.providers]
    what = {"embedding": "embeddings", "completion": "legacy completions"}.get(kind, kind)
    where = "embedding_model: " if kind == "embedding" else ""
    raise ConfigurationError(
        f"{where}{endpoint.provider} has no {what}: name a model of {', '.join(able)} or an OpenAI-compatible server"
    )


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
                check_kind(endpoints[name], "embedding")
        except ConfigurationError as error:
            problems[error.message] = None
    if problems:
        raise ConfigurationError("; ".join(problems))
    return endpoints


_seen: dict[tuple[str, str], frozenset[str]] = {}
"""The kinds of attachments that a model takes, by address and model."""


async def check_attachments(endpoints: Mapping[ModelName, Endpoint], files: Sequence[Attachment]) -> None:
    """Check that every model takes files, as far as its vendor says so.

    Raises:
        ConfigurationError: Naming the models that cannot be sent them.
    """
    kinds = {one.kind: one.name for one in files if one.kind != "text"}
    if not kinds:
        return
    takes = dict(zip(endpoints, await asyncio.gather(*(_kinds_of(*pair) for pair in endpoints.items())), strict=True))
    said = {"image": "images", "pdf": "PDFs"}
    if problems := [
        f"{name} takes no {said[kind]} ({file})"
        for kind, file in kinds.items()
        for name in takes
        if kind not in takes[name]
    ]:
        raise ConfigurationError(f"{'; '.join(problems)}: attach none, or ask another model", field="attachments")


async def _kinds_of(name: ModelName, endpoint: Endpoint) -> frozenset[str]:
    known = endpoint.vendor.attachment_kinds
    source = endpoint.address, name.model
    if known and source not in _seen:
        said = None
        # A server that does not say it, or is away, says it when it is asked the question.
        with suppress(Exception):
            client = await client_of(endpoint, name.model)
            async with asyncio.timeout(LOOK_UP_S):
                said = await endpoint.vendor.sees(client, name.model, LOOK_UP_S)
        _seen[source] = known if said is None else known & said
    return _seen.get(source, known)


def conflicts(endpoints: Iterable[Endpoint]) -> list[str]:
    """Say of which providers the saved credentials overrule the environment's base URL; not where that was checked before."""
    if _checked.get():
        return []
    return [
        f"{provider}: {where.base_url.describe()}"
        for provider, where in {one.provider: one for one in endpoints}.items()
        if where.base_url.ignored
    ]


_clients: "WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str, str], Any]]" = WeakKeyDictionary()


async def client_of(endpoint: Endpoint, model: str, kind: CallKind = "chat") -> Any:
    """Return the client for `endpoint`; a changed key or address gives a new one."""
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    if len(_clients) > 1:
        for loop in [loop for loop in _clients if loop.is_closed()]:
            # Open connections hold on to their loop, so that the weak key alone would never let go of it.
            del _clients[loop]
    digest = hashlib.sha256("\0".join(endpoint.secrets).encode()).hexdigest()
    # The local model's embeddings have a server of their own; everywhere else one connection serves all.
    key = (endpoint.provider, endpoint.address, digest if endpoint.credentials else kind)
    if key not in clients:
        most = setting("MAX_RESPONSE_MB", MAX_RESPONSE_MB)
        made = await endpoint.vendor.client(endpoint.credentials, model, kind, most)
        clients.setdefault(key, made)  # the local model takes its time to start, and a second call may be faster
    return clients[key]


async def close_clients() -> None:
    """Close every client of this event loop."""
    for client in (_clients.pop(asyncio.get_running_loop(), None) or {}).values():
        close = getattr(client, "close", None) or client.aclose
        await close()


async def load_sdks(endpoints: Iterable[Endpoint]) -> None:
    """Import the SDKs that calls will use, which takes seconds: before anything is timed. Not where that was done before."""
    if not _checked.get():
        await asyncio.gather(*(asyncio.to_thread(vendor.load) for vendor in {one.vendor for one in endpoints}))


async def prepare(endpoints: Mapping[ModelName, Endpoint]) -> None:
    """Have everything at hand before the first call: SDKs, and models that are downloaded. Not where that was done before.

    Raises:
        ConfigurationError: If a model cannot be downloaded.
    """
    if _checked.get():
        return
    await load_sdks(endpoints.values())
    for name, endpoint in endpoints.items():
        if what := endpoint.vendor.to_fetch(name.model):
            await emit("notice", f"{name}: {what}")
            try:
                await endpoint.vendor.fetch(name.model)
            except ValueError as error:
                raise ConfigurationError(str(error)) from None


def warm_up(names: Iterable[str]) -> None:
    """Start importing the SDKs and the price table that calls of the built-in providers `names` will use.

    In a thread, while the run waits for the Prefect server. A provider of the user's own is left out: which SDK it needs is
    known only when its block has been read.
    """
    providers = [name for name in dict.fromkeys(names) if name in built_in()]

    def load() -> None:
        # What fails here fails again where it is used, and is reported there.
        with suppress(Exception):
            for vendor in dict.fromkeys(_vendor_of(name, None) for name in providers):
                vendor.load()
            if any(built_in()[name].block for name in providers):
                from genai_prices import data  # noqa: F401

    Thread(target=load, name="warm-up", daemon=True).start()
