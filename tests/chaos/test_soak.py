"""Two thousand task runs in one process: memory, threads, sockets and open files are back to where they began."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.figures import tell
from tests.safety.test_soak import check, soak
from tests.vendors import LoopbackVendors

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="what a process holds is read in /proc"),
]
CALLS = 2000
GROWTH_KB = 8 * 1024
"""What memory may grow over the last three fifths: less than seven kilobytes a call."""


def test_two_thousand_task_runs(results: str, vendors: LoopbackVendors, tmp_path: Path) -> None:
    found = soak(CALLS, tmp_path)
    tell("soak", first=found[0], last=found[-1], memory_kb=[one["memory_kb"] for one in found])
    check(found, CALLS)
    assert vendors.count() == CALLS + found[0]["calls"]
    # The first parts fill caches that have a bound; from then on a leak would go on growing.
    assert found[-1]["memory_kb"] - found[2]["memory_kb"] < GROWTH_KB, found
