"""What the plans need to know of the members: how often each is right, what it costs, what its vote counts."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from consensus_flows.tasks.evaluation.rows import LabelledRow, Pattern, voters_of

LEAST_WEIGHT = 0.01
"""Weight of a member that is wrong as often as not, or more often: its vote breaks ties at most."""
CLASSES = 10
"""Number of answers that a question of Dawid-Skene is taken to have, those included that nobody gave."""


@dataclass(frozen=True)
class Fits:
    """What is known of the members from labeled rows; each list is in their order."""

    accuracy: tuple[float, ...]
    """Share of the rows that were right; no answer is wrong."""
    cost: tuple[float, ...]
    """Mean cost in US dollars; infinite if unknown."""
    p: tuple[float, ...]
    """Probability that an answer is right, shrunk: (right + 1) / (answered + 2)."""
    q: float
    """Probability that two wrong answers to a question are the same, shrunk: (same + 1) / (pairs + 2)."""
    weights: tuple[float, ...]
    """Log-odds of `p`, at least LEAST_WEIGHT."""
    weights_q: tuple[float, ...]
    """Log-odds of `p` less the logarithm of `q`, at least LEAST_WEIGHT: the weight of naive Bayes."""
    cheapest_first: tuple[int, ...]
    best_first: tuple[int, ...]
    """By accuracy; of equals the cheaper one first."""


def fit_members(rows: Sequence[LabelledRow], size: int) -> Fits:
    """Measure the members on labeled rows.

    Args:
        rows: Labeled rows.
        size: How many members there are.
    """
    members = range(size)
    right, answered = [0] * size, [0] * size
    same = pairs = 0
    for (pattern, truth), times in Counter((row.pattern, row.truth) for row in rows).items():
        for member, number in enumerate(pattern):
            answered[member] += times * (number is not None)
            right[member] += times * (number is not None and number == truth)
        wrong = [number for number in pattern if number is not None and number != truth]
        for first, second in combinations(wrong, 2):
            pairs += times
            same += times * (first == second)
    p = [(hits + 1) / (given + 2) for hits, given in zip(right, answered, strict=True)]
    q = (same + 1) / (pairs + 2)
    odds = [math.log(one / (1 - one)) for one in p]
    cost = [_mean_cost(rows, member) for member in members]
    return Fits(
        accuracy=tuple(hits / len(rows) for hits in right),
        cost=tuple(cost),
        p=tuple(p),
        q=q,
        weights=tuple(max(LEAST_WEIGHT, one) for one in odds),
        weights_q=tuple(max(LEAST_WEIGHT, one - math.log(q)) for one in odds),
        cheapest_first=tuple(sorted(members, key=lambda member: cost[member])),
        best_first=tuple(sorted(members, key=lambda member: (-right[member], cost[member]))),
    )


def _mean_cost(rows: Sequence[LabelledRow], member: int) -> float:
    costs = [row.answers[member].cost_usd for row in rows]
    return sum(math.inf if cost is None else cost for cost in costs) / len(costs)


def fit_without_labels(rows: Sequence[LabelledRow], size: int) -> tuple[float, ...]:
    """Estimate from agreement alone how often each member is right when it answers; no label is read.

    Expectation maximization of the one-coin model of Dawid and Skene (1979): a member is right with a probability of
    its own, and a wrong answer is any of the others of CLASSES. It begins with each answer's share of the votes.
    """
    patterns = Counter(row.pattern for row in rows)
    answered = [sum(times for one, times in patterns.items() if one[member] is not None) for member in range(size)]

    def maximized(belief: dict[Pattern, dict[int, float]]) -> list[float]:
        right = [0.0] * size
        for pattern, times in patterns.items():
            for member, number in enumerate(pattern):
                if number is not None:
                    right[member] += times * belief[pattern][number]
        return [(hits + 1) / (given + 2) for hits, given in zip(right, answered, strict=True)]

    voters = {pattern: voters_of(pattern) for pattern in patterns}
    p = maximized(
        {
            pattern: {number: len(found) / sum(map(len, given.values())) for number, found in given.items()}
            for pattern, given in voters.items()
        }
    )
    for _ in range(1000):
        weights = without_label_weights(p)
        belief = {}
        for pattern, given in voters.items():
            odds = {number: math.exp(sum(weights[voter] for voter in found)) for number, found in given.items()}
            whole = sum(odds.values()) + max(0, CLASSES - len(given))
            belief[pattern] = {number: one / whole for number, one in odds.items()}
        before, p = p, maximized(belief)
        if max(abs(old - new) for old, new in zip(before, p, strict=True)) < 1e-10:
            break
    return tuple(p)


def without_label_weights(p: Sequence[float]) -> list[float]:
    """Return what a member's vote counts in the one-coin model if it is right with probability `p`."""
    return [math.log(one / (1 - one) * (CLASSES - 1)) for one in p]
