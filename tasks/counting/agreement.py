"""How far the members' answers agree: measured from the texts, never asked of a model that judges."""

import math
from collections.abc import Sequence
from itertools import combinations

from tasks.counting.likeness import LEXICAL, Likeness


def agreement(texts: Sequence[str], likeness: Likeness = LEXICAL) -> float | None:
    """Return the mean similarity of all pairs of `texts`, or None for fewer than two."""
    if len(texts) < 2:
        return None
    near = likeness.among(texts)
    pairs = [near(one, other) for one, other in combinations(range(len(texts)), 2)]
    return round(math.fsum(pairs) / len(pairs), 4)


def medoid(texts: Sequence[str], likeness: Likeness = LEXICAL) -> int:
    """Return the index of the text that is nearest to all others; of equals, the first.

    Raises:
        ValueError: If there are no texts.
    """
    if not texts:
        raise ValueError("there is no text to choose from")
    near = likeness.among(texts)
    others = range(len(texts))
    nearness = [math.fsum(near(one, other) for other in others) for one in others]
    return max(others, key=lambda index: (nearness[index], -index))
