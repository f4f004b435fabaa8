"""A vendor that refuses a parameter: find which one, send without it, remember it for that model."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field

from tasks.failures import Fault, refusal_of
from tasks.prompts import fill
from tasks.request import Request

_ALIASES = {
    "max_completion_tokens": "max_tokens",
    "json_schema": "response_format",
    "thinking_level": "reasoning_effort",
    "thinking_config": "reasoning_effort",
}
_SCHEMA = frozenset({"response_format", "output_config", "response_json_schema"})


@dataclass
class Repairs:
    """What is known of the parameters that one model refuses."""

    dropped: set[str] = field(default_factory=set)
    renamed: set[str] = field(default_factory=set)
    schema_mode: int = 0
    """0: the vendor's structured output; 1: its JSON mode and the schema in the prompt; 2: the prompt alone."""

    def learn(self, fault: Fault, sent: Collection[str]) -> bool:
        """Remember the parameter that `fault` refuses, if it is one of those sent.

        Returns:
            Whether sending again makes sense.
        """
        name = refused_parameter(fault, sent)
        if name is None:
            return False
        if name in _SCHEMA:
            self.schema_mode += 1
        elif name == "max_tokens" and name not in self.renamed:
            self.renamed.add(name)
        else:
            self.dropped.add(name)
        return True

    def notes(self, request: Request) -> tuple[str, ...]:
        """Say what was changed in `request`, for the answer's warnings."""
        said = [f"{request.name} refuses {name}: sent without it" for name in sorted(self.dropped)]
        if request.response_schema is not None and self.schema_mode:
            said.append(f"{request.name} has no structured output: the JSON schema was put into the prompt")
        return tuple(said)


def refused_parameter(fault: Fault, sent: Collection[str]) -> str | None:
    """Return the name of the parameter that a 400 or 422 refuses, in our spelling, or None."""
    if fault.status not in {400, 422}:
        return None
    named, refuses = refusal_of(fault)
    if not refuses:
        return None
    words = [re.sub(r"(?<=[a-z])([A-Z])", r"_\1", word).lower() for word in re.findall(r"[A-Za-z][A-Za-z_]+", fault.message)]
    candidates = [word for word in (named, *words) if word]
    if "effort" in candidates:  # named as output_config.effort, beside the format of the same object
        candidates.insert(0, "effort")
    for word in candidates:
        name = _ALIASES.get(word, word)
        if name in sent or word in sent:
            return name
    return None


def schema_instruction(request: Request) -> str:
    """Return the text that asks for JSON where the server cannot be told the schema."""
    return fill("json_only", schema=json.dumps(request.response_schema, ensure_ascii=False))
