"""Calls leave nothing behind; `make chaos` makes two thousand, here there are a few."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL

from tests.vendors import LoopbackVendors

ROOT = Path(__file__).parent.parent.parent
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
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.soak", str(calls)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(found: list[dict[str, Any]], calls: int) -> None:
    """What is held is back to where it began, after a warm-up: what a process imports and keeps at hand is no leak."""
    first, last = found[0], found[-1]
    assert sum(one["calls"] for one in found[1:]) == calls
    for name, spare in (("threads", 4), ("sockets", 4), ("files", 2), ("descriptors", 6)):
        assert last[name] <= first[name] + spare, (name, found)


@pytest.mark.timeout(300)
def test_calls_leave_no_thread_socket_or_file_open(results: str, vendors: LoopbackVendors, tmp_path: Path) -> None:
    found = soak(100, tmp_path)
    check(found, 100)
    assert vendors.count() == 120
