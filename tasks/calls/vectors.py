"""The vector that an embedding model gives for a text: how it is stored as text, and how it is read again."""

import base64
import binascii
import math
import struct
from collections.abc import Sequence

from consensus_flows.tasks.readers import UnreadableError, reader

READER = "embedding"
"""Name of the reader: a request that names it is one for an embedding."""

Vector = tuple[float, ...]


def packed(values: Sequence[float]) -> str:
    """Return the text that stands for a vector: base64 of little-endian 32-bit floats, as OpenAI's API writes it.

    Raises:
        OverflowError: If a number is too large for 32 bits.
    """
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode("ascii")


@reader(READER)
def read_vector(text: str) -> Vector:
    """Read a vector and bring it to length 1.

    Raises:
        UnreadableError: If the text is none, or it has no direction: empty, all zeros, or not finite.
    """
    try:
        content = base64.b64decode(text, validate=True)
        values = struct.unpack(f"<{len(content) // 4}f", content)
    except (binascii.Error, struct.error, ValueError):
        raise UnreadableError("the embedding is no list of 32-bit floats in base64") from None
    length = math.sqrt(math.fsum(value * value for value in values))
    if not math.isfinite(length) or length == 0:
        raise UnreadableError("the embedding is no vector that has a direction")
    return tuple(value / length for value in values)
