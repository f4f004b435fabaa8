"""How a model's text is read. Pure functions; what cannot be read raises, and is never guessed."""

import base64
import binascii
import json
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from consensus_flows.tasks.errors import ConsensusError

_PERCENT = re.compile(r"(?P<number>[+-]?\d+(?P<fraction>[.,]\d+)?)\s*(?P<sign>%|percent)?\Z", re.IGNORECASE)
_STARTS_OBJECT = re.compile(r"""\{\s*["'}]""")  # any other brace is prose


class UnreadableError(ConsensusError, ValueError):
    """The text does not hold what was asked for; the message says what is wrong, in words that a model can act on."""


def json_object(
    text: str, required: tuple[str, ...] = (), either: tuple[str, ...] = (), *, exact: bool = False
) -> dict[str, Any]:
    """Return the JSON object that `text` is, or the only one in it that has the wanted keys.

    Where several have them and differ, none is read: one may be a quotation of what a member has forged, and whether a
    model quotes before or after it gives its own is not for us to guess.

    Args:
        text: What the model wrote.
        required: Keys that the object must have.
        either: Keys of which it must have one, if any are given.
        exact: Whether numbers are returned as texts, with all their digits.

    Raises:
        UnreadableError: If there is no such object; if there are several that differ; if one has a key twice; or if one is
            broken: what stands inside a broken object may be a quotation, and the broken one may be the model's own.
    """
    candidates = list(_objects(text, exact=exact))
    if not candidates:
        raise UnreadableError("no JSON object in the answer")

    def lacking(found: dict[str, Any]) -> list[str]:
        some = not either or any(key in found for key in either)
        return [key for key in required if key not in found] + ([] if some else [" or ".join(either)])

    complete = [candidate for candidate in candidates if not lacking(candidate)]
    if not complete:
        raise UnreadableError(f"the JSON object lacks {', '.join(lacking(candidates[-1]))}")
    whole = complete[-1]
    # As they are written, because to Python 1, 1.0 and true are equal. One object is the rule, and needs no comparison.
    if len(complete) > 1 and len({_written(one) for one in complete}) > 1:
        raise UnreadableError("there are several JSON objects in the answer, and they differ: give one, and quote none")
    return _whole_characters(whole)


def _objects(text: str, *, exact: bool) -> Iterator[dict[str, Any]]:
    """Yield the outermost JSON objects in `text`, in order."""
    # Not strict: small models write line breaks into their texts as they are, and nothing else can be meant by them.
    number = str if exact else None
    decoder = json.JSONDecoder(
        strict=False, object_pairs_hook=_unambiguous, parse_int=number, parse_float=number, parse_constant=number
    )
    found = _STARTS_OBJECT.search(text)
    while found is not None:
        try:
            value, end = decoder.raw_decode(text, found.start())
        except UnreadableError:
            raise
        except (ValueError, RecursionError) as error:
            cause = error.msg if isinstance(error, json.JSONDecodeError) else "it cannot be parsed"
            raise UnreadableError(f"the JSON object is broken: {cause}") from None
        yield value
        found = _STARTS_OBJECT.search(text, end)


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, unless it has a key twice: a quotation that was not escaped adds such keys."""
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for number, key in enumerate(keys, 1) if key in keys[number:])
        raise UnreadableError(f"the JSON object gives {twice[:40]!r} twice")
    return value


def _written(value: Any) -> str:
    """Write a JSON value, the same for the same value.

    Raises:
        UnreadableError: If it is nested too deeply to be written again.
    """
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    except RecursionError:
        raise UnreadableError("the JSON object is nested too deeply") from None


def excerpt(value: Any) -> str:
    """Return the beginning of a JSON value, to be shown to the model that wrote it."""
    if isinstance(value, list | dict):  # which may be nested so deeply that Python cannot write them
        return "a list" if isinstance(value, list) else "an object"
    return repr(str(value)[:40])


def _whole_characters(value: dict[str, Any]) -> dict[str, Any]:
    """Replace halves of surrogate pairs, which JSON escapes can spell but no record can store."""
    plain = _written(value)
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
        UnreadableError: If `value` is not a number between 0 and 100.
    """
    wanted = f"{field} is {excerpt(value)}: write a number from 0 to 100"
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


Read = TypeVar("Read")
Reader = Callable[..., Any]
ReaderT = TypeVar("ReaderT", bound=Reader)
_readers: dict[str, Reader] = {}


def reader(name: str) -> Callable[[ReaderT], ReaderT]:
    """Register a function as the reader called `name`, so that a request can name it."""

    def register(function: ReaderT) -> ReaderT:
        _readers[name] = function
        return function

    return register


JSON = "json"
"""Name of the reader of a JSON object."""
reader(JSON)(json_object)
SCHEMA = "schema"
"""Name of the reader of a JSON object that satisfies the schema of the request."""


def check_readable(name: str, text: str, schema: Mapping[str, Any] | None = None) -> None:
    """Read `text` with the reader called `name`, to find out whether it can be read.

    Args:
        name: The reader's name; a number behind a colon, as in `ranking:3`, is passed on to it.
        text: What the model wrote.
        schema: The JSON schema that it was asked for, which the reader `schema` needs.

    Raises:
        UnreadableError: If it cannot.
        KeyError: If there is no such reader.
    """
    known, _, count = name.partition(":")
    read_with(_readers[known], text, *([schema] if known == SCHEMA else [int(count)] if count else []))


def read_with(reading: Callable[..., Read], text: str, *options: Any) -> Read:
    """Return what `reading` makes of `text`.

    Raises:
        UnreadableError: If it cannot be read; also where the reader itself fails, because an answer that was paid for must
            be booked and kept, whatever is in it.
    """
    try:
        return reading(text, *options)
    except UnreadableError:
        raise
    except Exception as error:
        raise UnreadableError(f"it cannot be read ({type(error).__name__})") from error


EMBEDDING = "embedding"
"""Name of the reader of vectors."""
Vector = tuple[float, ...]


def packed(values: Sequence[float]) -> str:
    """Return the text that stands for a vector: base64 of little-endian 32-bit floats, as OpenAI's API writes it.

    Raises:
        OverflowError: If a number is too large for 32 bits.
    """
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode("ascii")


@reader(EMBEDDING)
def read_vector(text: str) -> Vector:
    """Read a vector and bring it to length 1.

    Raises:
        UnreadableError: If the text is none, or it has no direction: empty, all zeros, or not finite.
    """
    try:
        content = base64.b64decode(text, validate=True)
        values = struct.unpack(f"<{len(content) // 4}f", content)
    except (binascii.Error, struct.error, ValueError):
        raise UnreadableError("the embedding is not a list of 32-bit floats in base64") from None
    length = math.sqrt(math.fsum(value * value for value in values))
    if not math.isfinite(length) or length == 0:
        raise UnreadableError("the embedding is a zero or invalid vector")
    return tuple(value / length for value in values)
