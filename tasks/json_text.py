"""Reads JSON that a person gives."""

import json
from typing import Any


def parse(text: str) -> Any:
    """Return the value that `text` is.

    Raises:
        ValueError: If it is not JSON, or is nested deeper than Python can follow.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
