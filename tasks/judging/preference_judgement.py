"""What a member that ranks the others' answers is asked to write, and how it is read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from consensus_flows.tasks.readers import UnreadableError, excerpt, flag, json_object, reader

_DIGITS = re.compile(r"\d{1,9}")
"""A rank as a text. No more digits than anybody needs: Python refuses to read thousands."""


def preference_schema(labels: Sequence[str]) -> dict[str, JsonValue]:
    """Return the JSON schema of a ranking of the answers `labels`.

    A rank for each label, and not a list of labels: a list would have to name each once, which no vendor's schema can
    ask for, and ties need no notation of their own.
    """
    rank: JsonValue = {"type": "integer", "minimum": 1, "maximum": len(labels)}
    ranks: JsonValue = {
        "type": "object",
        "properties": dict.fromkeys(labels, rank),
        "required": list(labels),
        "additionalProperties": False,
    }
    # Not `abstain`: small models are fond of `true`, and would abstain from everything.
    properties: dict[str, JsonValue] = {"analysis": {"type": "string"}, "can_rank": {"type": "boolean"}, "ranks": ranks}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


@dataclass(frozen=True)
class Preference:
    """A ranking as read: groups of tied labels from best to worst; none for an abstention."""

    ranking: tuple[tuple[str, ...], ...]
    analysis: str = ""


@reader("preference")
def read_preference(text: str, schema: dict[str, Any] | None) -> Preference:
    """Read a ranking; `schema` tells the labels.

    Ranks decide an order and no more: 1, 2, 2, 4 and 1, 2, 2, 3 are the same.

    Raises:
        UnreadableError: If the judge does not abstain and any answer has no rank, or one that is out of range.
    """
    properties = (schema or {}).get("properties", {})
    labels: list[str] = properties.get("ranks", {}).get("required", [])
    fields = json_object(text, either=("ranks", "can_rank"))
    analysis = fields.get("analysis") or ""
    if not isinstance(analysis, str):
        raise UnreadableError("analysis must be a text")
    if not flag(fields.get("can_rank", True), "can_rank"):
        return Preference((), analysis.strip())
    ranks = _ranks(fields.get("ranks"), labels)
    groups = (tuple(label for label in labels if ranks[label] == rank) for rank in sorted(set(ranks.values())))
    return Preference(tuple(groups), analysis.strip())


def _ranks(value: Any, labels: Sequence[str]) -> dict[str, int]:
    if not isinstance(value, dict):
        raise UnreadableError("ranks must be an object with a rank for each answer")
    ranks = {str(label).strip().upper(): _rank(rank, len(labels)) for label, rank in value.items()}
    if len(ranks) < len(value) or set(ranks) != set(labels):
        raise UnreadableError(f"ranks must give each of {', '.join(labels)} one rank, and nothing else")
    return ranks


def _rank(value: Any, most: int) -> int:
    said = value
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UnreadableError(f"a rank is {excerpt(said)}: write a whole number from 1, the best, to {most}")
    return value
