"""SIGKILL at every point of every flow: what was answered is not paid again, and the answer is that of a quiet run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prefect.settings import PREFECT_API_URL

from tests.chaos.figures import tell
from tests.chaos.kill_points import CONFIGURATIONS, points_of
from tests.vendors import LoopbackVendors

ROOT = Path(__file__).resolve().parent.parent.parent
FLOWS = (*CONFIGURATIONS, "batch")
LATENCY_S = 0.1
AT_ONCE = {"batch": 9, "vote": 6}
"""Calls that a flow has under way at once, where it is not one a member: three rows, and each pair in both orders."""
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


class Ended(NamedTuple):
    code: int
    found: dict[str, Any] | None
    errors: str


def run(flow: str, point: str, nth: int, folder: Path) -> Ended:
    """Run a flow in a process of its own, with a home, a history and a result folder of its own."""
    folder.mkdir(exist_ok=True)
    environment = os.environ | {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(folder / "results"),
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.kill_points", flow, point, str(nth), str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    found = json.loads(done.stdout) if done.returncode == 0 else None
    return Ended(done.returncode, found, done.stderr[-2000:])


def stored(folder: Path) -> int:
    """How many answers are in the result folder, whole."""
    results = folder / "results"
    return sum(path.read_bytes().endswith(b"}") for path in results.glob("answer-*")) if results.is_dir() else 0


def most(flow: str, point: str) -> int:
    """How often a point is passed at least."""
    if point == "artifact_written":
        return 1
    if point == "iteration_ended":
        return 8 if flow == "batch" else 1
    return {"batch": 40, "pump": 3, "row_written": 8}.get(flow if point != "row_written" else point, 4)


@pytest.fixture
def paid(vendors: LoopbackVendors) -> LoopbackVendors:
    """Vendors that take their time, so that a request can be caught on its way."""
    vendors.delay = LATENCY_S
    return vendors


@pytest.mark.parametrize("flow", FLOWS)
def test_nothing_that_was_committed_is_paid_again(
    flow: str, results: str, paid: LoopbackVendors, tmp_path: Path
) -> None:
    quiet = run(flow, "none", 1, tmp_path / "quiet")
    assert quiet.found is not None, quiet.errors
    clean = paid.count()
    chance = random.Random(flow)
    for point in points_of(flow):
        nth = chance.randint(1, most(flow, point))
        folder = tmp_path / point
        paid.reset()
        victim = run(flow, point, nth, folder)
        assert victim.code == -signal.SIGKILL, (point, nth, victim)
        before, kept = paid.count(), stored(folder)
        survivor = run(flow, "none", 1, folder)
        assert survivor.found == quiet.found, (point, survivor)
        lost = before - kept
        tell(
            f"{flow} killed at {point} {nth}",
            requests_of_a_quiet_run=clean,
            requests_before=before,
            stored=kept,
            requests_of_both=paid.count(),
            paid_twice=paid.count() - clean,
        )
        assert paid.count() == clean + lost, f"{flow} killed at {point} {nth}: {lost} were under way"
        assert lost <= AT_ONCE.get(flow, 3), "what was under way is at most what the flow has at once"
