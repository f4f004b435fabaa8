"""How a model's text is read. Pure functions; what cannot be read raises, and is never guessed."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from tasks.errors import ConsensusError

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
_PERCENT = re.compile(r"(?P<number>[+-]?\d+(?:[.,]\d+)?)\s*(?P<sign>%|percent)?\Z", re.I)


class UnreadableError(ConsensusError, ValueError):
    """The text does not hold what was asked for; the message says what is wrong, in words that a model can act on."""


def json_object(text: str, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the JSON object that `text` is, or the last one in it that has all the `required` keys.

    The last one, because a model that quotes another's object does so before it gives its own.

    Raises:
        UnreadableError: If there is no such object.
    """
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    if isinstance(whole, dict):
        candidates = [whole]
    else:
        fenced = [found for block in _FENCE.findall(text) for found in _objects(block)]
        candidates = fenced or list(_objects(text))
    if not candidates:
        raise UnreadableError("there is no JSON object in the answer")
    complete = [candidate for candidate in candidates if all(key in candidate for key in required)]
    if not complete:
        missing = [key for key in required if key not in candidates[-1]]
        raise UnreadableError(f"the JSON object lacks {', '.join(missing)}")
    return complete[-1]


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the outermost JSON objects in `text`, in order."""
    decoder = json.JSONDecoder()
    position = text.find("{")
    while position >= 0:
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = position + 1
        else:
            if isinstance(value, dict):
                yield value
        position = text.find("{", end)


def share(value: Any, field: str = "confidence") -> float:
    """Read a share between 0 and 1: `0.95`, `95` and `"95%"` are the same.

    A number above 1 counts as per cent. What is out of range is refused, not clamped.

    Raises:
        UnreadableError: If `value` is no number between 0 and 100.
    """
    if isinstance(value, bool) or value is None:
        raise UnreadableError(f"{field} is {value!r}: write a number from 0 to 100")
    percent = False
    if isinstance(value, str):
        found = _PERCENT.match(value.strip())
        if found is None:
            raise UnreadableError(f"{field} is {value!r}: write a number from 0 to 100")
        value, percent = float(found["number"].replace(",", ".")), found["sign"] is not None
    if not isinstance(value, int | float):
        raise UnreadableError(f"{field} is no number: write a number from 0 to 100")
    number = float(value) / 100 if percent or value > 1 else float(value)
    if not 0 <= number <= 1:
        raise UnreadableError(f"{field} is {value!r}: it must lie between 0 and 100")
    return number


def texts(value: Any, field: str) -> list[str]:
    """Read a list of texts; one text is a list of one, None an empty list.

    Raises:
        UnreadableError: If it is neither.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [item for item in value if item.strip()]
    raise UnreadableError(f"{field} must be a list of texts")


def flag(value: Any, field: str) -> bool:
    """Read true or false, also when written as text.

    Raises:
        UnreadableError: If it is neither.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in {"true", "yes", "false", "no"}:
        return value.strip().lower() in {"true", "yes"}
    raise UnreadableError(f"{field} is {value!r}: write true or false")


Reader = Callable[[str, dict[str, Any] | None], Any]
_readers: dict[str, Reader] = {}


def reader(name: str) -> Callable[[Reader], Reader]:
    """Register a function as the reader called `name`, so that a request can name it."""

    def register(function: Reader) -> Reader:
        _readers[name] = function
        return function

    return register


def check_readable(name: str, text: str, schema: dict[str, Any] | None) -> None:
    """Read `text` with the reader called `name`, to find out whether it can be read.

    Raises:
        UnreadableError: If it cannot.
        KeyError: If there is no such reader.
    """
    _readers[name](text, schema)


@reader("json")
def read_json(text: str, schema: dict[str, Any] | None) -> dict[str, Any]:
    """Read a JSON object and validate it against `schema`.

    Raises:
        UnreadableError: If there is none or it does not satisfy the schema.
    """
    value = json_object(text, tuple((schema or {}).get("required", ())))
    if schema is not None:
        from jsonschema import Draft202012Validator

        for error in Draft202012Validator(schema).iter_errors(value):
            where = ".".join(str(part) for part in error.absolute_path)
            raise UnreadableError(f"{where or 'the object'}: {error.message[:200]}")
    return value
