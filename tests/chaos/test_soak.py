"""Calls leave nothing behind: memory, threads, sockets and files. Two thousand calls with -m chaos, else a few."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL

from tests.chaos.figures import tell
from tests.kits import processes
from tests.vendors import LoopbackVendors

ROOT = Path(__file__).parent.parent.parent
GROWTH_KB = 8 * 1024
"""What memory may grow over the last three fifths of two thousand calls: less than seven kilobytes a call."""
pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="what a process holds is read in /proc")


def soak(calls: int, folder: Path) -> list[dict[str, Any]]:
    """Run the soak in a process of its own; the vendors' addresses are in the environment already."""
    environment = os.environ | {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(folder / "results"),
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.chaos.soak", str(calls)]
    done = processes.run(command, cwd=ROOT, env=environment, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(found: list[dict[str, Any]], calls: int) -> None:
    """What is held is back to where it began, after a warm-up: what a process imports and keeps at hand is no leak."""
    first, last = found[0], found[-1]
    assert sum(one["calls"] for one in found[1:]) == calls
    for name, spare in (("threads", 4), ("sockets", 4), ("files", 2), ("descriptors", 6)):
        assert last[name] <= first[name] + spare, (name, found)


@pytest.mark.parametrize("calls", [50, pytest.param(2000, marks=pytest.mark.chaos)])
def test_calls_leave_nothing_behind(calls: int, results: str, vendors: LoopbackVendors, tmp_path: Path) -> None:
    found = soak(calls, tmp_path)
    tell("soak", first=found[0], last=found[-1], memory_kb=[one["memory_kb"] for one in found])
    check(found, calls)
    assert vendors.count() == calls + found[0]["calls"]
    # The first parts fill caches that have a bound; from then on a leak would go on growing. A few calls tell nothing of it.
    if calls >= 2000:
        assert found[-1]["memory_kb"] - found[2]["memory_kb"] < GROWTH_KB, found
