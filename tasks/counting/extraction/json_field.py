"""Finds one field of a JSON object in what a model wrote, however it wrapped or broke the object."""

import json
import re
from collections import deque
from itertools import islice
from typing import Any

MAX_BRACES = 1000
"""Opening braces of a text at which an object is looked for."""
MAX_LOOKED_AT = 4_000_000
"""Characters that are looked at for it, those of nested objects once for each brace around them."""


class Literal(str):
    """A number of a JSON text as it is written there: Python's floats would lose digits of it."""

    __slots__ = ()


_DECODER = json.JSONDecoder(strict=False, parse_float=Literal, parse_int=Literal)
"""Not strict: models write line breaks into their texts as they are."""
_ESCAPE = re.compile(
    r"""\\(?:(?P<latex>(?=[bf][A-Za-z]|t(?:ext|imes|heta|frac|riangle)|n(?:eq|abla)\b|r(?:ight|angle|floor|ceil|ho\b)))"""
    r"""|(?P<valid>["\\/bfnrt]|u[0-9A-Fa-f]{4})|(?P<quote>')|)"""
)
"""A backslash: of a LaTeX command, though `\\f` and `\\t` are escapes of JSON too; of an escape; before a quote; of anything else."""
_BOXED = re.compile(r"\\boxed\s*\{")
_MENTIONS = 20
"""Mentions of a field outside of objects that parse which are looked at."""


def field_of(text: str, field: str) -> Any:
    r"""Return the field of the JSON object that `text` holds, or None.

    It is that of the first balanced `{...}` that parses and has the key; where none does, what stands after `"FIELD":`;
    where the key is nowhere in the text, what is in its last `\boxed`. A placeholder such as `___` is none. Backslashes
    of LaTeX, which are not escaped as JSON wants it, are read as they are meant.
    """
    key = json.dumps(field, ensure_ascii=False)
    if key not in text:
        return boxed(text)
    text = _repaired(text)
    at, left = text.find("{"), MAX_LOOKED_AT
    for _ in range(MAX_BRACES):
        if at < 0 or left < 0:
            break
        try:
            value, end = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            value, end = {}, error.pos
        except (ValueError, RecursionError):
            value, end = {}, len(text)
        if field in value and not _unfilled(value[field]):
            return value[field]
        left -= end - at
        at = text.find("{", at + 1)
    mentions = islice(re.finditer(rf"{re.escape(key)}\s*:\s*", text), _MENTIONS)
    values = (_value(text, mention.end()) for mention in mentions)
    return next((value for value in values if not _unfilled(value)), None)


def boxed(text: str) -> str | None:
    r"""Return what is in the last `\boxed{...}` of a text, or None where there is none."""
    last = deque(_BOXED.finditer(text), maxlen=1)
    depth, start = 1, last[0].end() if last else len(text)
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start : start + brace.start()].strip()
    return None


def _repaired(text: str) -> str:
    """Escape the backslashes that are no escapes of JSON."""

    def escaped(found: re.Match[str]) -> str:
        return "'" if found["quote"] else found[0] if found["valid"] else rf"\\{found[0][1:]}"

    return _ESCAPE.sub(escaped, text) if "\\" in text else text


def _unfilled(value: Any) -> bool:
    """Tell whether a value is that of a form that nobody has filled in."""
    if isinstance(value, dict):
        return bool(value) and all(map(_unfilled, value.values()))
    return isinstance(value, str) and re.fullmatch(r"_{2,}", value) is not None


def _value(text: str, at: int) -> Any:
    """Return the value that begins at `at`, as JSON or, where it is none, up to the end of its line or its object."""
    try:
        return _DECODER.raw_decode(text, at)[0] if text[at : at + 1] in ("[", "{", '"') else _bare(text[at:])
    except (ValueError, RecursionError):
        return None if text[at : at + 1] in ("[", "{") else _bare(text[at:])  # a list cut anywhere would be another one


def _bare(text: str) -> str | None:
    value = re.split(r'[\n}]|,\s*"', text, maxsplit=1)[0].strip().rstrip(",").strip()
    return None if value in ("", "null") else value


def written(value: Any) -> str:
    """Write a JSON value as a text, the same for the same value; null is an empty one, as is one nested too deeply."""
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return _canonical(value)
    except RecursionError:
        return ""


def _canonical(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_canonical, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_canonical(key)}: {_canonical(value[key])}' for key in sorted(value))}}}"
    return str(value) if isinstance(value, Literal) else json.dumps(value, ensure_ascii=False)
