"""Hear a model that writes plain text from quoted answers: what is cut off, or repeats the fences, is asked for once more."""

import re
from typing import Any

from tasks.judge import Call
from tasks.prompts import fill, version
from tasks.readers import UnreadableError, reader
from tasks.record import CallError, Response
from tasks.request import Request

READER = "text"
"""Name of `read_text` in requests."""
_MARKER = re.compile(r"\[(?:end )?(?:answer|consensus) [^\[\]\n]{1,40} [0-9a-f]{12}\]")


@reader(READER)
def read_text(text: str, schema: dict[str, Any] | None) -> str:  # noqa: ARG001  # a reader's form
    """Return `text` without blanks around it.

    Raises:
        UnreadableError: If it is empty, or holds the markers of `tasks.fence`: then it repeats what it was shown.
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
    response, text = await _once(request, call)
    calls = [response]
    error = response.error
    if error is not None and (error.kind == "truncated" or (error.kind == "malformed" and response.text)):
        response, text = await _once(_again(request, error), call)
        calls.append(response)
    return text, calls


async def _once(request: Request, call: Call) -> tuple[Response, str | None]:
    response = await call(request)
    if response.error is not None:
        return response, None
    try:
        return response, read_text(response.text or "", None)
    except UnreadableError as error:
        response.error = CallError(kind="malformed", message=f"{request.name}: malformed: {error.message}")
        return response, None


def _again(request: Request, error: CallError) -> Request:
    """Return the request to ask with once more, telling what was wrong; what was cut off gets twice the room."""
    cut = error.kind == "truncated"
    cause = "it was cut off, so be brief" if cut else error.message.split(": ", 2)[-1]
    *before, last = request.messages
    asked = last.model_copy(update={"content": f"{last.content}\n\n{fill('reask_text', error=cause)}"})
    sampling = request.sampling
    if cut and sampling.max_output_tokens:
        sampling = sampling.model_copy(update={"max_output_tokens": sampling.max_output_tokens * 2})
    return request.model_copy(
        update={
            "messages": (*before, asked),
            "sampling": sampling,
            "prompt_version": f"{request.prompt_version}+{version('reask_text')}",
            "label": f"{request.label} · again",
        }
    )
