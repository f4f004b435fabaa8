"""Lets a model read the final answer out of each member's free text. It reads; it does not vote."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import JsonValue

from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.judging.bench import Bench
from consensus_flows.tasks.judging.fence import fenced
from consensus_flows.tasks.judging.hearing import hear
from consensus_flows.tasks.readers import UnreadableError, json_object, reader
from consensus_flows.tasks.record import CallError, Response

_SCHEMA: dict[str, JsonValue] = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
    "additionalProperties": False,
}


@reader("extraction")
def read_extraction(text: str, schema: dict[str, Any] | None = None) -> str:  # noqa: ARG001  # a reader's form
    """Read what the extractor has found; empty where there is no answer.

    Raises:
        UnreadableError: If there is no JSON object with a text or a number as `answer`.
    """
    value = json_object(text, ("answer",), exact=True)["answer"]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UnreadableError("answer must be a text")
    return value.strip()


class Heard(NamedTuple):
    """What is known of one member's final answer."""

    text: str | None
    """The answer, empty where it gives none; None where the member has failed or could not be heard."""
    error: CallError | None = None
    """Why it could not be heard, though it has answered: an abstention is another thing."""


async def extract_by_model(
    responses: Sequence[Response], bench: Bench, call: Call
) -> tuple[list[Heard], list[Response]]:
    """Ask a model for the final answer in each response; each is read apart from the others and without its name.

    Args:
        responses: What members answered; who failed is not read.
        bench: The model that reads, and what it knows of the question.
        call: Makes the calls.

    Returns:
        What is known of the final answer in each response, and every call made for it.
    """

    async def read(response: Response) -> tuple[str | None, list[Response]]:
        shown = fenced({"": response.text or ""}, bench.seed, "text")
        label = f"extractor {bench.model} · {response.member}"
        request = bench.request("extract", _SCHEMA, "extraction", label, answers=shown)
        return await hear(request, call, read_extraction, member=f"{bench.model} reads {response.member}")

    # Members that wrote the same are read once.
    first: dict[str, Response] = {}
    for response in responses:
        if response.answered:
            first.setdefault(response.text or "", response)
    read_texts = dict(zip(first, await asyncio.gather(*map(read, first.values())), strict=True))
    heard = {
        text: Heard(answer, calls[-1].error if answer is None else None) for text, (answer, calls) in read_texts.items()
    }
    answers = [heard[response.text or ""] if response.answered else Heard(None) for response in responses]
    return answers, [one for _, calls in read_texts.values() for one in calls]
