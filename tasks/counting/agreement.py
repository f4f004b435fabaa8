"""How alike the members' answers are: measured from the texts, never asked of a model."""

import math
import re
import unicodedata
from collections.abc import Sequence
from itertools import combinations, islice

from rapidfuzz.distance import Indel

MAX_WORDS = 2000
"""Words of a text that are compared; the comparison's time grows with their square."""

# Chinese and Japanese are written without spaces, so there each character counts as a word.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+(?:[.,]\d+)*"
)
_CHARACTERS_PER_WORD = 50


def words(text: str) -> list[str]:
    """Return the words and numbers of `text` without regard to case, at most `MAX_WORDS`.

    A text without any, such as an emoji, counts as its characters, so that it is not taken for an empty one.
    """
    head = unicodedata.normalize("NFKC", text[: MAX_WORDS * _CHARACTERS_PER_WORD]).casefold()
    found = [match[0] for match in islice(_WORD.finditer(head), MAX_WORDS)]
    return found or list("".join(head.split()))[:MAX_WORDS]


def similarity(one: str, other: str) -> float:
    """Return how alike two texts are, from 0 to 1: ROUGE-L's F1 over words (Lin 2004).

    It compares wording: two texts that say the same in other words score low, a text and its negation high.
    """
    return _similarity(words(one), words(other))


def _similarity(one: list[str], other: list[str]) -> float:
    # Twice the longest common subsequence over both lengths, which is ROUGE-L's F1.
    return float(Indel.normalized_similarity(one, other))


def agreement(texts: Sequence[str]) -> float | None:
    """Return the mean similarity of all pairs of `texts`, or None for fewer than two."""
    if len(texts) < 2:
        return None
    pairs = [_similarity(one, other) for one, other in combinations(map(words, texts), 2)]
    return round(math.fsum(pairs) / len(pairs), 4)


def medoid(texts: Sequence[str]) -> int:
    """Return the index of the text that is nearest to all others; of equals, the first.

    Raises:
        ValueError: If there are no texts.
    """
    if not texts:
        raise ValueError("there is no text to choose from")
    split = [words(text) for text in texts]
    nearness = [math.fsum(_similarity(one, other) for other in split) for one in split]
    return max(range(len(texts)), key=lambda index: (nearness[index], -index))
