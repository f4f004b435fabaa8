"""Whether stated probabilities hold: how often answers are right, by how sure the panel said it was."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean

from pydantic import BaseModel

GROUPS = 10
"""Groups of equal width, from 0 to 1."""


class Bin(BaseModel):
    """Answers of about the same stated probability."""

    stated: float
    """Their mean."""
    right: float
    """Share of them that is right."""
    rows: int


def grouped(stated: Iterable[tuple[float, bool]]) -> list[Bin]:
    """Group answers by how sure the panel was of them, 0 to 1, and whether they were right; a group of none is left out."""
    groups = defaultdict[int, list[tuple[float, bool]]](list)
    for sure, right in stated:
        groups[min(int(sure * GROUPS), GROUPS - 1)].append((sure, right))
    return [
        Bin(stated=fmean(sure for sure, _ in group), right=fmean(right for _, right in group), rows=len(group))
        for _, group in sorted(groups.items())
    ]


def calibration_error(groups: Sequence[Bin]) -> float:
    """Return the expected calibration error: how far stated and right are apart, weighted by rows."""
    rows = sum(one.rows for one in groups)
    return math.fsum(one.rows * abs(one.stated - one.right) for one in groups) / rows if rows else 0.0
