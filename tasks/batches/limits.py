"""How large a row may be, and what in it is refused because no model, database or file could take it."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from consensus_flows.tasks.errors import ConfigurationError

MAX_PROMPT_CHARACTERS = 1_000_000
"""Of one prompt; more than any model's context today."""
MAX_ROW_CHARACTERS = 16_000_000
"""Of one line, or of all texts of one row."""
MAX_DEPTH = 64
"""Of nested arrays and objects in one row."""


def fault_in(value: Any) -> str | None:
    """Return what makes a row of JSON values unusable, or None.

    The values are looked at without recursion, so that no nesting is too deep for it.
    """
    size = 0
    left = [(value, 1)]
    while left:
        one, depth = left.pop()
        if isinstance(one, str):
            size += len(one)
            if fault := fault_in_text(one):
                return fault
        elif isinstance(one, float) and not math.isfinite(one):
            return f"the number {one} is too large" if math.isinf(one) else "NaN is no JSON value"
        elif isinstance(one, dict | list):
            if depth > MAX_DEPTH:
                return f"it is nested deeper than {MAX_DEPTH} levels"
            size += len(one)
            if isinstance(one, dict):
                left.extend((key, depth) for key in one)
                left.extend((item, depth + 1) for item in one.values())
            else:
                left.extend((item, depth + 1) for item in one)
        if size > MAX_ROW_CHARACTERS:
            return f"the row is larger than {MAX_ROW_CHARACTERS:,} characters"
    return None


def fault_in_text(text: str) -> str | None:
    """Return what makes a text unusable, or None."""
    if "\0" in text:
        return "there is a NUL byte in it"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            what = f"byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"half a character, \\u{code:04x},"
            return f"wrong encoding: {what} is no UTF-8"
    return None


def check_names(names: Iterable[str]) -> None:
    """Check that no two columns have the same name.

    Raises:
        ConfigurationError: If two have.
    """
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise ConfigurationError(f"input: two columns are called {min(twice)!r}")
