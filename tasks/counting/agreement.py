"""How far the members' answers agree: measured from the texts, never asked of a model that judges."""

import math
from collections.abc import Sequence
from itertools import combinations

from consensus_flows.tasks.counting.likeness import LEXICAL, Likeness, Nearness
from consensus_flows.tasks.record import Response, Synthesis


def agreement(texts: Sequence[str], likeness: Likeness = LEXICAL) -> float | None:
    """Return the mean similarity of all pairs of `texts`, or None for fewer than two."""
    return _nearness(texts, likeness).mean


def medoid(texts: Sequence[str], likeness: Likeness = LEXICAL) -> int:
    """Return the index of the text that is nearest to all others; of equals, the first.

    Raises:
        ValueError: If there are no texts.
    """
    if not texts:
        raise ValueError("there is no text to choose from")
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
