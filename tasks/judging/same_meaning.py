"""Finds out which of several readings are one answer in other words, with a model, so that they are counted together.

A model and not embeddings: the vectors of short answers lie close together where they differ in the one thing that
counts, as 12 and 13 or `before 1900` and `after 1900` do. The model only groups what was read. It cannot add an answer,
and it does not see who gave which, or how many did.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.counting.extraction.extract import Reading, Value
from consensus_flows.tasks.judging.bench import Bench
from consensus_flows.tasks.judging.fence import fenced
from consensus_flows.tasks.judging.hearing import hear
from consensus_flows.tasks.plain_text import labels
from consensus_flows.tasks.readers import UnreadableError, json_object, reader
from consensus_flows.tasks.record import Response


def same_schema(names: Sequence[str]) -> dict[str, JsonValue]:
    """Return the JSON schema of the answer: for each label itself, or one before it."""
    properties: dict[str, JsonValue] = {
        name: {"type": "string", "enum": list(names[: place + 1])} for place, name in enumerate(names)
    }
    same: JsonValue = {
        "type": "object",
        "properties": properties,
        "required": list(names),
        "additionalProperties": False,
    }
    return {"type": "object", "properties": {"same_as": same}, "required": ["same_as"], "additionalProperties": False}


@reader("same_meaning")
def read_same(text: str, schema: dict[str, Any] | None) -> dict[str, str]:
    """Read for each label which one before it is the same; `schema` tells the labels.

    Raises:
        UnreadableError: If a label is missing, or is said to be the same as one that does not come before it.
    """
    properties = (schema or {}).get("properties", {})
    wanted: list[str] = properties.get("same_as", {}).get("required", [])
    said = json_object(text, ("same_as",))["same_as"]
    if not isinstance(said, dict) or set(said) != set(wanted):
        raise UnreadableError(f"same_as must give each of {', '.join(wanted)} a label, and nothing else")
    for place, name in enumerate(wanted):
        if said[name] not in wanted[: place + 1]:
            raise UnreadableError(f"same_as of {name} must be {name} or a label before it")
    return said


def distinct(readings: Sequence[Reading | None]) -> list[Reading]:
    """List the different readings, in the order of the first member that gave each."""
    found: dict[Value, Reading] = {}
    for reading in readings:
        if reading is not None:
            found.setdefault(reading.value, reading)
    return list(found.values())


def comparable(readings: Sequence[Reading]) -> bool:
    """Tell whether any two of different readings might be one answer; two numbers that differ are never."""
    return len(readings) > 1 and any(isinstance(reading.value, str) for reading in readings)


def grouped(readings: Sequence[Reading], said: Mapping[str, str]) -> dict[Value, Reading]:
    """Return for each reading the one that stands for its group: the first.

    Numbers that differ stay apart, whatever was said.

    Args:
        readings: Different readings, in the order of their labels.
        said: For each label itself, or one before it.
    """
    first: dict[str, Reading] = {}
    numbers: dict[Value, Value] = {}
    for name, reading in zip(said, readings, strict=True):
        head = first.get(said[name], reading)
        number = None if isinstance(reading.value, str) else reading.value
        if number is not None and numbers.setdefault(head.value, number) != number:
            head = reading
            numbers[head.value] = number
        first[name] = head
    return {reading.value: first[name] for name, reading in zip(said, readings, strict=True)}


async def same_by_model(
    readings: Sequence[Reading], bench: Bench, call: Call
) -> tuple[dict[Value, Reading] | None, list[Response]]:
    """Ask a model which of several different readings are the same answer.

    Args:
        readings: Different readings, two or more.
        bench: The model that compares, and what it knows of the question.
        call: Makes the calls.

    Returns:
        For each reading's value the reading that stands for its group, or None where the model could not be read; and
        every call made for it.
    """
    names = labels(len(readings))
    shown = fenced(dict(zip(names, (reading.text for reading in readings), strict=True)), bench.seed)
    request = bench.request(
        "same_meaning",
        same_schema(names),
        "same_meaning",
        f"extractor {bench.model} · {len(names)} readings",
        count=len(names),
        answers=shown,
        labels=", ".join(names),
    )
    said, calls = await hear(request, call, read_same, member=f"{bench.model} compares {len(names)} readings")
    if said is None:
        return None, calls
    return grouped(readings, {name: said[name] for name in names}), calls
