"""A batch of very many rows: what a row costs and what is kept of it, after so many thousand rows.

Two members without latency, and no call a task run (`--task-runs none`). What grows with the rows, or faster, shows in the
figures: CPU time a row since the last line, memory of the flow's process and of the server's, and the size of all that is stored.
Needs /proc, so Linux.

    python benchmarks/wide.py [--rows 2000] [--at 500,1000]
    python benchmarks/wide.py --rows 200000 --at 20000,50000,100000 --kill-at 199900
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from common import prefect_server, vendors
from throughput import cpu_of, save_credentials
from throughput import memory_mb as peak_mb

MEMBERS = ("openai/a", "openai/b")
LOOK_S = 0.5
HEAD = """\
   rows  seconds    rows/s   CPU ms a row    MB of memory      MB stored, and answers in one folder
                           flow    server   flow   server  prefect  history  journal   answers"""


async def batched(source: str, output: str) -> None:
    """Run the batch."""
    from consensus_flows.flows.batch import batch

    config = {"members": list(MEMBERS)}
    summary = await batch(source, output, flow="vote", config=config, concurrency=32, task_runs="none")
    print(json.dumps({"done": summary.done, "calls": summary.calls, "memory_mb": peak_mb()}))


def memory_mb(pid: int) -> float:
    """Return how much memory a process has now, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1e3


def size_mb(*paths: Path) -> float:
    """Return the size of files, in MB."""
    return sum(path.stat().st_size for path in paths if path.exists()) / 1e6


class Journal:
    """Counts the rows that a batch has finished."""

    def __init__(self, path: Path) -> None:
        self.path, self._read, self.rows = path, 0, 0

    def look(self) -> None:
        """Count what has been written since the last look."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        new = new[: new.rfind(b"\n") + 1]
        self._read += len(new)
        self.rows += new.count(b'{"row":')


def main(rows: int, marks: list[int], kill_at: int | None) -> None:
    """Print the figures."""
    with vendors(0.0) as url, prefect_server(url) as server:
        assert server.pid is not None
        asyncio.run(save_credentials(url, 64))
        home = Path(os.environ["PREFECT_HOME"])
        source, output = home / "rows.jsonl", home / "answers.jsonl"
        with source.open("w") as file:
            file.writelines(json.dumps({"id": n, "prompt": f"What is {n} plus {n}?"}) + "\n" for n in range(rows))
        journal = Journal(Path(f"{output}.partial"))
        answers = home / "storage"

        def line(number: int, since: tuple[float, float, float, int]) -> tuple[float, float, float, int]:
            now = (time.monotonic(), cpu_of(process.pid) or 0.0, cpu_of(server.pid or 0) or 0.0, number)
            seconds, own, theirs, more = (a - b for a, b in zip(now, since, strict=True))
            database, history = home / "prefect.db", home / "consensus-history.db"
            fullest = max((sum(1 for _ in one.iterdir()) for one in answers.glob("[0-9a-f][0-9a-f]")), default=0)
            print(
                f"{number:>7}{now[0] - started:>9.0f}{more / seconds:>10.1f}{own / more * 1e3:>9.1f}"
                f"{theirs / more * 1e3:>9.1f}{memory_mb(process.pid):>7.0f}{memory_mb(server.pid or 0):>8.0f}"
                f"{size_mb(database, Path(f'{database}-wal')):>9.1f}{size_mb(history, Path(f'{history}-wal')):>9.1f}"
                f"{size_mb(journal.path):>9.1f}{fullest:>10}",
                flush=True,
            )
            return now

        print(f"{rows} rows, {len(MEMBERS)} calls a row, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        print(HEAD)
        started = time.monotonic()
        child = [sys.executable, __file__, "--child", str(source), str(output)]
        process = subprocess.Popen(child, stdout=subprocess.PIPE, text=True)
        since, left = (started, 0.0, cpu_of(server.pid) or 0.0, 0), sorted(mark for mark in marks if mark < rows)
        while process.poll() is None:
            journal.look()
            while left and journal.rows >= left[0]:
                since = line(journal.rows, since)
                left = [mark for mark in left if mark > journal.rows]
            if kill_at is not None and journal.rows >= kill_at:
                process.kill()
                process.wait()
                journal.look()
                before, kill_at, killed = journal.rows, None, time.monotonic()
                process = subprocess.Popen(child, stdout=subprocess.PIPE, text=True)
                while process.poll() is None and journal.rows == before:
                    time.sleep(0.05)
                    journal.look()
                print(
                    f"killed after {before} rows, started again: the next row after {time.monotonic() - killed:.1f} s"
                )
            time.sleep(LOOK_S)
        assert process.stdout is not None
        ended = time.monotonic() - started
        found = json.loads(process.stdout.read().splitlines()[-1])
        written = sum(1 for _ in output.open("rb"))
        print(
            f"ended after {ended:.0f} s: {found['done']} rows, {found['calls']} calls, {written} lines in the output; "
            f"{found['memory_mb']:.0f} MB of memory at most"
        )
        for command in (("runs",), ("batches",), ("stats",), ("cache", "prune", "--older-than", "1d", "--dry-run")):
            began = time.perf_counter()
            consensus = [sys.executable, "-m", "consensus_flows.deployments.cli", *command]
            subprocess.run(consensus, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            print(f"consensus {' '.join(command)}: {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        asyncio.run(batched(*sys.argv[2:]))
    else:
        options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        options.add_argument("--rows", type=int, default=2000)
        options.add_argument("--at", default="500,1000", help="after how many rows, separated by commas")
        options.add_argument("--kill-at", type=int, help="kill the batch after so many rows, and start it again")
        given = options.parse_args()
        if Path("/proc/self/status").exists():
            main(given.rows, [int(mark) for mark in given.at.split(",")], given.kill_at)
        else:
            print("There is no /proc here, so nothing is measured.")
