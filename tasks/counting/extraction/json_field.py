"""Finds one field of a JSON object in what a model wrote, however it wrapped or broke the object."""

import json
import re
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
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)


def field_of(text: str, field: str) -> Any:
    """Return the field of the JSON object that `text` holds, or None.

    It is that of the first balanced `{...}` that parses and has the key; where none does, what stands after `"FIELD":`,
    as a text.
    """
    key = json.dumps(field, ensure_ascii=False)
    if key not in text:
        return None
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
        if field in value:
            return value[field]
        left -= end - at
        at = text.find("{", at + 1)
    found = re.search(rf"{re.escape(key)}\s*:\s*", text)
    if found is None:
        return None
    rest = text[found.end() :]
    if rest.startswith(("[", "{")):  # cut anywhere, it would be another list
        try:
            return _DECODER.raw_decode(rest)[0]
        except (ValueError, RecursionError):
            return None
    string = _STRING.match(rest)
    if string is not None:
        return string[1]
    value = re.split(r'[\n}]|,\s*"', rest, maxsplit=1)[0].strip().rstrip(",").strip()
    return None if value == "null" else value


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
