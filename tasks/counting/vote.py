"""Counts votes. A plain count, exact, with a stated rule for ties; no model is asked."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Count:
    """The votes for one answer; `voters` are positions in the list of members."""

    value: Hashable
    votes: float
    voters: tuple[int, ...]


@dataclass(frozen=True)
class Tally:
    """How a vote ended.

    The winner is the answer of the most votes. Of a tie, it is the one whose first voter is listed first.
    """

    counts: tuple[Count, ...]
    """From most to fewest votes; of equals the one whose first voter is listed first comes first."""
    cast: float
    """All votes, abstentions left out."""
    tie: bool
    """Whether several answers have the most votes."""
    unanimous: bool
    """Whether every member voted, all for the same."""

    @property
    def winner(self) -> Count | None:
        """The answer that has won, or None when nobody voted."""
        return self.counts[0] if self.counts else None

    @property
    def share(self) -> float | None:
        """The winner's part of the votes cast, 0 to 1, or None when nobody voted."""
        return self.counts[0].votes / self.cast if self.counts and self.cast else None

    @property
    def margin(self) -> float | None:
        """By how much of the votes cast the winner is ahead of the next, 0 to 1, or None when nobody voted."""
        if not self.counts or not self.cast:
            return None
        following = self.counts[1].votes if len(self.counts) > 1 else 0.0
        return (self.counts[0].votes - following) / self.cast

    def reached(self, votes: float) -> bool:
        """Tell whether an answer has as many `votes`."""
        return bool(self.counts) and self.counts[0].votes >= votes


def count_votes(values: Sequence[Hashable | None], weights: Sequence[float] | None = None) -> Tally:
    """Count the votes of members.

    Args:
        values: What each member voted for, in the order in which the members are listed; None for an abstention.
        weights: What each member's vote counts; one vote each by default.

    Raises:
        ValueError: If there are not as many weights as values, or a weight is not above 0 and finite.
    """
    weights = [1.0] * len(values) if weights is None else weights
    if len(weights) != len(values):
        raise ValueError(f"there are {len(values)} votes, but {len(weights)} weights")
    if wrong := [weight for weight in weights if not 0 < weight < math.inf]:
        raise ValueError(f"the weight {wrong[0]} is not above 0 and finite")
    voters: dict[Hashable, list[int]] = {}
    for index, value in enumerate(values):
        if value is not None:
            voters.setdefault(value, []).append(index)
    # Exact, as they are written: 0.1 + 0.2 and 0.3 are a tie.
    exact = [Fraction(repr(float(weight))) for weight in weights]
    sums = {value: sum((exact[index] for index in found), Fraction()) for value, found in voters.items()}
    order = sorted(sums, key=lambda value: -sums[value])  # stable, so equals stay in the order of their first voters
    return Tally(
        counts=tuple(Count(value, float(sums[value]), tuple(voters[value])) for value in order),
        cast=float(sum(sums.values(), Fraction())),
        tie=len(order) > 1 and sums[order[0]] == sums[order[1]],
        unanimous=len(order) == 1 and len(voters[order[0]]) == len(values),
    )
