"""Lets a model read the final answer out of each member's free text. It reads; it does not vote."""

import asyncio
from collections.abc import Sequence
from typing import Any

from pydantic import JsonValue

from blocks.member import ModelName
from blocks.sampling import Sampling
from tasks.calls.call import Call
from tasks.calls.request import Message, Request
from tasks.judging.fence import fenced
from tasks.judging.hearing import hear
from tasks.prompts import fill, prompt, version
from tasks.readers import UnreadableError, json_object, reader
from tasks.record import Response

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
    value = json_object(text, ("answer",))["answer"]
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UnreadableError("answer must be a text")
    return str(value).strip()


async def extract_by_model(
    question: str,
    responses: Sequence[Response],
    extractor: ModelName,
    call: Call,
    *,
    sampling: Sampling,
    timeout: float,
    seed: str,
) -> tuple[list[str | None], list[Response]]:
    """Ask `extractor` for the final answer in each response; each is read apart from the others and without its name.

    Args:
        question: The question that was answered.
        responses: What members answered; who failed is not read.
        extractor: The model that reads.
        call: Makes the calls.
        sampling: Sampling settings of the extractor.
        timeout: Seconds that one request may take.
        seed: Seed of the markers around the text.

    Returns:
        The final answer of each response, empty where it gives none, None where it could not be found out; and every
        call made for it.
    """

    async def read(response: Response) -> tuple[str | None, list[Response]]:
        text = fill("extract", question=question, answers=fenced({"": response.text or ""}, seed, "text"))
        request = Request(
            provider=extractor.provider,
            model=extractor.model,
            messages=(Message(role="system", content=prompt("extract_system")), Message(role="user", content=text)),
            sampling=sampling,
            response_schema=_SCHEMA,
            reader="extraction",
            prompt_version=version("extract_system", "extract"),
            label=f"extractor {extractor} · {response.member}",
            timeout=timeout,
        )
        return await hear(request, call, read_extraction, member=f"{extractor} reads {response.member}")

    # Members that wrote the same are read once.
    first: dict[str, Response] = {}
    for response in responses:
        if response.answered:
            first.setdefault(response.text or "", response)
    heard = dict(zip(first, await asyncio.gather(*map(read, first.values())), strict=True))
    answers = [heard[response.text or ""][0] if response.answered else None for response in responses]
    return answers, [one for _, calls in heard.values() for one in calls]
