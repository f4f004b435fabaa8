"""Nothing that reads what a model or a server wrote holds the event loop up, whatever is repeated in it without end."""

import time
from itertools import islice

import pytest

from tests.kits.floods import READERS, WORST, floods

LIMIT_S = 0.3
"""A processor that others use too took 0.13."""


@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.chaos)])
@pytest.mark.parametrize("name", READERS)
def test_a_flood_is_read_in_no_time(name, step):
    """Of the processor's own time, 8,000 characters take a few milliseconds, and the square of them a second.

    Every head and every piece is met also in steps of 13.
    """
    for text in islice(floods(8_000), 0, None, step):
        # A second look, because collecting garbage may fall into the first.
        if _seconds(name, text) > LIMIT_S:
            taken = _seconds(name, text)
            assert taken < LIMIT_S, f"{taken:.1f} s for {text[:30]!r} ... {text[-5:]!r}"


@pytest.mark.parametrize("name", READERS)
def test_the_worst_that_were_met_are_read_in_a_second(name):
    for head, piece, tail in WORST:
        text = f"{head}{(piece * 200_000)[:200_000]}{tail}"
        taken = _seconds(name, text)
        assert taken < 1, f"{taken:.1f} s for {head!r} {piece!r} {tail!r}"


def _seconds(name, text):
    started = time.thread_time()
    READERS[name](text)
    return time.thread_time() - started
