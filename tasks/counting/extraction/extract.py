"""Reads the answer out of what members wrote. What cannot be read is an abstention: it is never a vote."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from consensus_flows.blocks.extraction import Extraction
from consensus_flows.tasks.counting.extraction.choices import chosen_label, chosen_letter
from consensus_flows.tasks.counting.extraction.json_field import field_of, written
from consensus_flows.tasks.counting.extraction.marks import plain, shown
from consensus_flows.tasks.counting.extraction.numbers import (
    Exact,
    Number,
    field_number,
    signs_differ,
    stated_number,
    whole_number,
)

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

    A JSON field is a number or a text, and which of them the question is about is seen from all its answers: if at
    least half of them are one number, alone or with a unit, then each of the others ("cannot be determined") is an
    abstention. Otherwise they are compared as texts. `text:FIELD` always compares texts.

    Args:
        texts: What each member wrote.
        extraction: How it is read; `llm` reads what a model has already made of the text, as `text` does.
    """
    if extraction.kind == "json":
        return _readings(_fields([None if text is None else field_of(text, extraction.field or "") for text in texts]))
    return _readings([None if text is None else _read(text, extraction) for text in texts])


def _normalised(text: str) -> Reading | Number | None:
    key = plain(text)
    if not key:
        return None
    number = whole_number(key)
    return Reading(key, shown(text)) if number is None else number._replace(text=shown(text))


def _read(text: str, extraction: Extraction) -> Reading | Number | None:
    match extraction.kind:
        case "number":
            return stated_number(text)
        case "choice":
            return _name(chosen_letter(text))
        case "label":
            return _name(chosen_label(text, extraction.labels))
        case "text" if extraction.field is not None:
            return _normalised(written(field_of(text, extraction.field)))
    return _normalised(text)


def _fields(values: Sequence[Any]) -> Sequence[Reading | Number | None]:
    texts = [written(value) for value in values]
    given = [text for text in texts if text]
    # A list or an object is never the number in it.
    numbers = [
        field_number(text) if isinstance(value, str) else None for value, text in zip(values, texts, strict=True)
    ]
    if 2 * sum(number is not None for number in numbers) >= max(1, len(given)):
        return numbers
    return [_normalised(text) for text in texts]


def _readings(found: Sequence[Reading | Number | None]) -> list[Reading | None]:
    numbers = [one for one in found if isinstance(one, Number)]
    apart = signs_differ(numbers)
    return [
        Reading((one.sign, one.value) if apart else one.value, one.text) if isinstance(one, Number) else one
        for one in found
    ]


def _name(name: str | None) -> Reading | None:
    return None if name is None else Reading(name, name)
