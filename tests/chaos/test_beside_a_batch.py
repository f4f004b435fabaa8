"""A batch that is answered from the cache keeps the Prefect server busy: other runs on that server go on beside it."""

from __future__ import annotations

import json
import os
import statistics
import time
import urllib.error
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.chaos.figures import tell
from tests.chaos.own_server import CALLS_OF_A_ROW, PANEL, Server, start_batch
from tests.vendors import LoopbackVendors

if TYPE_CHECKING:
    import subprocess

ROWS = int(os.environ.get("CHAOS_ROWS", "1500"))
"""So many are in the cache and are asked for again."""
LONGEST_S = max(900, ROWS // 2)
AT_ONCE = 8
REQUESTS = 30
BATCHES = 4
APART_S = 6
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(4 * LONGEST_S)]


def test_others_go_on_beside_it(server: Server, vendors: LoopbackVendors, tmp_path: Path) -> None:
    store(server, tmp_path)
    seen = vendors.count()
    asked = question_beside_a_batch(server, tmp_path)
    assert vendors.count() == seen + asked * CALLS_OF_A_ROW, "the questions were sent, and nothing else"
    four_batches_at_once(server, tmp_path)
    assert vendors.count() == seen + asked * CALLS_OF_A_ROW, "and nothing since"


def question_beside_a_batch(server: Server, folder: Path) -> int:
    """Check that other flow runs are created, and that a question is answered soon; return how many were asked."""
    question(server, "the first one is cold")
    alone = [question(server, "alone")]
    run = start_batch(server, folder, ROWS, at_once=AT_ONCE, output="again.jsonl")
    wait_for_journal(run, folder / "again.jsonl.partial")
    statuses, latencies = create_flow_runs(server)
    beside = question(server, "beside")
    assert run.poll() is None, "the batch was under way all the time"
    out, err = run.communicate(timeout=LONGEST_S)
    assert run.returncode == 0, err[-2000:]
    summary = json.loads(out)
    alone.append(question(server, "alone again"))  # before and after, as other work on the machine varies
    tell(
        "a question beside a batch from the cache",
        rows=ROWS,
        rows_per_s=round(ROWS / summary["duration_s"], 1),
        flow_runs_created=statuses[201],
        p50_s=round(statistics.median(latencies), 3),
        longest_s=round(max(latencies), 3),
        question_alone_s=[round(one, 1) for one in alone],
        question_beside_s=round(beside, 1),
    )
    assert (summary["done"], summary["cached_calls"]) == (ROWS, ROWS * CALLS_OF_A_ROW)
    assert statuses == {201: REQUESTS}
    assert beside <= 2 * max(alone)
    return 4


def four_batches_at_once(server: Server, folder: Path) -> None:
    """Check that each of them ends, with all rows from the cache."""
    runs = []
    for number in range(BATCHES):
        runs.append(start_batch(server, folder, ROWS, at_once=AT_ONCE, output=f"{number}.jsonl"))
        time.sleep(APART_S)
    ended = [(run.communicate(timeout=LONGEST_S), run.returncode) for run in runs]
    assert [code for _, code in ended] == [0] * BATCHES, [err[-500:] for (_, err), _ in ended]
    summaries = [json.loads(out) for (out, _), _ in ended]
    tell(
        "four batches from the cache at once",
        rows=ROWS,
        seconds=[round(summary["duration_s"], 1) for summary in summaries],
    )
    assert [summary["done"] for summary in summaries] == [ROWS] * BATCHES


def store(server: Server, folder: Path) -> None:
    """Have all rows answered once."""
    run = start_batch(server, folder, ROWS, at_once=32)
    _, err = run.communicate(timeout=LONGEST_S)
    assert run.returncode == 0, err[-2000:]


def question(server: Server, prompt: str) -> float:
    """Ask the panel one question, and return the seconds that the command took."""
    started = time.monotonic()
    run = server.consensus("pump", prompt, *PANEL)
    _, err = run.communicate(timeout=300)
    assert run.returncode == 0, err[-2000:]
    return time.monotonic() - started


def wait_for_journal(run: subprocess.Popen[str], journal: Path) -> None:
    deadline = time.monotonic() + 120
    while not journal.exists():
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < deadline, "the batch does not begin"
        time.sleep(0.05)


def create_flow_runs(server: Server) -> tuple[Counter[int], list[float]]:
    """Create flow runs one after the other, as other commands would; return the status codes and how long each took."""
    flow = server.post("/flows/", {"name": "beside"})["id"]
    statuses: Counter[int] = Counter()
    latencies = []
    for _ in range(REQUESTS):
        started = time.monotonic()
        try:
            server.post("/flow_runs/", {"flow_id": flow, "state": {"type": "PENDING"}})
            statuses[201] += 1
        except urllib.error.HTTPError as error:
            statuses[error.code] += 1
        latencies.append(time.monotonic() - started)
        time.sleep(0.1)
    return statuses, latencies
