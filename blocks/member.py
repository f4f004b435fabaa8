"""The name of a model and of a member of a panel: `provider/model[:count]`."""

import math
import re
from typing import NamedTuple

# Names of Bedrock end with a version, as `-v1:0`, which is no count.
_COUNT = re.compile(r"(?P<model>.+):(?!(?<=-v[0-9]:)0\Z)(?P<count>[+-]?[0-9]+)\Z", re.DOTALL)
MOST_INSTANCES = 1000
"""Instances of one model in a panel; more is a slip of the pen, or somebody who means harm."""
PANEL = "panel"
"""The provider of saved configurations: `panel/NAME` is the run of one, and no credentials may be called so."""
_PROVIDER = re.compile(r"[a-z0-9][a-z0-9-]*\Z")


class ModelName(NamedTuple):
    """A model at a provider; `provider` names a credentials block or a built-in provider."""

    provider: str
    model: str

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"


class Member(NamedTuple):
    """One instance of a model in a panel; `instance` counts from 1 within its model."""

    name: ModelName
    instance: int

    def __str__(self) -> str:
        return f"{self.name}#{self.instance}"


def parse_model(text: str) -> ModelName:
    """Read `provider/model`.

    Raises:
        ValueError: If there is no provider or no model in it.
    """
    provider, slash, model = text.strip().partition("/")
    if not slash or not model.strip() or model.strip().startswith(":") or not _PROVIDER.match(provider):
        raise ValueError(
            f"{text!r} is not a model name: use provider/model, for example openai/gpt-6-luna or local/smollm2; "
            "the provider is lower-case letters, digits and dashes"
        )
    return ModelName(provider, model.strip())


def parse_member(text: str) -> tuple[ModelName, int]:
    """Read `provider/model[:count]`. Only an integer after the last colon is a count.

    Raises:
        ValueError: If the name cannot be read or the count is below 1.
    """
    count = 1
    if found := _COUNT.match(text.strip()):
        # Not read as a number where it is too long: it may have thousands of digits.
        text, digits = found["model"], found["count"].lstrip("+-0")
        count = int(found["count"]) if len(digits) <= len(str(MOST_INSTANCES)) else MOST_INSTANCES + 1
        if count < 1 or found["count"].startswith("-"):
            raise ValueError(f"the count of {text!r} is {found['count'][:20]}: it must be at least 1")
        if count > MOST_INSTANCES:
            raise ValueError(f"the count of {text!r} is {found['count'][:20]}: it must be at most {MOST_INSTANCES}")
    return parse_model(text), count


def named(text: str | None) -> list[ModelName]:
    """Return the model of this name; nothing where none is named."""
    return [] if text is None else [parse_member(text)[0]]


def counted(text: str, count: int) -> str:
    """Return a member with a count: its own, else `count`."""
    return text if _COUNT.match(text.strip()) else f"{text.strip()}:{count}"


def parse_price(text: str) -> tuple[str, float, float]:
    """Read `MODEL=IN/OUT`, the price of a model in US dollars for a million tokens of input and of output.

    Raises:
        ValueError: If it cannot be read.
    """
    model, equals, prices = text.strip().rpartition("=")
    try:
        read, written = (float(part) for part in prices.split("/"))
        if not (equals and model.strip() and 0 <= read < math.inf and 0 <= written < math.inf):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{text!r} is not a price: write MODEL=IN/OUT, US dollars for a million tokens of input and of output, for example "
            "my-server/llama=0.2/0.6"
        ) from None
    return model.strip(), read, written


def members_of(names: list[str]) -> list[Member]:
    """List every instance of the named models in order; a model named twice keeps counting."""
    seen: dict[ModelName, int] = {}
    members: list[Member] = []
    for text in names:
        name, count = parse_member(text)
        for _ in range(count):
            seen[name] = seen.get(name, 0) + 1
            members.append(Member(name, seen[name]))
    return members
