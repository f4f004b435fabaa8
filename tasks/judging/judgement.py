"""What an arbiter is asked to write, and how it is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import JsonValue

from consensus_flows.tasks.readers import UnreadableError, flag, json_object, reader, share, texts

Method = Literal["synthesize", "rank"]

_COMMON: dict[str, JsonValue] = {
    # A whole number, because servers enforce the range of integers and not that of fractions.
    "confidence": {"type": "integer", "minimum": 0, "maximum": 100},
    "needs_iteration": {"type": "boolean"},
    "refinement_areas": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
}


def schema_of(method: Method, labels: Sequence[str]) -> dict[str, JsonValue]:
    """Return the JSON schema of a judgement."""
    result: dict[str, JsonValue] = (
        {"synthesis": {"type": "string", "minLength": 1}}
        if method == "synthesize"
        else {
            "ranking": {
                "type": "array",
                "items": {"type": "string", "enum": list(labels)},
                "minItems": len(labels),
                "maxItems": len(labels),
            }
        }
    )
    properties = {"analysis": {"type": "string"}, "dissent": {"type": "string"}, **result, **_COMMON}
    return {
        "type": "object",
        "properties": properties,  # type: ignore[dict-item]
        "required": list(properties),
        "additionalProperties": False,
    }


@dataclass(frozen=True)
class Judgement:
    """An arbiter's answer as read."""

    confidence: float
    analysis: str
    dissent: str
    needs_iteration: bool
    refinement_areas: list[str]
    synthesis: str | None = None
    ranking: tuple[str, ...] = ()


@reader("judgement")
def read_judgement(text: str, schema: dict[str, Any] | None) -> Judgement:
    """Read an arbiter's answer; `schema` tells whether it ranks and under which labels.

    Raises:
        UnreadableError: If the judgement itself or its confidence is missing, or any field is wrong. Remarks that are
            missing are empty: nothing is decided by them.
    """
    properties = (schema or {}).get("properties", {})
    ranks = "ranking" in properties
    fields = json_object(text, ("confidence", "ranking" if ranks else "synthesis"))
    synthesis: str | None = None
    ranking: tuple[str, ...] = ()
    if ranks:
        ranking = _ranking(fields["ranking"], properties["ranking"]["items"]["enum"])
    else:
        synthesis = fields["synthesis"]
        if not isinstance(synthesis, str) or not synthesis.strip():
            raise UnreadableError("synthesis is empty")
    return Judgement(
        confidence=share(fields["confidence"]),
        analysis=_text(fields.get("analysis"), "analysis"),
        dissent=_text(fields.get("dissent"), "dissent"),
        needs_iteration=flag(fields.get("needs_iteration", False), "needs_iteration"),
        refinement_areas=texts(fields.get("refinement_areas"), "refinement_areas"),
        synthesis=synthesis,
        ranking=ranking,
    )


def _ranking(value: Any, labels: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UnreadableError("ranking must be a list of labels")
    ranking = tuple(item.strip().upper() for item in value)
    if sorted(ranking) != sorted(labels):
        raise UnreadableError(f"ranking must name each of {', '.join(labels)} once, from best to worst")
    return ranking


def _text(value: Any, field: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UnreadableError(f"{field} must be a text")
    return value.strip()
