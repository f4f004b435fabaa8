"""Embeddings: the request for the vector of a text, and the text as which the vector is stored.

One text a call: a text that comes again, in another round, run or order, is then found in the store and not paid for
again. Vendors charge by the token, so that a call for many texts would cost the same.
"""

import base64
import binascii
import math
import struct
from collections.abc import Sequence

from consensus_flows.blocks.member import ModelName
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.readers import UnreadableError, reader

READER = "embedding"
"""Name of the reader of vectors."""
MAX_CHARACTERS = 24_000
"""Characters of a text that are embedded, about 6,000 tokens of English: the models of OpenAI take 8,191."""
_NO_OUTPUT = Sampling(max_output_tokens=1)
"""An embedding has no output tokens; without a limit a budget would set aside those of a long answer."""

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


def embedding_request(model: ModelName, text: str, *, label: str, timeout: float) -> Request:
    """Return the request for the vector of `text`.

    Args:
        model: The embedding model.
        text: The text; of a very long one, the first `MAX_CHARACTERS`.
        label: Name of the call in the UI.
        timeout: Seconds that one attempt may take.
    """
    return Request(
        provider=model.provider,
        model=model.model,
        messages=(Message(role="user", content=text[:MAX_CHARACTERS]),),
        sampling=_NO_OUTPUT,
        reader=READER,
        kind="embedding",
        label=label,
        timeout=timeout,
    )
