"""How good a judge of pairs is, and what sways it: pure figures over pairs whose better answer is known.

Each pair is judged in both orders. After LLMBar (arXiv:2310.07641) for the adversarial pairs, and Zheng et al.
(arXiv:2306.05685) for the bias of position and of length.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel

from consensus_flows.tasks.record import Outcome

Side = Literal["first", "second"]


class JudgedPair(NamedTuple):
    """What a judge said of a pair whose better answer is known.

    Attributes:
        better: The better answer, as a person found.
        longer: The longer answer; of two that are equally long, the second.
        said: What the judge said where the first was shown first, and where it was shown second; both name the answers as
            they are in the pair. None where it said nothing that could be read.
    """

    better: Side
    longer: Side
    said: tuple[Outcome | None, Outcome | None]

    @property
    def consistent(self) -> bool:
        """Whether the judge said the same in both orders."""
        return None not in self.said and self.said[0] == self.said[1]

    @property
    def right(self) -> float:
        """1 if both orders are right, 0 if both are wrong, and a half for a tie, which a disagreement of the orders is too."""
        return 0.5 if not self.consistent or self.said[0] == "tie" else float(self.said[0] == self.better)


class Consistency(BaseModel):
    """Whether a judge of pairs says the same in both orders; numbers of pairs."""

    n: int
    consistent: int
    """Pairs of which it said the same in both orders."""
    flips: int
    """Pairs of which it said one thing in one order and another in the other."""
    flips_to_the_one_shown_first: int
    """Of these, those where it took each time the answer that was shown first."""
    unread: int
    """Pairs of which an order could not be read."""


class PairFigures(Consistency):
    """How a judge does on pairs whose better answer is known; numbers of pairs."""

    right_in_the_first_order: int
    right_if_consistent: int
    right_ties_half: float
    """Right by both orders, a tie or a disagreement counting as half a pair."""
    label_is_the_longer: int
    """Pairs whose better answer is the longer one: what a judge gets right that always takes the longer."""
    right_where_longer: float
    """Of these pairs, those that it gets right, ties half."""

    @property
    def accuracy(self) -> float:
        """The share it gets right by both orders, ties half."""
        return self.right_ties_half / self.n


def consistency(said: Sequence[tuple[Outcome | None, Outcome | None]]) -> Consistency:
    """Count what a judge said of pairs in both orders; see `JudgedPair`."""
    read = [one for one in said if None not in one]
    return Consistency(
        n=len(said),
        consistent=sum(one == other for one, other in read),
        flips=sum(one != other for one, other in read),
        flips_to_the_one_shown_first=read.count(("first", "second")),
        unread=len(said) - len(read),
    )


def pair_figures(pairs: Sequence[JudgedPair]) -> PairFigures:
    """Count what a judge said of `pairs`."""
    longer = [pair for pair in pairs if pair.better == pair.longer]
    return PairFigures(
        **consistency([pair.said for pair in pairs]).model_dump(),
        right_in_the_first_order=sum(pair.said[0] == pair.better for pair in pairs),
        right_if_consistent=sum(pair.consistent and pair.said[0] == pair.better for pair in pairs),
        right_ties_half=sum(pair.right for pair in pairs),
        label_is_the_longer=len(longer),
        right_where_longer=sum(pair.right for pair in longer),
    )


def longer(first: str, second: str) -> Side:
    """Return which of two texts is longer; of two that are equally long, the second."""
    return "first" if len(first) > len(second) else "second"
