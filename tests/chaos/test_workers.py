"""Batches that run on workers: one of two and two of four are killed with all that they run; the server goes away under one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import pytest

from consensus_flows.deployments.commands.operations.up import with_descendants
from tests.chaos.figures import tell
from tests.chaos.own_server import CALLS_OF_A_ROW, PANEL, ROOT, Server, rows_of, start_batch
from tests.kits import processes
from tests.kits.batch_kit import read, same, serve
from tests.vendors import LoopbackVendors

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(600),
]
POOL = "workers-of-the-tests"
ROWS, AT_ONCE = 60, 2
LATENCY_S = 0.5
AWAY_S = 20
PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]
DEPLOY = f"""
from prefect.flows import Flow
flow = Flow.from_source(source={str(ROOT)!r}, entrypoint="flows/batch.py:batch")
flow.deploy(name="batch", work_pool_name={POOL!r}, print_next_steps=False, build=False, push=False)
"""
Found = TypeVar("Found")


class Worker:
    """A process worker that takes one run at a time."""

    def __init__(self, server: Server, name: str, folder: Path) -> None:
        self.name = name
        self._log = (folder / f"{name}.log").open("wb")
        self._process = subprocess.Popen(
            [*PREFECT, "worker", "start", "--pool", POOL, "--name", name, "--limit", "1"],
            env=server.environment | {"PREFECT_WORKER_QUERY_SECONDS": "1", "CONSENSUS_FILES": str(folder)},
            cwd=folder,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def runs(self, run: dict[str, Any]) -> bool:
        """Whether the process of a flow run is the worker's."""
        process = str(run.get("infrastructure_pid") or "").rpartition(":")[2]
        return process.isdigit() and int(process) in with_descendants(self._process.pid)

    def kill(self) -> None:
        """Kill the worker and all that it runs, at once: Prefect gives each run a process group of its own."""
        processes.kill(self._process)
        self._log.close()


@pytest.fixture
def workers(server: Server, tmp_path: Path) -> Iterator[Callable[[str], Worker]]:
    with working(server, tmp_path) as start:
        yield start


@contextmanager
def working(server: Server, tmp_path: Path) -> Iterator[Callable[[str], Worker]]:
    """Make a work pool and the deployment of the batch; give what starts a worker."""
    made: list[Worker] = []
    for command in ([*PREFECT, "work-pool", "create", POOL, "--type", "process"], [sys.executable, "-c", DEPLOY]):
        done = subprocess.run(
            command, env=server.environment, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(name: str) -> Worker:
        made.append(Worker(server, name, tmp_path))
        return made[-1]

    try:
        yield start
    finally:
        for worker in made:
            worker.kill()


def wait_for(what: Callable[[], Found | None], run: subprocess.Popen[str] | None = None, seconds: float = 180) -> Found:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while (found := what()) is None:
        assert run is None or run.poll() is None, run.communicate()
        assert time.monotonic() < deadline, "it did not come so far"
        time.sleep(0.2)
    return found


def runs_of(server: Server, **parameters: Any) -> list[dict[str, Any]]:
    """The runs of the batch flow with such parameters, the oldest first."""
    found = server.post("/flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC"})
    return [run for run in found if all(run["parameters"].get(name) == value for name, value in parameters.items())]


def rows_in(journal: Path) -> int:
    return journal.read_text().count('"row":') if journal.exists() else 0


def test_one_of_two_workers_is_killed_with_its_shard(
    server: Server, workers: Callable[[str], Worker], vendors: LoopbackVendors, tmp_path: Path
) -> None:
    serve(vendors, delay=LATENCY_S)
    both = [workers("first"), workers("second")]
    batch = start_batch(server, tmp_path, ROWS, "--shards", "2", at_once=AT_ONCE)

    def at_work() -> dict[int, Worker] | None:
        """Which worker runs which shard, once both have finished rows."""
        journals = {
            int(path.name.partition("-")[0]): path for path in tmp_path.glob("answers.jsonl.shards-*/*.partial")
        }
        if sum(rows_in(path) >= 3 for path in journals.values()) < 2:
            return None
        return {
            shard: worker
            for shard in (1, 2)
            for worker in both
            for run in runs_of(server, shard=shard)
            if worker.runs(run)
        }

    who = wait_for(at_work, batch)
    assert {worker.name for worker in who.values()} == {"first", "second"}, "each worker has one of the shards"
    victim, survivor = who[1], who[2]
    killed, at = time.monotonic(), time.time()
    victim.kill()

    def elsewhere() -> float | None:
        again = runs_of(server, shard=1)[1:]
        return time.monotonic() - killed if again and survivor.runs(again[0]) else None

    taken_over = wait_for(elsewhere, batch)
    out, err = batch.communicate(timeout=300)
    ended = time.monotonic() - killed
    assert batch.returncode == 0, err[-2000:]
    summary = json.loads(out)
    assert (summary["rows"], summary["done"], summary["failed"]) == (ROWS, ROWS, 0)
    assert [len(runs_of(server, shard=shard)) for shard in (1, 2)] == [2, 1], "one of them was started twice"

    asked = Counter((seen.model, seen.prompt) for seen in vendors.seen if seen.kind == "chat")
    first = {(seen.model, seen.prompt): seen.at for seen in reversed(vendors.seen) if seen.kind == "chat"}
    twice = [call for call, times in asked.items() if times > 1]
    assert len(asked) == ROWS * CALLS_OF_A_ROW and max(asked.values(), default=0) <= 2
    assert len(twice) <= AT_ONCE * CALLS_OF_A_ROW
    assert all(at - LATENCY_S - 0.5 <= first[call] <= at + 0.5 for call in twice), (
        "only what was under way is paid twice"
    )

    vendors.delay = 0
    quiet = start_batch(server, tmp_path, ROWS, at_once=AT_ONCE, output="quiet.jsonl")
    out, err = quiet.communicate(timeout=200)
    assert quiet.returncode == 0, err[-2000:]
    assert same(read(tmp_path / "answers.jsonl")) == same(read(tmp_path / "quiet.jsonl"))
    assert vendors.count() == asked.total(), "and every answer is in the store"
    tell(
        "one of two workers killed with its shard",
        rows=ROWS,
        shard_runs=3,
        taken_over_after_s=round(taken_over, 1),
        ended_after_s=round(ended, 1),
        requests_of_a_quiet_run=ROWS * CALLS_OF_A_ROW,
        requests=asked.total(),
        paid_twice=len(twice),
    )


@pytest.mark.timeout(1200)
def test_two_of_four_workers_are_killed(server_on_postgres: Server, vendors: LoopbackVendors, tmp_path: Path) -> None:
    """On PostgreSQL. The work is leased in parts: the time is that of the workers that there are, and the budget one."""
    server, rows, at_once, latency = server_on_postgres, 4000, 4, 1.0
    most_calls = rows * CALLS_OF_A_ROW * 102 // 100
    serve(vendors, delay=latency)
    with working(server, tmp_path) as start:
        four = [start(f"worker-{number}") for number in range(4)]
        started = time.time()
        batch = start_batch(server, tmp_path, rows, "--shards", "4", "--max-calls", str(most_calls), at_once=at_once)
        wait_for(lambda: vendors.count() >= rows * CALLS_OF_A_ROW * 4 // 10 or None, batch, 400)
        killed = time.time()
        for worker in four[:2]:
            worker.kill()
        out, err = batch.communicate(timeout=900)
        ended = time.time()
    assert batch.returncode == 0, err[-2000:]
    summary = json.loads(out)
    assert (summary["rows"], summary["done"], summary["failed"]) == (rows, rows, 0)
    assert sorted(row["prompt"] for row in read(tmp_path / "answers.jsonl")) == sorted(
        f"What is {number}?" for number in range(rows)
    )
    asked = Counter((seen.model, seen.prompt) for seen in vendors.seen if seen.kind == "chat")
    assert len(asked) == rows * CALLS_OF_A_ROW
    assert asked.total() <= most_calls
    assert asked.total() - len(asked) <= 2 * at_once * CALLS_OF_A_ROW, "only what was under way is paid twice"
    # Four workers up to the kill, and then two, as fast as they are on this machine now, without a pause.
    calls = sorted(seen.at for seen in vendors.seen if seen.kind == "chat")
    of_four, of_two = rows_a_second(calls, calls[0], killed), rows_a_second(calls, killed, calls[-1])
    ideal = killed - calls[0] + max(0.0, rows - of_four * (killed - calls[0])) / of_two
    took = ended - calls[0]
    tell(
        "two of four workers killed, on PostgreSQL",
        rows=rows,
        calls=asked.total(),
        most_calls=most_calls,
        paid_twice=asked.total() - len(asked),
        first_call_after_s=round(calls[0] - started, 1),
        killed_after_s=round(killed - calls[0], 1),
        took_s=round(took, 1),
        rows_a_second_of_four=round(of_four, 2),
        rows_a_second_of_two=round(of_two, 2),
        ideal_s=round(ideal, 1),
        of_ideal=round(took / ideal, 3),
    )
    assert took <= 1.15 * ideal


def rows_a_second(calls: list[float], begin: float, end: float) -> float:
    """How fast the workers are while all of them work: the median of spans so short that most are free of pauses."""
    span = 5.0
    counts = Counter(int((at - begin) // span) for at in calls if begin <= at < end)
    return median(counts[number] for number in range(int((end - begin) // span))) / span / CALLS_OF_A_ROW


def test_the_server_goes_away_under_a_worker(
    server: Server, workers: Callable[[str], Worker], vendors: LoopbackVendors, tmp_path: Path
) -> None:
    """The run goes on without the server, and ends when it is back; the worker is still there."""
    serve(vendors, delay=LATENCY_S)
    worker = workers("only")
    output = tmp_path / "answers.jsonl"
    deployment = server.post("/deployments/filter", {})[0]["id"]
    parameters = {
        "input": str(rows_of(tmp_path, 2 * ROWS)),
        "output": str(output),
        "flow": "pump",
        "config": {"members": PANEL[1::2]},
        "concurrency": AT_ONCE,
    }
    run = server.post(
        f"/deployments/{deployment}/create_flow_run", {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    )["id"]
    journal = tmp_path / "answers.jsonl.partial"
    wait_for(lambda: rows_in(journal) >= 5 or None)
    server.kill()
    killed, before = time.monotonic(), vendors.count()
    time.sleep(AWAY_S)
    during = vendors.count() - before
    assert not output.exists(), "rows are outstanding"
    server.start()

    def state() -> str | None:
        found = runs_of(server, output=str(output))[0]["state"]["type"]
        return found if found in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} else None

    ended = wait_for(state)
    tell(
        f"server away for {AWAY_S} s under a worker",
        rows=2 * ROWS,
        answered_meanwhile=during,
        requests=vendors.count(),
        state=ended,
        ended_after_s=round(time.monotonic() - killed, 1),
    )
    assert run == runs_of(server, output=str(output))[0]["id"]
    assert (ended, len(read(output)), vendors.count()) == ("COMPLETED", 2 * ROWS, 2 * ROWS * CALLS_OF_A_ROW)
    assert during > 0 and worker.alive, "the work goes on, and so does the worker"
