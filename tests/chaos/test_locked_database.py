"""Prefect's own database is locked by another process in the middle of a batch: nothing is lost, nothing is paid twice."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.figures import tell
from tests.chaos.own_server import CALLS_OF_A_ROW, Server, rows_done, start_batch, wait_for_rows
from tests.chaos.test_locked_history import HOLD, LOCKED_S
from tests.vendors import LoopbackVendors

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]
LATENCY_S = 0.3
AT_ONCE = 2
ROWS = 120
"""Rows of twenty seconds: some before the lock, some in it, some after it."""


def test_the_rows_go_on(server: Server, vendors: LoopbackVendors, tmp_path: Path) -> None:
    vendors.delay = LATENCY_S
    run = start_batch(server, tmp_path, ROWS, at_once=AT_ONCE)
    wait_for_rows(run, tmp_path, 10)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD.replace("IMMEDIATE", "EXCLUSIVE"), str(server.home / "prefect.db"), str(LOCKED_S)],
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        started, before = time.monotonic(), rows_done(tmp_path)
        holder.wait()
        locked, meanwhile = time.monotonic() - started, rows_done(tmp_path) - before
    assert run.poll() is None, "the lock was in the middle of the run"
    out, err = run.communicate(timeout=200)
    assert run.returncode == 0, err[-2000:]
    summary = json.loads(out)
    recorded = task_runs(server, summary["flow_run_id"], ROWS * CALLS_OF_A_ROW)
    tell(
        "Prefect's database locked by another process",
        locked_s=round(locked, 1),
        rows=ROWS,
        rows_done_meanwhile=meanwhile,
        requests=vendors.count(),
        task_runs_in_the_ui=recorded,
    )
    assert locked >= LOCKED_S - 1
    assert (summary["done"], summary["failed"], summary["resumed"]) == (ROWS, 0, 0)
    assert vendors.count() == CALLS_OF_A_ROW * ROWS
    assert meanwhile > 0, "rows do not wait for the server's database"
    assert recorded == CALLS_OF_A_ROW * ROWS, "nor is anything missing in the UI afterwards"


def task_runs(server: Server, flow_run: str, wanted: int) -> int:
    """How many task runs the server knows, which it learns of a little later."""
    deadline, found = time.monotonic() + 30, 0
    while found < wanted and time.monotonic() < deadline:
        found = int(server.post("/task_runs/count", {"task_runs": {"flow_run_id": {"any_": [flow_run]}}}))
        time.sleep(0.2)
    return found
