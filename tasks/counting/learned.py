"""A vote whose counting was learned from labeled rows: how probable it is of each answer that it is right."""

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from operator import mul
from typing import TypeVar

from consensus_flows.blocks.calibration import PAIR, LearnedVote

Answer = TypeVar("Answer", bound=Hashable)


def features(voters: Sequence[int], members: int) -> list[float]:
    """Describe an answer by who gave it.

    The order is that of `LearnedVote`: an indicator for each member, the share of the members, whether two or more
    gave it, whether all did, and the products of the indicators of each pair of members.

    Args:
        voters: Positions of the members that gave the answer.
        members: How many members there are.
    """
    gave = [float(position in voters) for position in range(members)]
    count = len(voters)
    return [
        *gave,
        count / members,
        float(count >= 2),
        float(count == members),
        *(first * second for first, second in combinations(gave, 2)),
    ]


def coefficients(learned: LearnedVote, members: Sequence[str]) -> list[float]:
    """List the coefficients in the order of `features`; a member or a pair that is not named counts nothing."""
    return [
        *(learned.members.get(name, 0.0) for name in members),
        learned.share,
        learned.two_or_more,
        learned.unanimous,
        *(learned.pairs.get(f"{a}{PAIR}{b}", 0.0) for a, b in combinations(members, 2)),
    ]


def probabilities(
    learned: LearnedVote, voters_by_answer: Mapping[Answer, Sequence[int]], members: Sequence[str]
) -> dict[Answer, float]:
    """Return for each answer the probability that it is right.

    Args:
        learned: The fitted coefficients.
        voters_by_answer: For each answer that was given, the positions of its voters in `members`.
        members: The names of all members in order, those included that were not asked or gave no answer.
    """
    weights = coefficients(learned, members)
    return {
        answer: _logistic(learned.intercept + math.fsum(map(mul, weights, features(voters, len(members)))))
        for answer, voters in voters_by_answer.items()
    }


def _logistic(value: float) -> float:
    return 0.5 * (1 + math.tanh(value / 2))
