"""Reads the answer out of what members wrote. What cannot be read is an abstention: it is never a vote."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from blocks.extraction import Extraction
from tasks.counting.extraction.choices import chosen_label, chosen_letter
from tasks.counting.extraction.json_field import field_of, written
from tasks.counting.extraction.marks import plain, shown
from tasks.counting.extraction.numbers import first_number, show_number, stated_number

_IS_NUMBER = re.compile(r"[$€£¥]?\s?-?[$€£¥]?\s?[\d.,]*\d\s?%?\Z")


class Reading(NamedTuple):
    """An answer as read: two are the same answer when their `value` is equal. Numbers are equal as floats."""

    value: float | str
    text: str
    """The answer as it is shown."""


def extract(text: str, extraction: Extraction) -> Reading | None:
    """Read the answer out of one text, or return None where it cannot be read."""
    return extract_all([text], extraction)[0]


def extract_all(texts: Sequence[str | None], extraction: Extraction) -> list[Reading | None]:
    """Read the answers out of several members' texts to one question; None where a text cannot be read, or is None.

    A JSON field is a number or a text, and which of them the question is about is seen from all its answers: if at
    least half of them have a number in them, then the first number of each is its answer, and one without a number
    ("cannot be determined") is an abstention. Otherwise they are compared as texts. `text:FIELD` always compares texts.

    Args:
        texts: What each member wrote.
        extraction: How it is read; `llm` reads what a model has already made of the text, as `text` does.
    """
    if extraction.kind == "json":
        return _fields([None if text is None else field_of(text, extraction.field or "") for text in texts])
    return [None if text is None else _read(text, extraction) for text in texts]


def normalised(text: str) -> Reading | None:
    """Read a whole text: without regard to case, blanks and marks around it; a text that is a number is that number."""
    key = plain(text)
    if _IS_NUMBER.match(key) and (number := stated_number(key)) is not None:
        return _number(number)
    return Reading(key, shown(text)) if key else None


def _read(text: str, extraction: Extraction) -> Reading | None:
    match extraction.kind:
        case "number":
            return _number(stated_number(text))
        case "choice":
            return _name(chosen_letter(text))
        case "label":
            return _name(chosen_label(text, extraction.labels))
        case "text" if extraction.field is not None:
            return normalised(written(field_of(text, extraction.field)))
    return normalised(text)


def _fields(values: Sequence[Any]) -> list[Reading | None]:
    texts = [written(value) for value in values]
    given = [text for text in texts if text]
    numbers = [first_number(text) for text in texts]
    if 2 * sum(number is not None for number in numbers) >= max(1, len(given)):
        return [_number(number) for number in numbers]
    return [normalised(text) for text in texts]


def _number(value: float | None) -> Reading | None:
    return None if value is None else Reading(value, show_number(value))


def _name(name: str | None) -> Reading | None:
    return None if name is None else Reading(name, name)
