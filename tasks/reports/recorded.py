"""Answers that were recorded earlier and stand in for a layer: nobody is called for them."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from consensus_flows.blocks.member import parse_model
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.json_text import parse
from consensus_flows.tasks.record import CallError, Response

PROVIDER = "reference"
"""What stands for the provider of an answer whose author names none."""


class Recorded(BaseModel):
    """Answers to one question."""

    model_config = ConfigDict(extra="forbid")

    prompt: str | None = Field(
        None, description="The question; empty for the one that is asked.", json_schema_extra={"position": 1}
    )
    answers: dict[str, str | None] = Field(
        min_length=1,
        description="What each member answered; an empty text for one that failed.",
        json_schema_extra={"position": 2},
    )

    def responses(self) -> list[Response]:
        """Return the answers as entries of a record. They cost nothing now, and what they cost then is not known."""
        return [_response(name, text) for name, text in self.answers.items()]


def numbered(texts: Sequence[str | None]) -> dict[str, str | None]:
    """Name answers whose authors are not known."""
    return {f"{PROVIDER}#{number}": text for number, text in enumerate(texts, 1)}


def recorded_answers(value: Any) -> Recorded | None:
    """Read recorded answers of one question: a list of texts, or an object of texts by member; None where there is nothing.

    Raises:
        ConfigurationError: If it is anything else.
    """
    if value is None or value == "":
        return None
    try:
        found = parse(value) if isinstance(value, str) else value  # a table holds it as JSON
        return Recorded(answers=numbered(found) if isinstance(found, list) else found)
    except ValueError:  # that of pydantic is one too
        raise ConfigurationError(
            "reference: recorded answers are a list of texts, or an object of texts by member"
        ) from None


def _response(name: str, text: str | None) -> Response:
    model, _, count = name.rpartition("#")
    if not model or not count.isdecimal():
        model, count = name, "1"
    try:
        provider, model = parse_model(model)
    except ValueError:
        provider = PROVIDER
    response = Response(
        member=name, provider=provider, model=model, instance=int(count), text=text, cost_usd=0.0, recorded=True
    )
    if text is None or not text.strip():
        response.error = CallError(kind="empty", message=f"{name}: empty: the file holds no answer")
    return response


def recorded_for(prompts: Sequence[str], references: Sequence[Recorded]) -> list[Recorded | None]:
    """Return for each of `prompts` the answers recorded for it, or None for all where there are no `references`.

    Raises:
        ConfigurationError: If there are answers, but none for one of the prompts, or several.
    """
    if not references:
        return [None] * len(prompts)
    return [_the_one(prompt, references, only=len(prompts) == 1) for prompt in prompts]


def _the_one(prompt: str, references: Sequence[Recorded], *, only: bool) -> Recorded:
    shown = repr(prompt if len(prompt) <= 60 else f"{prompt[:59]}…")
    found = [one for one in references if one.prompt is not None and one.prompt.strip() == prompt.strip()]
    if not found and only:
        found = [one for one in references if one.prompt is None]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigurationError(f"reference: {len(found)} sets of answers are recorded for {shown}: leave one")
    hint = "" if only else "; of several queries, each needs answers recorded with its own `prompt`"
    raise ConfigurationError(f"reference: no answers are recorded for {shown}{hint}")
