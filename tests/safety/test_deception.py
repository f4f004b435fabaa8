"""A deceptive member of six, on a sample of the recorded answers; `benchmarks/deception.py` measures all of them."""

import sys
from pathlib import Path

import pytest

from tests.kits.recorded import GSM, MATH, PARSED_GSM

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))
import deception

SAMPLE = 150
pytestmark = pytest.mark.skipif(
    not all(path.exists() for path in (GSM, MATH, PARSED_GSM)), reason=f"the recorded answers are not in {GSM.parent}"
)


def test_what_one_deceiver_can_do():
    rows = {(row.data, row.panel): row for row in deception.figures(SAMPLE)}
    for data in ("gsm", "math-l5"):
        five = rows[data, "five"]
        assert five.questions == SAMPLE
        # Who is always wrong in a way of its own decides nothing when listed last: ties go to who is listed first.
        assert rows[data, "six, one always wrong, listed last"].right == five.right
        assert rows[data, "six, one always wrong, listed first"].right <= five.right
        last = rows[data, "six, one colludes with the most common wrong answer, listed last"]
        first = rows[data, "six, one colludes with the most common wrong answer, listed first"]
        assert first.right <= last.right < five.right
        assert last.right + last.deceiver_wins == pytest.approx(100, abs=0.02)


def test_the_deceiver_is_never_right():
    assert deception.misled([18.0, 18.0, 7.0], 18.0, colluding=True) == 7.0
    assert deception.misled([18.0, 18.0, None], 18.0, colluding=True) == deception.WRONG
    assert deception.misled([18.0, 7.0], 18.0, colluding=False) == deception.WRONG
