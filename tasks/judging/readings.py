"""What a model reads for a vote: the final answer in each free text, and which answers are the same in other words.

A model and not embeddings: the vectors of short answers lie close together where they differ in the one thing that
counts, as 12 and 13 or `before 1900` and `after 1900` do. The model reads and groups; it does not vote. It cannot add an
answer, and it does not see who gave which, or how many did.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from consensus_flows.blocks.member import ModelName
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.counting.extraction.extract import Reading, Value
from consensus_flows.tasks.judging.judge import Asked, JudgeRequest, ask_judge
from consensus_flows.tasks.judging.judgements import Extraction, same_meaning
from consensus_flows.tasks.plain_text import labels
from consensus_flows.tasks.prompting.fence import fenced
from consensus_flows.tasks.record import CallError, Iteration, Record, Response


class Extracted(NamedTuple):
    """What is known of one member's final answer."""

    text: str | None
    """The answer, empty where it gives none; None where the member has failed or its answer could not be read."""
    error: CallError | None = None
    """Why it could not be read, though the member has answered: an abstention is another thing."""


async def extract_by_model(
    responses: Sequence[Response], asked: JudgeRequest, model: ModelName, call: Call
) -> tuple[list[Extracted], list[Response]]:
    """Ask a model for the final answer in each response; each is read apart from the others and without its name.

    Args:
        responses: What members answered; one that failed is not read.
        asked: What the model knows of the question.
        model: Who reads.
        call: Makes the calls.

    Returns:
        What is known of the final answer in each response, and every call made for it.
    """

    async def read(response: Response) -> tuple[Extracted, list[Response]]:
        shown = fenced({"": response.text or ""}, asked.seed, "text")
        request = asked.request(model, "extract", Extraction, f"extractor {model} · {response.member}", answers=shown)
        found, calls = await ask_judge(request, call, Extraction.read, member=f"{model} reads {response.member}")
        return Extracted(found.answer) if found else Extracted(None, calls[-1].error), calls

    # Members that wrote the same are read once.
    first: dict[str, Response] = {}
    for response in responses:
        if response.answered:
            first.setdefault(response.text or "", response)
    found = dict(zip(first, await asyncio.gather(*map(read, first.values())), strict=True))
    answers = [found[one.text or ""][0] if one.answered else Extracted(None) for one in responses]
    return answers, [one for _, calls in found.values() for one in calls]


def distinct(readings: Sequence[Reading | None]) -> list[Reading]:
    """List the different readings, in the order of the first member that gave each."""
    found: dict[Value, Reading] = {}
    for reading in readings:
        if reading is not None:
            found.setdefault(reading.value, reading)
    return list(found.values())


def comparable(readings: Sequence[Reading]) -> bool:
    """Tell whether any two of different readings might be one answer; two numbers that differ are never."""
    return len(readings) > 1 and any(isinstance(reading.value, str) for reading in readings)


def grouped(readings: Sequence[Reading], said: Mapping[str, str]) -> dict[Value, Reading]:
    """Return for each reading the one that stands for its group: the first.

    Numbers that differ stay apart, whatever was said.

    Args:
        readings: Different readings, in the order of their labels.
        said: For each label itself, or one before it.
    """
    first: dict[str, Reading] = {}
    numbers: dict[Value, Value] = {}
    for name, reading in zip(said, readings, strict=True):
        head = first.get(said[name], reading)
        number = None if isinstance(reading.value, str) else reading.value
        if number is not None and numbers.setdefault(head.value, number) != number:
            head = reading
            numbers[head.value] = number
        first[name] = head
    return {reading.value: first[name] for name, reading in zip(said, readings, strict=True)}


async def same_by_model(
    readings: Sequence[Reading], asked: JudgeRequest, model: ModelName, call: Call
) -> Asked[dict[Value, Reading]]:
    """Ask a model which of several different readings are the same answer.

    Args:
        readings: Different readings, two or more.
        asked: What the model knows of the question.
        model: Who compares.
        call: Makes the calls.

    Returns:
        For each reading's value the reading that stands for its group, or None where the model could not be read; and
        every call made for it.
    """
    names = labels(len(readings))
    judgement = same_meaning(len(names))
    request = asked.request(
        model,
        "same_meaning",
        judgement,
        f"extractor {model} · {len(names)} readings",
        count=len(names),
        answers=fenced(dict(zip(names, (reading.text for reading in readings), strict=True)), asked.seed),
        labels=", ".join(names),
    )
    found, calls = await ask_judge(request, call, judgement.read, member=f"{model} compares {len(names)} readings")
    return (grouped(readings, found.same_as.model_dump()) if found else None), calls


@dataclass
class SameAnswers:
    """What is known of which readings mean the same, while wave after wave of members is asked.

    `model` is the extractor, if there is one.
    """

    asked: JudgeRequest
    model: ModelName | None
    record: Record
    iteration: Iteration
    call: Call
    _compared: list[Value] = field(default_factory=list)
    _heads: dict[Value, Reading] = field(default_factory=dict)

    async def merged(self, readings: Sequence[Reading | None]) -> list[Reading | None]:
        """Return each reading as the first of those that mean the same.

        The extractor is asked once for each set of different readings; without one, nothing is merged. Where it cannot
        be read, every reading counts as it is written, and the record says so.
        """
        different = distinct(readings)
        values = [reading.value for reading in different]
        if self.model is not None and comparable(different) and values != self._compared:
            heads, calls = await same_by_model(different, self.asked, self.model, self.call)
            self.iteration.judgements += calls
            self._compared, self._heads = values, heads or {}
            if heads is None:
                self.record.degraded = True
                message = f"{self.model} could not tell which readings mean the same: they count as written"
                self.record.warn("not_merged", message, member=str(self.model))
        return [reading and self._heads.get(reading.value, reading) for reading in readings]
