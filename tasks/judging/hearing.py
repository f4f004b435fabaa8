"""Hear a judge: what it writes and nobody can read is asked for once more, with what was wrong."""

from collections.abc import Callable
from typing import Any

from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.prompts import fill
from consensus_flows.tasks.readers import Read, UnreadableError, read_with
from consensus_flows.tasks.record import CallError, Response

Reading = Callable[[str, dict[str, Any] | None], Read]


async def hear(
    request: Request, call: Call, reading: Reading[Read], *, remark: str = "reask", shown: bool = True, **options: Any
) -> tuple[Read | None, list[Response]]:
    """Ask a judge and read what it says.

    Args:
        request: What the judge is asked; `request.reader` should name `reading`, so that only what it can read is stored.
        call: Makes the calls.
        reading: Reads the judge's text; raises UnreadableError, whose message the judge is told.
        remark: The prompt file that tells what was wrong.
        shown: Whether the judge is shown again what it wrote.
        options: Passed on to `call`.

    Returns:
        What was read, or None; and every call made for it, the last one of which says why there is nothing.
    """
    response, judgement = await _once(request, call, reading, options)
    calls = [response]
    if _may_do_better(response):
        response, judgement = await _once(again(request, response, remark, shown=shown), call, reading, options)
        calls.append(response)
    return judgement, calls


async def _once(
    request: Request, call: Call, reading: Reading[Read], options: dict[str, Any]
) -> tuple[Response, Read | None]:
    response = await call(request, **options)
    if response.error is not None:
        return response, None
    try:
        return response, read_with(reading, response.text or "", request.response_schema)
    except UnreadableError as error:
        response.error = CallError(kind="malformed", message=f"{request.name}: malformed: {error.message}")
        return response, None


def _may_do_better(response: Response) -> bool:
    """Tell whether the judge has written something that it may write better; a broken transfer is not its fault."""
    if response.error is None:
        return False
    return response.error.kind == "truncated" or (response.error.kind == "malformed" and bool(response.text))


def again(request: Request, response: Response, remark: str = "reask", *, shown: bool = True) -> Request:
    """Return the request to ask with once more, telling what was wrong; an answer that was cut off gets twice the room."""
    error = response.error
    assert error is not None
    cause = "it was cut off, so be brief" if error.kind == "truncated" else error.message.split(": ", 2)[-1]
    wrong = fill(remark, error=cause)
    *before, last = request.messages
    said: tuple[Message, ...]
    if response.text and shown:
        said = (last, Message(role="assistant", content=response.text), Message(role="user", content=wrong))
    else:  # two turns of one side in a row are refused by some servers
        said = (Message(role="user", content=f"{last.content}\n\n{wrong}"),)
    sampling = request.sampling
    if error.kind == "truncated" and sampling.max_output_tokens:
        sampling = sampling.model_copy(update={"max_output_tokens": sampling.max_output_tokens * 2})
    return request.model_copy(
        update={
            "messages": (*before, *said),
            "sampling": sampling,
            "label": f"{request.label} · again",
        }
    )
