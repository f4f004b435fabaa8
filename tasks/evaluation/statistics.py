"""Whether one way to ask is better than another on the same questions: paired statistics over questions.

numpy and scipy are imported when they are needed: asking and counting do without them.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

DRAWS = 2_000
"""Of a bootstrap."""
LEVEL = 0.95
"""Of all intervals."""
ALPHA = 1 - LEVEL
Interval = tuple[float, float]
Key = TypeVar("Key", bound=Hashable)
_TWO_SIDED = 1.96
_SIGN_TEST = 7.85
"""The square of 1.96 + 0.84: a two-sided test at 5 % that finds the difference in 80 of 100 trials."""


class Paired(NamedTuple):
    """How often only one of two ways is right.

    Attributes:
        better: Questions on which only the first is right.
        worse: Questions on which only the second is right.
        p: Of McNemar's exact test; 1 where they never differ.
    """

    better: int
    worse: int
    p: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Compare two ways on the same questions by McNemar's exact test: the binomial test of the questions on which they differ."""
    from scipy.stats import binomtest

    better = sum(a and not b for a, b in zip(first, second, strict=True))
    worse = sum(b and not a for a, b in zip(first, second, strict=True))
    p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return Paired(better, worse, p)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values of several comparisons after Holm (1979)."""
    adjusted, least = dict[str, float](), 0.0
    for place, name in enumerate(sorted(p, key=lambda name: p[name])):
        least = max(least, min(1.0, (len(p) - place) * p[name]))
        adjusted[name] = least
    return adjusted


def least_difference(better: int, worse: int, rows: int) -> float:
    """Return the lower end of the interval of a paired difference, after Agresti and Min (2005).

    A bootstrap of few rows, none of which was lost, would say that none ever is.

    Args:
        better: Questions on which only the first is right.
        worse: Questions on which only the second is right.
        rows: All questions.
    """
    b, c, n = better + 0.5, worse + 0.5, rows + 2
    return ((b - c) - _TWO_SIDED * math.sqrt(b + c - (b - c) ** 2 / n)) / n


def rows_needed(gain: float, differ: float) -> int | None:
    """Return how many questions it takes to show a gain, by the power of the sign test: 7.85 (d - g^2) / g^2.

    Args:
        gain: The difference of the accuracies.
        differ: The share of the questions on which exactly one of the two is right.

    Returns:
        The number, or None where the gain is 0 or larger than that share lets it be.
    """
    if not 0 < abs(gain) <= differ:
        return None
    return math.ceil(_SIGN_TEST * (differ - gain**2) / gain**2)


def clopper_pearson(right: int, of: int) -> Interval:
    """Return the exact interval of a share."""
    from scipy.stats import binomtest

    found = binomtest(right, of).proportion_ci(LEVEL, method="exact")
    return float(found.low), float(found.high)


def bootstrap(columns: Mapping[Key, Sequence[float]], *, seed: int = 0) -> dict[Key, Interval]:
    """Return the interval of the mean of each column, over the same draws of questions for all.

    A difference of two ways is a column of its own, so that it is paired.

    Args:
        columns: A value for each question.
        seed: Draws other questions.
    """
    import numpy as np

    values = np.array(list(columns.values()), dtype=float).T
    rows = len(values)
    random = np.random.default_rng(seed)
    means = np.concatenate(
        # A thousand draws of a large file would not fit into memory at once.
        [random.multinomial(rows, np.full(rows, 1 / rows), size=DRAWS // 20) @ values / rows for _ in range(20)]
    )
    low, high = np.quantile(means, [ALPHA / 2, 1 - ALPHA / 2], axis=0)
    return {name: (float(low[at]), float(high[at])) for at, name in enumerate(columns)}
