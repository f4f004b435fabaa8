"""Hear a model that writes plain text from quoted answers: what is cut off, or repeats the fences, is asked for once more."""

import re
from typing import Any

from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.judging.hearing import hear
from consensus_flows.tasks.readers import UnreadableError, reader
from consensus_flows.tasks.record import Response

READER = "text"
"""Name of `read_text` in requests."""
_MARKER = re.compile(r"\[(?:end )?(?:answer|consensus) [^\[\]\n]{1,40} [0-9a-f]{12}\]")


@reader(READER)
def read_text(text: str, schema: dict[str, Any] | None) -> str:  # noqa: ARG001  # a reader's form
    """Return `text` without blanks around it.

    Raises:
        UnreadableError: If it is empty, or holds the markers of `consensus_flows.tasks.judging.fence`: then it repeats what it was shown.
    """
    if not text.strip():
        raise UnreadableError("it is empty")
    if _MARKER.search(text):
        raise UnreadableError("it holds the markers between which the answers were quoted")
    return text.strip()


async def hear_text(request: Request, call: Call) -> tuple[str | None, list[Response]]:
    """Ask for a text.

    Args:
        request: What is asked. Its `reader` should be `READER`, so that only what can be used is stored.
        call: Makes the calls.

    Returns:
        The text, or None; and every call made for it, the last one of which says why there is none.
    """
    return await hear(request, call, read_text, remark="reask_text", shown=False)
