"""How alike the members' answers are: measured from the texts, never asked of a model."""

import re
from collections.abc import Sequence
from itertools import combinations

from rapidfuzz.distance import Indel

MAX_WORDS = 2000
"""Words of a text that are compared; the comparison's time grows with their square."""

_WORD = re.compile(r"\w+(?:[.,]\d+)*", re.UNICODE)


def words(text: str) -> list[str]:
    """Return the words and numbers of `text` in lower case, at most `MAX_WORDS`."""
    return [word.lower() for word in _WORD.findall(text)[:MAX_WORDS]]


def similarity(one: str, other: str) -> float:
    """Return how alike two texts are, from 0 to 1: ROUGE-L's F1 over words (Lin 2004).

    It compares wording: two texts that say the same in other words score low, a text and its negation high.
    """
    return float(Indel.normalized_similarity(words(one), words(other)))


def agreement(texts: Sequence[str]) -> float | None:
    """Return the mean similarity of all pairs of `texts`, or None for fewer than two."""
    if len(texts) < 2:
        return None
    pairs = [similarity(one, other) for one, other in combinations(texts, 2)]
    return round(sum(pairs) / len(pairs), 4)


def medoid(texts: Sequence[str]) -> int:
    """Return the index of the text that is nearest to all others; of equals, the first.

    Raises:
        ValueError: If there are no texts.
    """
    if not texts:
        raise ValueError("there is no text to choose from")
    nearness = [sum(similarity(one, other) for other in texts) for one in texts]
    return max(range(len(texts)), key=lambda index: (nearness[index], -index))
