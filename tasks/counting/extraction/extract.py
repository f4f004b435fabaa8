"""Reads the answer out of what members wrote. What cannot be read is an abstention: it is never a vote."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from consensus_flows.blocks.extraction import Extraction, Kind
from consensus_flows.tasks.counting.extraction.choices import chosen_label, chosen_letter
from consensus_flows.tasks.counting.extraction.json_field import field_of, written
from consensus_flows.tasks.counting.extraction.marks import exact, plain, shown
from consensus_flows.tasks.counting.extraction.numbers import (
    Exact,
    Number,
    field_number,
    is_sentence,
    signs_differ,
    stated_number,
    undecided,
    whole_number,
)
from consensus_flows.tasks.readers import UnreadableError, json_object

Value = str | Exact | tuple[str, Exact]
"""What is compared: a text, a number, or a number with its sign where the sign makes a difference."""


class Reading(NamedTuple):
    """An answer as read: two are the same answer when their `value` is equal. Numbers are compared exactly."""

    value: Value
    text: str
    """The answer as the member wrote it."""


def extract(text: str, extraction: Extraction) -> Reading | None:
    """Read the answer out of one text, or return None where it cannot be read."""
    return extract_all([text], extraction)[0]


def extract_all(texts: Sequence[str | None], extraction: Extraction) -> list[Reading | None]:
    """Read the answers out of several members' texts to one question; None where a text cannot be read, or is None.

    Each text is read for itself. Only whether the sign of a number counts is seen from all of them: `$18` is `18` unless
    another one is `€18`.

    Args:
        texts: What each member wrote.
        extraction: How it is read; `llm` reads what a model has already made of the text, as `text` does.
    """
    return _readings([None if text is None else _read(text, extraction) for text in texts])


def extract_label(label: Any, extraction: Extraction) -> Reading | None:
    """Read the right answer of a labeled row. Where a FIELD is read, the label is what should be in it."""
    if extraction.field is not None:
        return _readings([_read_field(label, extraction.kind)])[0]
    return extract(written(label), extraction)


def _read(text: str, extraction: Extraction) -> Reading | Number | None:
    if extraction.field is not None:
        return _read_field(field_of(text, extraction.field), extraction.kind)
    match extraction.kind:
        case "number":
            return stated_number(text)
        case "choice":
            return _name(chosen_letter(text, extraction.labels or None))
        case "label":
            return _name(chosen_label(text, extraction.labels))
        case "json":
            return _object(text)
        case "exact":
            return _name(exact(text.strip("\r\n")))
    return _normalised(text)


def _object(text: str) -> Reading | None:
    """Return the JSON object in a text, as one answer."""
    try:
        return _name(written(json_object(text)) or None)
    except UnreadableError:
        return None


def _read_field(value: Any, kind: Kind) -> Reading | Number | None:
    text = written(value)
    if kind == "exact":
        return None if value is None else _name(exact(text))
    # A list or an object is never the number in it.
    if kind == "json" and isinstance(value, str):
        number = field_number(text)
        if number is not None or (is_sentence(text) and undecided(text)):
            return number
    return _normalised(text)


def _normalised(text: str) -> Reading | Number | None:
    key = plain(text)
    if not key:
        return None
    number = whole_number(key)
    return Reading(key, shown(text)) if number is None else number._replace(text=shown(text))


def _readings(found: Sequence[Reading | Number | None]) -> list[Reading | None]:
    numbers = [one for one in found if isinstance(one, Number)]
    apart = signs_differ(numbers)
    return [
        Reading((one.sign, one.value) if apart else one.value, one.text) if isinstance(one, Number) else one
        for one in found
    ]


def _name(name: str | None) -> Reading | None:
    return None if name is None else Reading(name, name)
