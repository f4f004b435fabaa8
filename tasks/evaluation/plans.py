"""Ways to ask a panel, each with a name: fitted on labelled rows, then replayed on recorded answers without a call."""

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field

from consensus_flows.tasks.counting.vote import count_votes
from consensus_flows.tasks.evaluation.rows import LabelledRow, Pattern


@dataclass(frozen=True)
class Decision:
    """How a plan ends for a pattern of answers."""

    chosen: int | None
    """The number of the answer in the pattern; None for no answer."""
    asked: tuple[int, ...]
    """Positions of the members that were asked, in the order of asking."""
    confidence: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How a plan ends for a row."""

    answer: Hashable | None
    """The answer, or None where there is none."""
    asked: tuple[int, ...]
    """Positions of the members that were asked, in the order of asking."""
    confidence: float | None = None
    """The probability that the answer is right, where the plan states one."""


@dataclass(frozen=True)
class FittedPlan:
    """A way to ask a panel, with everything fitted that it needs.

    What a plan does depends only on who agrees with whom, so it decides once for each pattern.
    """

    name: str
    decide: Callable[[Pattern], Decision] = field(repr=False)
    _decided: dict[Pattern, Decision] = field(default_factory=dict, repr=False, compare=False)

    def replay(self, row: LabelledRow) -> Outcome:
        """Return how the plan ends for a row, from the answers that are recorded."""
        pattern = row.pattern()
        if (decision := self._decided.get(pattern)) is None:
            decision = self._decided[pattern] = self.decide(pattern)
        answer = None if decision.chosen is None else row.answers[pattern.index(decision.chosen)].answer
        return Outcome(answer, decision.asked, decision.confidence)


def fit_plans(
    rows: Sequence[LabelledRow], members: Sequence[str], *, names: Collection[str] | None = None
) -> dict[str, FittedPlan]:
    """Fit ways to ask a panel on labelled rows.

    Args:
        rows: What they are fitted on.
        members: The names of the members, in the order of the rows' answers.
        names: The names of the plans; default: all.

    Returns:
        The plans by their names.
    """
    every = tuple(range(len(members)))

    right = [sum(row.answers[position].answer == row.label for row in rows) for position in every]
    best_first = sorted(every, key=lambda position: -right[position])

    def majority(order: Sequence[int]) -> Callable[[Pattern], Decision]:
        def decide(pattern: Pattern) -> Decision:
            winner = count_votes([pattern[position] for position in order]).winner
            return Decision(None if winner is None else pattern[order[winner.voters[0]]], every)

        return decide

    def single(position: int) -> Callable[[Pattern], Decision]:
        return lambda pattern: Decision(pattern[position], (position,))

    found = {f"single:{name}": single(position) for position, name in enumerate(members)}
    found["majority-listed"] = majority(every)
    found["majority"] = majority(best_first)
    return {name: FittedPlan(name, decide) for name, decide in found.items() if names is None or name in names}
