"""A vendor that refuses a parameter: find which one, send without it, remember it for that model."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from consensus_flows.tasks.calls.failures import Fault, refusal_of
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.prompts import fill

_SETTINGS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_tokens": "max_output_tokens",
    "max_output_tokens": "max_output_tokens",
    "stop": "stop",
    "stop_sequences": "stop",
    "seed": "seed",
    "reasoning_effort": "reasoning_effort",
    "effort": "reasoning_effort",
    "service_tier": "service_tier",
}
"""What may be left out, in the vendors' spelling, with the setting behind it. Nothing else is: not the system prompt,
not what the user passes through in `extra`."""
_ALIASES = {
    "max_completion_tokens": "max_tokens",
    "thinking_level": "reasoning_effort",
    "thinking_budget": "reasoning_effort",
    "thinking_config": "reasoning_effort",
}
_SCHEMA = frozenset(
    {"response_format", "output_config", "response_json_schema", "response_mime_type", "json_schema", "json_mode"}
)
_SPOKEN = (
    "json mode",
    "json schema",
    "thinking level",
    "thinking budget",
    "reasoning effort",
    "top p",
    "top k",
    "service tier",
)
"""Names that vendors write as words."""


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

    def learn(self, fault: Fault, body: Mapping[str, Any]) -> "Repairs":
        """Return what is known after `fault` answered `body`, which was built with these repairs.

        The same object is returned when no parameter of ours was refused.
        """
        sent = _names(body)
        name = refused_parameter(fault, sent)
        if name is None:
            return self
        if name in _SCHEMA:
            return replace(self, schema_mode=min(2, self.schema_mode + 1))
        if name == "max_tokens" and "max_completion_tokens" not in sent:
            return replace(self, renamed=self.renamed | {name})
        return replace(self, dropped=self.dropped | {name})

    def notes(self, request: Request) -> tuple[str, ...]:
        """Say what was changed in `request`, for the answer's warnings."""
        wanted = {name for name, setting in _SETTINGS.items() if _setting(request, setting) not in (None, ())}
        said = [f"{request.name} refuses {name}: sent without it" for name in sorted(self.dropped & wanted)]
        said += [
            f"{request.name} refuses {name}: sent as max_completion_tokens"
            for name in sorted((self.renamed - self.dropped) & wanted)
        ]
        if request.response_schema is not None and self.schema_mode:
            said.append(f"{request.name} has no structured output: the JSON schema was put into the prompt")
        return tuple(said)


def _setting(request: Request, name: str) -> Any:
    return request.service_tier if name == "service_tier" else getattr(request.sampling, name)


def refused_parameter(fault: Fault, sent: frozenset[str]) -> str | None:
    """Return the name of the parameter that an error refuses, in our spelling, or None.

    That is a 400 or 422 that names it; or OpenRouter's 404 where no provider of the model has the tier.

    Args:
        fault: What the vendor said.
        sent: Names of the parameters in the body.
    """
    if fault.status == 404 and "service_tier" in sent and "no endpoints" in fault.message.lower():
        return "service_tier"
    if fault.status not in {400, 422}:
        return None
    named, refuses = refusal_of(fault)
    if not refuses:
        return None
    candidates = [named, *_mentioned(fault.message)]
    if "effort" in candidates:  # named as output_config.effort, beside the format of the same object
        candidates.insert(0, "effort")
    for word in filter(None, candidates):
        name = _ALIASES.get(word, word)
        if name in _SCHEMA and sent & (_SCHEMA | {"format"}):
            # Anthropic's output_config holds the effort too.
            return "effort" if name == "output_config" and "format" not in sent and "effort" in sent else name
        if name in _SETTINGS and sent & {name, word}:
            return name
    return None


def _mentioned(message: str) -> list[str]:
    """List the words of `message` that may name a parameter: the quoted ones first, then those that look like one."""
    quoted = re.findall(r"[\"'`]([A-Za-z][\w.]*)[\"'`]", message)
    leading = re.findall(r"\A([A-Za-z][\w.]*):", message)
    looking = re.findall(r"\b[a-z]+(?:[A-Z]\w*|_\w+)\b|\btemperature\b", message, re.ASCII)
    spoken = [name.replace(" ", "_") for name in _SPOKEN if name in message.lower()]
    words = [part for word in (*quoted, *leading, *looking) for part in (word, *reversed(word.split(".")))]
    return [re.sub(r"(?<=[a-z])([A-Z])", r"_\1", word).lower() for word in words] + spoken


def _names(body: Mapping[str, Any]) -> frozenset[str]:
    nested = [part for name in ("extra_body", "output_config") if isinstance(part := body.get(name), Mapping)]
    return frozenset({*body, *(name for part in nested for name in part)})


def schema_instruction(request: Request) -> str:
    """Return the text that asks for JSON where the server cannot be told the schema."""
    return fill("json_only", schema=json.dumps(request.response_schema, ensure_ascii=False))
