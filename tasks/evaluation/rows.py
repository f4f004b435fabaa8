"""Labeled rows: a question's right answer, and what every member of a panel answered."""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

Pattern = tuple[int | None, ...]
"""Who agrees with whom: for each member the number of its answer, counted from 0 as they first appear; None for none."""


@dataclass(frozen=True)
class MemberReading:
    """What a member answered to a question."""

    answer: Hashable | None
    """The canonical value, which `==` compares; None where nothing was read."""
    text: str | None = None
    """The answer as the member wrote it."""
    cost_usd: float | None = 0.0
    """What it cost to ask; None if unknown."""
    calls: int = 1


@dataclass(frozen=True)
class LabelledRow:
    """A question, its right answer and the members' answers."""

    id: str
    label: Hashable
    """The right answer, as canonical as the members' answers; None without labels."""
    answers: tuple[MemberReading, ...]
    """In the order of the members."""
    group: str | None = None
    """The category that the question belongs to."""

    @cached_property
    def pattern(self) -> Pattern:
        """Who agrees with whom."""
        return pattern_of([one.answer for one in self.answers])

    @cached_property
    def truth(self) -> int | None:
        """The number of the right answer in the pattern; None where nobody gave it."""
        found = (number for one, number in zip(self.answers, self.pattern, strict=True) if one.answer == self.label)
        return next(found, None)

    def cost(self, asked: Sequence[int]) -> float | None:
        """What it costs to ask these members, in US dollars; None if a price is unknown."""
        return known_sum(self.answers[position].cost_usd for position in asked)

    def calls(self, asked: Sequence[int]) -> int:
        """How many calls it takes to ask these members."""
        return sum(self.answers[position].calls for position in asked)


def known_sum(costs: Iterable[float | None]) -> float | None:
    """Add costs up; None if one of them is not known."""
    found = list(costs)
    return None if None in found else math.fsum(cost for cost in found if cost is not None)


def pattern_of(answers: Sequence[Hashable | None]) -> Pattern:
    """Number the answers as they first appear."""
    numbers: dict[Hashable, int] = {}
    return tuple(None if answer is None else numbers.setdefault(answer, len(numbers)) for answer in answers)


def voters_of(pattern: Pattern, asked: Sequence[int] | None = None) -> dict[int, tuple[int, ...]]:
    """List the voters of each answer of a pattern, or of what the members `asked` gave, in the order of asking."""
    voters: dict[int, tuple[int, ...]] = {}
    for position in range(len(pattern)) if asked is None else asked:
        if (number := pattern[position]) is not None:
            voters[number] = (*voters.get(number, ()), position)
    return voters
