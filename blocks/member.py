"""The name of a model and of a member of a panel: `provider/model[:count]`."""

import re
from typing import NamedTuple

_COUNT = re.compile(r"(?P<model>.+):(?P<count>[+-]?[0-9]+)\Z", re.DOTALL)
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
            f"{text!r} names no model: write provider/model, for example openai/gpt-6-luna or local/smollm2; "
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
        text, count = found["model"], int(found["count"])
        if count < 1:
            raise ValueError(f"the count of {text!r} is {count}: it must be at least 1")
    return parse_model(text), count


def members_of(names: list[str]) -> list[Member]:
    """List every instance of the named models in order; a model named twice goes on counting."""
    seen: dict[ModelName, int] = {}
    members: list[Member] = []
    for text in names:
        name, count = parse_member(text)
        for _ in range(count):
            seen[name] = seen.get(name, 0) + 1
            members.append(Member(name, seen[name]))
    return members
