"""What `--task-runs all|failed|none` leaves in Prefect's database for a row, and what a call costs with it.

The batch is the real `batch` flow over questions to two members without latency, on a server of its own. The size is that
of the pages in use of the server's SQLite file, when all is written.

    python benchmarks/task_runs.py [--rows 500]
"""

import argparse
import asyncio
import json
import os
import sqlite3
import time
from pathlib import Path

from common import prefect_server, vendors
from throughput import cpu, cpu_of, save_credentials

MEMBERS = ("openai/a", "openai/b")
WARM_UP = 20
SETTLED_S = 5.0
"""Seconds without a change after which all is taken for written."""


def size() -> int:
    """Return the bytes that the server's database uses, when it has stopped to grow."""
    path, before, since = Path(os.environ["PREFECT_HOME"]) / "prefect.db", -1, time.monotonic()
    while True:
        with sqlite3.connect(path) as database:
            pages, free, page = (
                int(database.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("page_count", "freelist_count", "page_size")
            )
        used = (pages - free) * page
        if used != before:
            before, since = used, time.monotonic()
        elif time.monotonic() - since > SETTLED_S:
            return used
        time.sleep(0.5)


async def run(mode: str, rows: int) -> float:
    """Run a batch, and return the seconds that it took."""
    from consensus_flows.flows.batch import batch

    home = Path(os.environ["PREFECT_HOME"])
    questions, answers = home / f"{mode}-{rows}.jsonl", home / f"{mode}-{rows}.answers.jsonl"
    with questions.open("w") as file:
        file.writelines(json.dumps({"id": n, "prompt": f"{mode} {rows} {n}"}) + "\n" for n in range(rows))
    started = time.perf_counter()
    summary = await batch(
        str(questions), str(answers), flow="vote", config={"members": MEMBERS}, concurrency=32, task_runs=mode
    )
    assert summary.done == rows
    return time.perf_counter() - started


def main(rows: int) -> None:
    """Print the figures."""
    with vendors(0.0) as url, prefect_server(url) as server:
        assert server.pid is not None
        asyncio.run(save_credentials(url, 64))
        asyncio.run(run("all", WARM_UP))
        print(f"{'task runs':<10}{'bytes a row':>13}{'calls/s':>9}{'CPU ms/call, flow':>19}{'server':>8}")
        for mode in ("all", "failed", "none"):
            before, used, theirs = size(), cpu(), cpu_of(server.pid)
            took = asyncio.run(run(mode, rows))
            calls, own = rows * len(MEMBERS), cpu() - used
            grown, other = size() - before, cpu_of(server.pid)
            waited = "-" if theirs is None or other is None else f"{(other - theirs) / calls * 1e3:.1f}"
            print(
                f"{mode:<10}{grown / rows:>13,.0f}{calls / took:>9.0f}{own / calls * 1e3:>19.1f}{waited:>8}", flush=True
            )


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=500)
    main(options.parse_args().rows)
