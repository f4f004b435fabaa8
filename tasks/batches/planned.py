"""Calls that are planned: by which model, what for, how many at least and at most."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from consensus_flows.blocks.member import ModelName


class Planned(NamedTuple):
    """The calls of one model in one role, in one run.

    Attributes:
        model: Who is asked.
        role: What for: `member`, `embedding`, or `judge` as the history calls every other.
        task: What the calls are called for people: member, arbiter, aggregator, extractor, ...
        least: Fewest calls.
        most: Most calls.
        characters: Of instructions in one call, beside the question.
        read_least: Answers of models that are read in the fewest calls, in all of them together.
        read_most: Answers that are read in the most calls.
        max_output_tokens: Most tokens of one answer, if that is limited.
        asks: Whether the question is in every call.
    """

    model: ModelName
    role: str
    task: str
    least: int
    most: int
    characters: int = 0
    read_least: float = 0
    read_most: float = 0
    max_output_tokens: int | None = None
    asks: bool = True


def merged(plans: Iterable[Planned]) -> list[Planned]:
    """Add up the calls of the same model, in the same task and under the same limit, in the order of the first ones."""
    found: dict[tuple[ModelName, str, int | None], Planned] = {}
    for plan in plans:
        key = plan.model, plan.task, plan.max_output_tokens
        before = found.get(key)
        found[key] = plan if before is None else _sum(before, plan)
    return list(found.values())


def _sum(one: Planned, other: Planned) -> Planned:
    calls = one.most + other.most
    return one._replace(
        least=one.least + other.least,
        most=calls,
        characters=(one.characters * one.most + other.characters * other.most) // calls if calls else 0,
        read_least=one.read_least + other.read_least,
        read_most=one.read_most + other.read_most,
    )


def calls_in_words(plans: Sequence[Planned]) -> str:
    """Say how many calls a run makes, by what for: `9 to 27 calls: member 6 to 18, arbiter 3 to 9`."""
    tasks: dict[str, tuple[int, int]] = {}
    for plan in plans:
        least, most = tasks.get(plan.task, (0, 0))
        tasks[plan.task] = least + plan.least, most + plan.most
    total = tuple(sum(pair) for pair in zip(*tasks.values(), strict=True)) or (0, 0)
    parts = ", ".join(f"{task} {span(*pair)}" for task, pair in tasks.items())
    return f"{span(*total)} calls: {parts}"


def span(least: float, most: float, form: str = ",") -> str:
    """Say a range, or the one number that it is."""
    return f"{least:{form}}" if least == most else f"{least:{form}} to {most:{form}}"
