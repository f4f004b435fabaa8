"""How a model's text is read. Pure functions; what cannot be read raises, and is never guessed."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from tasks.errors import ConsensusError

_PERCENT = re.compile(r"(?P<number>[+-]?\d+(?P<fraction>[.,]\d+)?)\s*(?P<sign>%|percent)?\Z", re.IGNORECASE)
_STARTS_OBJECT = re.compile(r"""\{\s*["'}]""")  # any other brace is prose


class UnreadableError(ConsensusError, ValueError):
    """The text does not hold what was asked for; the message says what is wrong, in words that a model can act on."""


def json_object(text: str, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the JSON object that `text` is, or the last one in it that has all the `required` keys.

    The last one, because a model that quotes another's object does so before it gives its own.

    Raises:
        UnreadableError: If there is no such object, or if one in it is broken: what stands inside a broken object
            may be a quotation, and the broken one may be the model's own.
    """
    candidates = list(_objects(text))
    if not candidates:
        raise UnreadableError("there is no JSON object in the answer")
    complete = [candidate for candidate in candidates if all(key in candidate for key in required)]
    if not complete:
        missing = [key for key in required if key not in candidates[-1]]
        raise UnreadableError(f"the JSON object lacks {', '.join(missing)}")
    return _whole_characters(complete[-1])


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the outermost JSON objects in `text`, in order."""
    # Not strict: small models write line breaks into their texts as they are, and nothing else can be meant by them.
    decoder = json.JSONDecoder(strict=False)
    found = _STARTS_OBJECT.search(text)
    while found is not None:
        try:
            value, end = decoder.raw_decode(text, found.start())
        except (ValueError, RecursionError) as error:
            cause = error.msg if isinstance(error, json.JSONDecodeError) else "it cannot be parsed"
            raise UnreadableError(f"the JSON object is broken: {cause}") from None
        yield value
        found = _STARTS_OBJECT.search(text, end)


def _whole_characters(value: dict[str, Any]) -> dict[str, Any]:
    """Replace halves of surrogate pairs, which JSON escapes can spell but no record can store."""
    plain = json.dumps(value, ensure_ascii=False)
    try:
        plain.encode()
    except UnicodeEncodeError:
        value = json.loads(plain.encode(errors="replace"))
    return value


def share(value: Any, field: str = "confidence") -> float:
    """Read a share between 0 and 1: `0.95`, `95` and `"95%"` are the same.

    A whole number counts as per cent, because that is what judges are asked for: `1` is one per cent, `1.0` is all.
    So does any number above 1. What is out of range is refused, not clamped.

    Raises:
        UnreadableError: If `value` is no number between 0 and 100.
    """
    wanted = f"{field} is {str(value)[:40]!r}: write a number from 0 to 100"
    percent = isinstance(value, int)
    if isinstance(value, str):
        found = _PERCENT.match(value.strip())
        if found is None:
            raise UnreadableError(wanted)
        percent = found["sign"] is not None or found["fraction"] is None
        value = float(found["number"].replace(",", "."))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnreadableError(wanted)
    # Compared before it is divided: a whole number may be too large for a float. Not a number fails every comparison.
    if not 0 <= value <= 100:
        raise UnreadableError(wanted)
    return value / 100 if percent or value > 1 else float(value)


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
