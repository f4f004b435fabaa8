"""How alike texts are, by one of two measures: their wording, or the vectors of an embedding model.

Every count that compares free texts (`agreement`, `medoid`, `clusters`, the stop of a flow) takes a `Likeness`, and is
the same for both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import mul
from typing import NamedTuple

from consensus_flows.tasks.counting.wording import coded, similarity_of_words

LEXICAL_MEASURE = "lexical"


class Nearness(NamedTuple):
    """What all pairs of some texts come to."""

    mean: float | None
    """Mean similarity of all pairs; None for fewer than two texts."""
    nearest: int
    """Index of the text that is nearest to all others."""


@dataclass(frozen=True)
class Likeness:
    """A measure of how alike two texts are, from 0 to 1.

    Attributes:
        measure: What it is called in the record: `lexical`, or `embedding:provider/model`.
        vectors: For each text that can be compared its vector, of length 1; None compares wording.
        memo: What was found out of texts that were compared, so that the same ones are compared once; None keeps nothing.
    """

    measure: str = LEXICAL_MEASURE
    vectors: Mapping[str, Sequence[float]] | None = field(default=None, repr=False)
    memo: dict[tuple[str, ...], Nearness] | None = field(default_factory=dict, repr=False, compare=False)

    def among(self, texts: Sequence[str]) -> Callable[[int, int], float]:
        """Return what compares two of `texts`, by their indices.

        Raises:
            KeyError: If a text has no vector; a measure is made for the texts that it compares.
        """
        if self.vectors is None:
            split = coded(texts)
            return lambda one, other: similarity_of_words(split[one], split[other])
        known = [self.vectors[text] for text in texts]
        return lambda one, other: 1.0 if texts[one] == texts[other] else cosine(known[one], known[other])

    def between(self, one: str, other: str) -> float:
        """Return how alike two texts are."""
        return self.among([one, other])(0, 1)


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine of two vectors of length 1, from 0 to 1.

    A cosine goes from -1 to 1. What is below 0 counts as 0: texts that have nothing to do with each other are near 0
    with every model, and less alike than that nothing is.

    Raises:
        ValueError: If the vectors have different dimensions.
    """
    if len(one) != len(other):
        raise ValueError(f"a vector of {len(one)} dimensions cannot be compared with one of {len(other)}")
    return min(1.0, max(0.0, float(sum(map(mul, one, other)))))


LEXICAL = Likeness(memo=None)
"""Compares wording; asks nobody, and costs nothing."""
