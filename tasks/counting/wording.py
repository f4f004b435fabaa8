"""How alike two texts are in their wording: ROUGE-L's F1 over words (Lin 2004)."""

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import chain, islice

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
    """Return how alike two texts are, from 0 to 1: ROUGE-L's F1 over words.

    It compares wording: two texts that say the same in other words score low, a text and its negation high.
    """
    return similarity_of_words(words(one), words(other))


def similarity_of_words(one: Sequence[str], other: Sequence[str]) -> float:
    """Return ROUGE-L's F1 of two lists of words, or of two texts of `coded`, from 0 to 1."""
    # Twice the longest common subsequence over both lengths, which is ROUGE-L's F1.
    return float(Indel.normalized_similarity(one, other))


def coded(texts: Sequence[str]) -> Sequence[Sequence[str]]:
    """Return the words of each text as one text with a character a word: what is compared often is compared faster so.

    The same word is the same character in all of them. The most frequent words get the first ones, for which the
    library looks up a table.
    """
    split = [words(text) for text in texts]
    counted = Counter(chain.from_iterable(split))
    if len(counted) > sys.maxunicode:
        return split
    codes = {word: chr(code) for code, (word, _) in enumerate(counted.most_common())}
    return ["".join(map(codes.__getitem__, one)) for one in split]
