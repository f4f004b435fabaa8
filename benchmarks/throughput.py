"""A batch of questions to three members and an arbiter that take 200 ms each: calls a second, and what a call costs.

Baseline, in the same run: the same calls by bare asyncio and the openai SDK, nothing else, with as many rows at once and
the same vendor process. The batch is the real `batch` flow: every call, or none, a task run on a Prefect server with the settings of
prefect.toml, every row a run in the history; both are counted afterwards. Each measurement is a process of its own, warmed
up by a few rows, and its own server's CPU time is read from /proc (without it, on macOS, it is left out).

    python benchmarks/throughput.py [--rows 500] [--concurrency 32] [--growth 100,500,2000] [--task-runs none]
"""

import argparse
import asyncio
import json
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from common import Targets, prefect_server, requests_seen, vendors

DELAY = 0.2
MEMBERS = ("a", "b", "c")
CALLS = len(MEMBERS) + 1
"""Of a row."""
WARM_UP = 8
SHOWN = "BENCH_TASK_RUNS"
"""Tells a process that measures which calls are task runs."""
SLOW_S = 10.0
SETTLED_S = 60.0
"""Seconds that the server has for what it still has to write when a batch has ended."""


def cpu() -> float:
    """Return the CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cpu_of(pid: int) -> float | None:
    """Return the CPU seconds of another process, or None where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb() -> float:
    """Return the most memory that this process has had, in MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e6 if sys.platform == "darwin" else 1e3)


async def at_once(rows: int, concurrency: int, do: Callable[[int], Awaitable[None]]) -> None:
    """Do so many rows, at most `concurrency` of them at once."""
    numbers = iter(range(rows))

    async def worker() -> None:
        for number in numbers:
            await do(number)

    await asyncio.gather(*(worker() for _ in range(concurrency)))


async def bare(rows: int, concurrency: int, name: str) -> dict[str, Any]:
    """Make the calls of a batch without Prefect, cache, record or history."""
    from openai import AsyncOpenAI

    client = AsyncOpenAI(max_retries=0)

    async def ask(model: str, text: str) -> None:
        await client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])

    async def row(number: int) -> None:
        await asyncio.gather(*(ask(model, f"{name} {number}") for model in MEMBERS))
        await ask("judge", f"{name} {number}")

    await at_once(WARM_UP, WARM_UP, row)
    used, started = cpu(), time.perf_counter()
    await at_once(rows, concurrency, row)
    measured = {"seconds": time.perf_counter() - started, "cpu": cpu() - used, "memory_mb": memory_mb()}
    await client.close()
    return measured


async def batched(rows: int, concurrency: int, name: str) -> dict[str, Any]:
    """Run the batch flow over a file of `rows` questions; asked again by the same name, all answers are stored."""
    from consensus_flows.flows.batch import batch

    config = {"members": [f"openai/{model}" for model in MEMBERS], "arbiter": "openai/judge", "max_iterations": 1}
    home, shown = Path(os.environ["PREFECT_HOME"]), os.environ.get(SHOWN, "all")

    async def run(what: str, number: int) -> Any:
        questions, answers = home / f"{what}.jsonl", home / f"{what}.answers.jsonl"
        with questions.open("w") as file:
            file.writelines(json.dumps({"id": n, "prompt": f"{what} {n}"}) + "\n" for n in range(number))
        return await batch(
            str(questions), str(answers), flow="consortium", config=config, concurrency=concurrency, task_runs=shown
        )

    await run(f"warm-up-{name}", WARM_UP)
    warm = memory_mb()
    used, started = cpu(), time.perf_counter()
    summary = await run(name, rows)
    return {
        "seconds": time.perf_counter() - started,
        "cpu": cpu() - used,
        "memory_mb": memory_mb(),
        "warm_mb": warm,
        "done": summary.done,
        "cached": summary.cached_calls,
        "flow_run_id": str(summary.flow_run_id),
    }


async def panel(rows: int, concurrency: int, name: str) -> dict[str, Any]:
    """Ask a panel of five, of whom one is slow, with and without patience for stragglers."""
    from consensus_flows.blocks.consortium import ConsortiumConfig
    from consensus_flows.flows.consortium import consortium
    from tests.vendors import LoopbackVendors, Reply

    _ = rows, concurrency
    took: dict[str, Any] = {}
    with LoopbackVendors(delay=DELAY) as slow:
        slow.script("slow", then=Reply(delay=SLOW_S - DELAY))
        os.environ["OPENROUTER_BASE_URL"], os.environ["OPENROUTER_API_KEY"] = slow.openrouter_url, "bench"
        members = [f"openrouter/{model}" for model in ("w", "x", "y", "z", "slow")]
        for grace in (2.0, None, 2.0):
            config = ConsortiumConfig(
                members=members, arbiter="openrouter/judge", max_iterations=1, quorum=3, straggler_grace=grace
            )
            started = time.perf_counter()
            await consortium(f"{name} {time.time()}", config)
            took[str(grace)] = time.perf_counter() - started  # of the two with the same grace the one that was warm
    return took


def child(what: str, rows: int, concurrency: int, name: str) -> dict[str, Any]:
    """Measure in a process of its own; its memory and CPU time are then nobody else's."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", what, str(rows), str(concurrency), name],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{what} {name} ended with code {done.returncode}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def count_task_runs(flow_run_id: str) -> int:
    """Return how many finished task runs the server knows of a flow run."""
    from prefect.client.orchestration import get_client

    wanted = {
        "flow_runs": {"id": {"any_": [flow_run_id]}},
        "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    with get_client(sync_client=True) as client:
        return int(client.request("POST", "/task_runs/count", json=wanted).json())


def in_history(flow_run_id: str) -> tuple[int, int]:
    """Return how many runs and calls of a flow run are in the history."""
    connection = sqlite3.connect(Path(os.environ["PREFECT_HOME"]) / "consensus-history.db")
    try:
        runs = connection.execute(
            "SELECT count(*) FROM runs WHERE flow_run_id = ? AND flow != 'batch'", [flow_run_id]
        ).fetchone()[0]
        query = "SELECT count(*) FROM calls WHERE run_id IN (SELECT id FROM runs WHERE flow_run_id = ?)"
        return int(runs), int(connection.execute(query, [flow_run_id]).fetchone()[0])
    finally:
        connection.close()


def run_batch(pid: int, rows: int, concurrency: int, name: str) -> dict[str, Any]:
    """Run a batch, wait until the server has written all of it, and check that nothing is missing."""
    before = cpu_of(pid)
    measured = child("batched", rows, concurrency, name)
    ended, expected = time.monotonic(), 0 if os.environ.get(SHOWN) == "none" else rows * CALLS
    while (found := count_task_runs(measured["flow_run_id"])) < expected:
        if time.monotonic() - ended > SETTLED_S:
            break
        time.sleep(0.2)
    measured["lag"] = time.monotonic() - ended
    time.sleep(3)  # the events themselves are written a little later than the task runs
    after = cpu_of(pid)
    runs, calls = in_history(measured["flow_run_id"])
    measured |= {"task_runs": found, "runs": runs, "calls": calls}
    # The warm-up is in the server's time, so its calls are counted too.
    measured["server_ms"] = (after - before) / ((rows + WARM_UP) * CALLS) * 1e3 if before and after else None
    if (measured["done"], found, runs, calls) != (rows, expected, rows, rows * CALLS):
        print(f"  MISSING: {measured}")
    return measured


def line(rows: int, measured: dict[str, Any]) -> str:
    """Return the figures of a batch as a line of the table."""
    calls = rows * CALLS
    server = f"{measured['server_ms']:.1f}" if measured["server_ms"] is not None else "-"
    return (
        f"{rows:>7}{calls / measured['seconds']:>10.0f}{rows / measured['seconds']:>9.1f}{measured['cpu'] / calls * 1e3:>13.1f}"
        f"{server:>13}{measured['memory_mb']:>10.0f}{measured['memory_mb'] - measured['warm_mb']:>10.0f}{measured['lag']:>9.1f}"
    )


HEAD = """\
   rows   calls/s   rows/s  CPU ms/call    server ms/   peak MB  above the  seconds
                               in flow          call               start   behind"""


def main(rows: int, concurrency: int, growth: list[int]) -> None:
    """Print the figures."""
    with vendors(DELAY) as url, prefect_server(url) as server:
        assert server.pid is not None
        asyncio.run(save_credentials(url, concurrency * len(MEMBERS)))
        print(f"{len(MEMBERS)} members and an arbiter of {DELAY * 1e3:.0f} ms, {concurrency} rows at once, {rows} rows")
        first = child("bare", rows, concurrency, "bare")
        print(HEAD)
        for number in growth:
            measured = run_batch(server.pid, number, concurrency, f"growth-{number}")
            print(line(number, measured), flush=True)
        main_run = run_batch(server.pid, rows, concurrency, "batch")
        print(line(rows, main_run))
        last = child("bare", rows, concurrency, "again")
        base = statistics.mean(rows * CALLS / one["seconds"] for one in (first, last))
        base_cpu = statistics.mean(one["cpu"] / (rows * CALLS) * 1e3 for one in (first, last))
        speed = rows * CALLS / main_run["seconds"]
        print(f"bare asyncio and SDK, before and after: {base:.0f} calls/s, {base_cpu:.1f} ms of CPU a call")
        print(
            f"the batch flow with --task-runs {os.environ.get(SHOWN, 'all')}: {speed:.0f} calls/s = {speed / base:.2f} of that"
        )
        print(f"{main_run['task_runs']} task runs; in the history {main_run['runs']} runs, {main_run['calls']} calls")
        before = requests_seen(url)
        again = run_batch(server.pid, rows, concurrency, "batch")
        print(
            f"the same again, all answers stored: {rows / again['seconds']:.0f} rows/s, "
            f"{again['cpu'] / rows / CALLS * 1e3:.1f} ms of CPU a call, "
            f"{requests_seen(url) - before} requests sent, {again['cached']} calls from the store"
        )
        Targets().figure("rows/s, all answers stored", [rows / again["seconds"]], 300, least=True)
        took = child("panel", 1, 1, "panel")
        print(
            f"five members, one of them {SLOW_S:.0f} s slow, quorum of three: answer after {took['2.0']:.2f} s with "
            f"straggler_grace 2, {took['None']:.2f} s without"
        )


async def save_credentials(url: str, concurrency: int) -> None:
    """Save credentials that let all calls of a batch go at once; built-in ones let 32."""
    from pydantic import SecretStr

    from consensus_flows.blocks.credentials import OpenAICredentials

    saved = OpenAICredentials(api_key=SecretStr("bench"), base_url=f"{url}/v1", max_concurrency=concurrency)
    await saved.save("openai", overwrite=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        kind, number, bound, title = sys.argv[2:]
        work = {"bare": bare, "batched": batched, "panel": panel}[kind]
        print(json.dumps(asyncio.run(work(int(number), int(bound), title))))
    else:
        options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        options.add_argument("--rows", type=int, default=500)
        options.add_argument("--concurrency", type=int, default=32, help="rows at once")
        options.add_argument(
            "--growth", default="100", help="sizes to run before, separated by commas, to see what grows"
        )
        options.add_argument("--task-runs", choices=("all", "none"), default="all", help="which calls are task runs")
        given = options.parse_args()
        os.environ[SHOWN] = given.task_runs
        main(given.rows, given.concurrency, [int(size) for size in given.growth.split(",") if size])
