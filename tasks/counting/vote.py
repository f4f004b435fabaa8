"""Counts votes. A plain count, exact, with a stated rule for ties; no model is asked."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
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

    The winner is the answer of the most votes. Of a tie, it is the one that has the voter of the first place.
    """

    counts: tuple[Count, ...]
    """From most to fewest votes; of equals the one that has the voter of the first place comes first."""
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
        """By how much of the votes cast the winner is ahead of the best other answer, or None when nobody voted."""
        if not self.counts or not self.cast:
            return None
        return (self.counts[0].votes - max((count.votes for count in self.counts[1:]), default=0.0)) / self.cast

    def reached(self, votes: float) -> bool:
        """Tell whether an answer has as many `votes`."""
        return bool(self.counts) and self.counts[0].votes >= votes

    def won_by(self, value: Hashable) -> "Tally":
        """Return the same votes with the answer that has won by something else than their number."""
        found = [count for count in self.counts if count.value == value] or [Count(value, 0.0, ())]
        others = (count for count in self.counts if count.value != value)
        return replace(self, counts=(*found, *others), tie=False)


def count_votes(
    values: Sequence[Hashable | None], weights: Sequence[float] | None = None, places: Sequence[int] | None = None
) -> Tally:
    """Count the votes of members.

    Args:
        values: What each member voted for; None for an abstention.
        weights: What each member's vote counts; one vote each by default.
        places: The place of each member in the order in which they win ties; by default the order of `values`.

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
    places = range(len(values)) if places is None else places
    order = sorted(sums, key=lambda value: (-sums[value], min(places[voter] for voter in voters[value])))
    return Tally(
        counts=tuple(Count(value, float(sums[value]), tuple(voters[value])) for value in order),
        cast=float(sum(sums.values(), Fraction())),
        tie=len(order) > 1 and sums[order[0]] == sums[order[1]],
        unanimous=len(order) == 1 and len(voters[order[0]]) == len(values),
    )
