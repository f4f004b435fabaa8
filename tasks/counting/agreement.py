"""How alike texts are, and what that comes to: agreement, the answer nearest to all others, groups. No model judges.

Texts are compared by one of two measures: their wording, as ROUGE-L's F1 over words (Lin 2004), or the vectors of an
embedding model. Every count that compares free texts takes a `Likeness`, and is the same for both.
"""

import math
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, islice
from operator import mul
from typing import NamedTuple

from rapidfuzz.distance import Indel

from consensus_flows.tasks.record import Response, Synthesis

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


def agreement(texts: Sequence[str], likeness: Likeness = LEXICAL) -> float | None:
    """Return the mean similarity of all pairs of `texts`, or None for fewer than two."""
    return _nearness(texts, likeness).mean


def medoid(texts: Sequence[str], likeness: Likeness = LEXICAL) -> int:
    """Return the index of the text that is nearest to all others; of equals, the first.

    Raises:
        ValueError: If there are no texts.
    """
    if not texts:
        raise ValueError("there are no texts: give at least one")
    return _nearness(texts, likeness).nearest


def _nearness(texts: Sequence[str], likeness: Likeness) -> Nearness:
    """Compare every two of `texts`; equal ones are compared once."""
    known = {} if likeness.memo is None else likeness.memo
    key = tuple(texts)
    if key not in known:
        different = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        near = likeness.among(list(different))
        table = [[1.0] * len(different) for _ in different]
        for one in range(len(different)):
            for other in range(one):
                table[one][other] = table[other][one] = near(other, one)
        places = [different[text] for text in texts]
        sums = [math.fsum(row[place] for place in places) for row in table]
        pairs = [table[one][other] for one, other in combinations(places, 2)]
        mean = round(math.fsum(pairs) / len(pairs), 4) if pairs else None
        nearest = max(range(len(texts)), key=lambda index: (sums[places[index]], -index), default=0)
        known[key] = Nearness(mean, nearest)
    return known[key]


def nearest(responses: Sequence[Response], method: str = "medoid", likeness: Likeness = LEXICAL) -> Synthesis:
    """Return the answer that is nearest to all others, word for word.

    Args:
        responses: The answers of those members that did not fail; at least one.
        method: What the record says of how it was made.
        likeness: How nearness is measured.
    """
    chosen = responses[medoid([response.text or "" for response in responses], likeness)]
    return Synthesis(text=chosen.text or "", chosen=chosen.member, method=method)


def clusters(texts: Sequence[str], alike: float, likeness: Likeness = LEXICAL) -> list[int]:
    """Return for each text the number of its group; groups are numbered from 0 in the order of their first text.

    Complete linkage: in a group every two texts are at least `alike`. A chain of texts, each like its neighbour, is
    therefore not one group. The nearest groups are joined first, of equally near ones the earliest.

    Args:
        texts: The texts.
        alike: Similarity, 0 to 1, from which two texts may be in one group.
        likeness: How similarity is measured.
    """
    compared = likeness.among(texts)
    near = {(one, other): compared(one, other) for other in range(len(texts)) for one in range(other)}
    groups = [[index] for index in range(len(texts))]
    while len(groups) > 1:
        linked = {
            (first, second): min(near[min(a, b), max(a, b)] for a in groups[first] for b in groups[second])
            for second in range(len(groups))
            for first in range(second)
        }
        first, second = max(linked, key=lambda pair: (linked[pair], -pair[0], -pair[1]))
        if linked[first, second] < alike:
            break
        groups[first] += groups.pop(second)
    numbers = {index: number for number, group in enumerate(groups) for index in group}
    return [numbers[index] for index in range(len(texts))]
