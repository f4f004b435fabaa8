"""Which rows are fitted on and which are judged: decided by the ids alone, so that anybody gets the same split."""

import hashlib
from collections.abc import Sequence

from consensus_flows.tasks.evaluation.rows import LabelledRow

FOLDS = 5


def halves(rows: Sequence[LabelledRow], seed: int = 0) -> tuple[list[LabelledRow], list[LabelledRow]]:
    """Split rows into a half to calibrate on and a half to test on.

    The rows are sorted by the SHA-256 of `SEED:ID`, and the first half, rounded down, calibrates.
    """
    ordered = sorted(rows, key=lambda row: _digest(f"{seed}:{row.id}"))
    middle = len(ordered) // 2
    return ordered[:middle], ordered[middle:]


def fold_of(row: LabelledRow, folds: int = FOLDS) -> int:
    """Return the fold of a row: the SHA-256 of its id, modulo the number of folds."""
    return int(_digest(row.id), 16) % folds


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
