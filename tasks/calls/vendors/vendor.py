"""What a vendor is: how its API is asked, read and understood. The rest of the call layer knows no vendor.

There is one file for each. An installed package adds one by an entry point of the group `consensus_flows.vendors`. How to
write one is in docs/extending.md; examples/own_vendor is one.
"""

import json
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

from consensus_flows.blocks.credentials import ModelCredentials
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.tasks.calls import failures
from consensus_flows.tasks.calls.failures import Fault, Verdict, refusal_of
from consensus_flows.tasks.calls.request import CallKind, FinishReason, Message, Request
from consensus_flows.tasks.calls.vendors.batch_api import BatchAPI
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.prompts import fill
from consensus_flows.tasks.record import Attachment, Usage

GROUP = "consensus_flows.vendors"
Write = Callable[[str], Awaitable[None]]
"""Takes the next part of a text."""
MOST_TOKENS = 20_000_000
"""The most that one call can take. The largest contexts have some ten million; what is above is not a count."""
MOST_USD = 1000.0
"""The most that one call can cost. The dearest models take some hundred for the longest input and output."""


@dataclass(frozen=True)
class Provider:
    """A provider that works without a saved block.

    Attributes:
        block: Its credentials; None where none are needed.
        keys: Environment variables of its key; the first that is set counts.
        base_url: Its address, where that is not the block's own.
        base_url_variable: Environment variable of its address.
        variables: Environment variables of other fields of its credentials; the first that is set counts.
        needs: Environment variables without one of which it cannot be used; default: those of its key.
        price_id: Its name in the price table.
        self_hosted: Whether it is a server that people run themselves: it needs no key, and its answers cost nothing.
        max_concurrency: Maximum number of concurrent calls; None for the block's default.
    """

    block: type[ModelCredentials] | None
    keys: tuple[str, ...] = ()
    base_url: str | None = None
    base_url_variable: str | None = None
    variables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    price_id: str | None = None
    self_hosted: bool = False
    max_concurrency: int | None = None

    @property
    def needed(self) -> tuple[str, ...]:
        """Environment variables without one of which it cannot be used; none where it can be used without any."""
        return () if self.self_hosted else self.needs or self.keys

    def given(self, variables: Mapping[str, str | None]) -> dict[str, str]:
        """Return the fields of its credentials that environment variables hold."""
        names = {"api_key": self.keys, "base_url": (self.base_url_variable or "",), **self.variables}
        found = {name: next(filter(None, map(variables.get, all_of)), None) for name, all_of in names.items()}
        return {name: value for name, value in found.items() if value}


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
    """What the vendor reported and cannot be true: `cost`, `token usage`. It is None here."""


@dataclass(frozen=True)
class Repairs:
    """What is known of the parameters that one model refuses."""

    dropped: frozenset[str] = frozenset()
    renamed: frozenset[str] = frozenset()
    schema_mode: int = 0
    """0: the vendor's structured output; 1: its JSON mode and the schema in the prompt; 2: the prompt alone."""

    def __or__(self, other: "Repairs") -> "Repairs":
        return Repairs(
            self.dropped | other.dropped, self.renamed | other.renamed, max(self.schema_mode, other.schema_mode)
        )


class Vendor(ABC):
    """One vendor's API. A module of this folder, or an entry point, holds one instance of a subclass."""

    name: ClassVar[str]
    sdk: ClassVar[tuple[str, ...]]
    """The modules of its SDK; imported in a thread before the first call, because that takes seconds."""
    blocks: ClassVar[tuple[type[ModelCredentials], ...]] = ()
    """The credentials that lead to this vendor."""
    providers: ClassVar[Mapping[str, Provider]] = {}
    """Its built-in names, which work from environment variables."""
    kinds: ClassVar[frozenset[CallKind]] = frozenset({"chat"})
    """The kinds of calls that it answers."""
    parameters: ClassVar[Mapping[str, str | None]] = {"service_tier": None}
    """Settings whose parameter has another name here; None for a setting without one."""
    alternatives: ClassVar[Mapping[str, str]] = {}
    """Other names of parameters, tried where the first one is refused."""
    aliases: ClassVar[Mapping[str, str]] = {}
    """Names under which its errors speak of parameters."""
    schema_parameters: ClassVar[frozenset[str]] = frozenset({"response_format", "json_schema", "json_mode"})
    """Names under which its errors speak of structured output."""
    attachment_kinds: ClassVar[frozenset[str]] = frozenset()
    """What its API has a form for beside text: `image`, `pdf`."""
    image_tokens: ClassVar[int] = 10_000
    """The most tokens that an image counts, however large it is."""
    page_tokens: ClassVar[int] = 5_000
    """The most tokens that a page of a PDF counts, with its text and as an image."""
    marks_repeated: ClassVar[bool] = False
    """Whether its prompt cache keeps only what is marked in a request."""
    sent_limit: ClassVar[int | None] = None
    """The limit of output tokens that is sent for a call without one of its own; None where none is needed."""

    def batch_api(self, credentials: ModelCredentials | None) -> BatchAPI | None:  # noqa: ARG002  # for subclasses
        """Return the batch API for chats that these credentials lead to; None where there is none."""
        return None

    @abstractmethod
    def build(self, request: Request, repairs: Repairs) -> dict[str, Any]:
        """Build the arguments of the SDK's call."""

    @abstractmethod
    async def send(self, client: Any, request: Request, body: Mapping[str, Any]) -> Any:
        """Send it, once."""

    async def stream(self, client: Any, request: Request, body: Mapping[str, Any], write: Write) -> Any:  # noqa: ARG002  # for subclasses
        """Send it, once, and pass each part of the text on to `write` as it comes; here none, because not every API streams.

        Returns:
            What `send` would.

        Raises:
            ConnectionError: If the stream ends before the vendor has said why it stopped writing.
        """
        return await self.send(client, request, body)

    def stream_arguments(self, request: Request, repairs: Repairs) -> dict[str, Any]:  # noqa: ARG002  # for subclasses
        """Return the arguments by which a call is streamed."""
        return {}

    @abstractmethod
    def read(self, request: Request, body: Mapping[str, Any], response: Any) -> Reply:
        """Read the SDK's response object."""

    @abstractmethod
    async def list_models(self, client: Any, timeout: float) -> list[str]:
        """Ask for the names of all models, which is not paid for; none where a server has no such list."""

    async def sees(self, client: Any, model: str, timeout: float) -> frozenset[str] | None:  # noqa: ARG002  # for subclasses
        """Ask which kinds of attachments a model takes, which is not paid for; None where the vendor does not say."""
        return None

    def attachment_tokens(self, attachment: Attachment) -> int:
        """Return the most tokens that an attachment counts."""
        if attachment.kind == "text":  # a token a byte, as of every text
            return attachment.size
        return self.image_tokens if attachment.kind == "image" else (attachment.pages or 1) * self.page_tokens

    def fault_of(self, error: BaseException) -> Fault:
        """Read what went wrong from an exception of the SDK."""
        return failures.fault_of(error)

    def classify(self, fault: Fault) -> Verdict:
        """Say what a fault means."""
        return failures.classify(fault)

    def has_tier(self, provider: str, credentials: ModelCredentials | None) -> bool:  # noqa: ARG002  # for subclasses
        """Tell whether calls may be asked for in the flex tier, at a discount."""
        return False

    def address(self, model: str) -> str:
        """Name what answers for a provider without credentials; part of the cache key.

        Raises:
            ValueError: If nothing does.
        """
        raise ValueError(f"{self.name} needs credentials to ask {model}")

    async def find(self, model: str, token: str | None) -> None:  # noqa: B027  # for subclasses
        """Find what a model without credentials is made of, before its address is asked for.

        Args:
            model: The model.
            token: A key for where it is from; None for the environment's.

        Raises:
            ValueError: If it cannot be had.
        """

    def to_fetch(self, model: str) -> str | None:  # noqa: ARG002  # for subclasses
        """Say what must be downloaded before a model can be asked; None for nothing."""
        return None

    async def fetch(self, model: str) -> None:  # noqa: B027  # for subclasses
        """Download it.

        Raises:
            ValueError: If it cannot be downloaded.
        """

    async def client(
        self, credentials: ModelCredentials | None, model: str, kind: CallKind, max_response_mb: float
    ) -> Any:
        """Make a client."""
        if credentials is None:
            raise ValueError(f"{self.name} needs credentials to make a {kind} call to {model}")
        return credentials.get_client(max_response_mb=max_response_mb)

    @asynccontextmanager
    async def turn(self, client: Any, request: Request) -> AsyncIterator[Any]:  # noqa: ARG002  # for subclasses
        """Have everything ready for one request before its time runs; yield the client to send it with.

        Raises:
            ConfigurationError: If that is not possible.
        """
        yield client

    def load(self) -> None:
        """Import the SDK."""
        for module in self.sdk:
            import_module(module)

    def unsent(self, request: Request) -> tuple[str, ...]:
        """Name the settings of `request` for which there is no parameter here."""
        return tuple(name for name in given(request) if self.parameters.get(name, name) is None)

    def settings(self, request: Request, repairs: Repairs) -> dict[str, Any]:
        """Return the settings of `request` under the names of this vendor, without those that it has not or refuses."""
        found: dict[str, Any] = {}
        for setting, value in given(request).items():
            name = self.parameters.get(setting, setting)
            if name is not None and name not in repairs.dropped:
                found[self.alternatives[name] if name in repairs.renamed else name] = value
        return found

    def notes(self, request: Request, repairs: Repairs) -> tuple[str, ...]:
        """Say what was changed in `request`, for the answer's warnings."""
        wanted = {self.parameters.get(name, name) for name in given(request)}
        said = [f"{request.name} refuses {name}: sent without it" for name in sorted(repairs.dropped) if name in wanted]
        said += [
            f"{request.name} refuses {name}: sent as {self.alternatives[name]}"
            for name in sorted(repairs.renamed - repairs.dropped)
            if name in wanted
        ]
        if request.response_schema is not None and repairs.schema_mode:
            said.append(f"{request.name} has no structured output: the JSON schema was put into the prompt")
        return tuple(said)

    def learn(self, repairs: Repairs, fault: Fault, body: Mapping[str, Any]) -> Repairs:
        """Return what is known after `fault` answered `body`, which was built with `repairs`.

        The same object is returned when no parameter of ours was refused.
        """
        nested = [part for part in body.values() if isinstance(part, Mapping)]
        sent = frozenset({*body, *(name for part in nested for name in part)})
        name = self.refused(fault, sent)
        if name is None:
            return repairs
        if name in self.schema_parameters:
            return replace(repairs, schema_mode=min(2, repairs.schema_mode + 1))
        if name in self.alternatives and self.alternatives[name] not in sent:
            return replace(repairs, renamed=repairs.renamed | {name})
        return replace(repairs, dropped=repairs.dropped | {name})

    def refused(self, fault: Fault, sent: Collection[str]) -> str | None:
        """Return the name of the parameter that an error refuses, in our spelling, or None.

        That is a 400 or 422 that names it. Only settings and the schema may be left out: not the system prompt, and not
        what the user passes through in `extra`.

        Args:
            fault: What the vendor said.
            sent: Names of the parameters in the body.
        """
        if fault.status not in {400, 422}:
            return None
        named, refuses = refusal_of(fault)
        if not refuses:
            return None
        names = {self.parameters.get(name, name) for name in SETTINGS}
        aliases = {other: name for name, other in self.alternatives.items()} | dict(self.aliases)
        # Who speaks of "max tokens" may mean how many there are.
        known = (*names, *aliases, *self.schema_parameters)
        spoken = [name for name in known if name and "_" in name and not name.startswith("max_")]
        for word in filter(None, [named, *_mentioned(fault.message, spoken)]):
            name = aliases.get(word, word)
            if (name in self.schema_parameters and not {*self.schema_parameters, "format"}.isdisjoint(sent)) or (
                name in names and not {name, word}.isdisjoint(sent)
            ):
                return name
        return None


@cache
def all_vendors() -> dict[str, Vendor]:
    """Return every vendor by name: each module of this folder with a `VENDOR`, then those of installed packages.

    Raises:
        ConfigurationError: If an installed package's vendor cannot be loaded or takes a name that is taken.
    """
    modules = [
        import_module(f"{__package__}.{module.name}") for module in pkgutil.iter_modules([str(Path(__file__).parent)])
    ]
    found: dict[str, Vendor] = {module.VENDOR.name: module.VENDOR for module in modules if hasattr(module, "VENDOR")}
    for point in entry_points(group=GROUP):
        try:
            vendor = point.load()
        except Exception as error:
            raise ConfigurationError(
                f"the vendor {point.name!r} of {point.value!r} cannot be loaded: {error}"
            ) from None
        if not isinstance(vendor, Vendor):
            raise ConfigurationError(f"the vendor {point.name!r} of {point.value!r} is not a Vendor")
        taken = {name for one in found.values() for name in one.providers} & set(vendor.providers)
        if vendor.name in found or taken:
            raise ConfigurationError(f"the vendor {point.name!r} of {point.value!r} takes a name that is taken")
        found[vendor.name] = vendor
    return found


SETTINGS = (*(name for name in Sampling.model_fields if name != "extra"), "service_tier")
"""What may be left out of a request where a model refuses it."""


def given(request: Request) -> dict[str, Any]:
    """Return the settings of `request` that are set, by their names with us; lists in place of tuples."""
    values = {name: getattr(request.sampling, name, None) for name in SETTINGS} | {"service_tier": request.service_tier}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value not in (None, ())
    }


def _mentioned(message: str, spoken: Collection[str]) -> list[str]:
    """List the words of `message` that may name a parameter: the quoted ones first, then those that look like one."""
    quoted = re.findall(r"[\"'`]([A-Za-z][\w.]*)[\"'`]", message)
    leading = re.findall(r"\A([A-Za-z][\w.]*):", message)
    looking = re.findall(r"\b[a-z]+(?:[A-Z]\w*|_\w+)\b|\btemperature\b", message, re.ASCII)
    words = [part for word in (*quoted, *leading, *looking) for part in (word, *reversed(word.split(".")))]
    names = [re.sub(r"(?<=[a-z])([A-Z])", r"_\1", word).lower() for word in words]
    return names + [name for name in spoken if name.replace("_", " ") in message.lower()]


def schema_instruction(request: Request) -> str:
    """Return the text that asks for JSON where the server cannot be told the schema."""
    return fill("json_only", schema=json.dumps(request.response_schema, ensure_ascii=False))


Form = Callable[[Attachment], dict[str, Any]]
"""Writes an image or a PDF as a part of a turn, in a vendor's own form."""


def system_and_turns(request: Request, form: Form) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the system messages and the other turns apart.

    Args:
        request: The request.
        form: Writes files.
    """
    system = [message.content for message in request.messages if message.role == "system"]
    return system, [turn(message, form) for message in request.messages if message.role != "system"]


def turn(message: Message, form: Form) -> dict[str, Any]:
    """Return a turn; its content is a text, or parts where files belong to it, these first.

    Args:
        message: The turn.
        form: Writes files.
    """
    parts = [form(one) for one in message.attachments]
    content = [*parts, {"type": "text", "text": message.content}] if parts else message.content
    return {"role": message.role, "content": content}


def cut_off() -> ConnectionError:
    """Return the error of a stream that ended too early."""
    return ConnectionError("the stream ended before the answer did")


def unsigned(error: BaseException, package: str) -> Fault | None:
    """Return the fault of a request that was not sent for want of credentials, where the error is one of `package`."""
    if not type(error).__module__.startswith(package) or any(
        cls.__name__ == "TransportError" for cls in type(error).__mro__
    ):
        return None
    return Fault(message=f"{type(error).__name__}: {error}", transport="credentials", unsent=True)


def malformed(message: str) -> Fault:
    """Return the fault of a response of status 200 that is not what it should be."""
    return Fault(200, message=message, transport="malformed")


def field_of(whole: Any, *names: str) -> Any:
    """Return a field of a field of an SDK's object, or None where anything on the way is missing."""
    for name in names:
        whole = getattr(whole, name, None)
    return whole


def usage_of(
    input_tokens: Any, output_tokens: Any, *, cached: Any = None, written: Any = None, reasoning: Any = None
) -> Usage | None:
    """Return the tokens of a call, or None where one of them is not a number of tokens: the usage is unknown then.

    The SDKs check no types, and a wrong count would upset every budget.

    Args:
        input_tokens: All of the input, the cached one included.
        output_tokens: All of the output, reasoning included.
        cached: Input that was read from a cache; None for none.
        written: Input that was written into one; None for none.
        reasoning: Output that was reasoning; None for none.
    """
    counts = [_count(value) for value in (input_tokens, output_tokens, cached or 0, written or 0, reasoning or 0)]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts) or known[2] + known[3] > known[0]:
        return None
    return Usage(
        input_tokens=known[0],
        output_tokens=known[1],
        cached_input_tokens=known[2],
        cache_write_tokens=known[3],
        reasoning_tokens=known[4],
    )


def total(*values: Any) -> int | None:
    """Return the sum of counts that a vendor tells apart, None for none of that kind; None if one is not a count."""
    counts = [_count(value or 0) for value in values]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def charged(cost: Any) -> float | None:
    """Return what a server says a call cost, in US dollars; None where that is not an amount."""
    amount = isinstance(cost, int | float) and not isinstance(cost, bool) and isfinite(cost) and 0 <= cost <= MOST_USD
    return float(cost) if amount else None


def _count(value: Any) -> int | None:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return int(value) if whole and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS else None
