"""Nothing that reads what a model or a server wrote holds the event loop up, whatever is repeated in it without end."""

import time

import pytest

from tests.kits.floods import READERS, WORST, floods

LIMIT_S = 0.3
"""A processor that others use too took 0.13."""


@pytest.mark.parametrize("name", READERS)
def test_a_flood_is_read_in_no_time(name):
    """Of the processor's own time, 8,000 characters take a few milliseconds, and the square of them a second."""
    for text in floods(8_000):
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
