"""A question from the shell, in turn beside a gateway and by itself: what the command adds to the time of its models.

Three members and an arbiter that take 200 ms each. Baseline, in the same run: the same four calls by a process that has imported
nothing but the openai SDK. The machine is seldom idle, so the least of several rounds counts; the CPU time is that of the process
that runs the command, beside the gateway the one that is forked for it.

    python benchmarks/shell.py [--rounds 20] [--flow vote]
"""

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from common import Targets, free_port, prefect_server, vendors

DELAY = 0.2
MEMBERS = ("a", "b", "c")
CALLS = {"consortium": 2, "vote": 1}
"""For an algorithm, how many calls one after the other its answer waits for."""
BARE = """
import asyncio, sys
from openai import AsyncOpenAI

async def main(prompt, calls):
    client = AsyncOpenAI(max_retries=0)
    async def ask(model):
        await client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}])
    await asyncio.gather(*(ask(model) for model in "abc"))
    if calls > 1:
        await ask("judge")

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


class Took(NamedTuple):
    """What a command took."""

    wall: float
    cpu: float


class Forks:
    """Adds up the CPU time of the processes that run commands for a shell, which are not its children."""

    def __init__(self, resident: int) -> None:
        self._resident = resident
        self._seen: dict[int, float] = {}
        threading.Thread(target=self._look, daemon=True).start()

    def total(self) -> float:
        """Return the CPU seconds of all of them until now."""
        return sum(self._seen.values())

    def _look(self) -> None:
        while True:
            time.sleep(0.004)
            for one in [grandchild for child in children(self._resident) for grandchild in children(child)]:
                with suppress(OSError):
                    self._seen[one] = time.clock_gettime(~one << 3 | 2)  # the CPU clock of another process


def children(pid: int) -> list[int]:
    """Return the child processes of a process, on Linux."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@contextmanager
def gateway() -> Iterator[int]:
    """Start a gateway; gives the process that runs commands for a shell."""
    command = [consensus(), "serve", "--port", str(free_port())]
    process = subprocess.Popen(command, cwd=folder(), stderr=subprocess.DEVNULL)
    socket = Path(os.environ["PREFECT_HOME"], "consensus-shell.sock")
    try:
        while not socket.exists():
            assert process.poll() is None
            time.sleep(0.05)
        yield children(process.pid)[0]
    finally:
        process.terminate()
        process.wait()


def consensus() -> str:
    """Return the command."""
    return str(Path(sys.executable).with_name("consensus"))


def folder() -> str:
    """Return the folder in which commands run: one without settings for Prefect, as those of most people."""
    return os.environ["PREFECT_HOME"]


def timed(command: list[str], forks: Forks | None = None, **environment: str) -> Took:
    """Run a command, and tell what it took."""
    before, forked = os.times(), forks.total() if forks else 0.0
    began = time.perf_counter()
    subprocess.run(
        command,
        cwd=folder(),
        env=os.environ | environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wall, after = time.perf_counter() - began, os.times()
    if forks:
        return Took(wall, forks.total() - forked)
    return Took(wall, after.children_user + after.children_system - before.children_user - before.children_system)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--flow", choices=CALLS, default="consortium")
    given = parser.parse_args()
    took: dict[str, list[Took]] = {"openai SDK alone": [], "consensus beside a gateway": [], "consensus by itself": []}
    bare, beside, alone = took.values()
    calls = CALLS[given.flow]
    options = [part for model in MEMBERS for part in ("-m", f"openai/{model}")]
    if given.flow == "consortium":
        options += ["--arbiter", "openai/judge", "--max-iterations", "1"]
    with vendors(DELAY) as url, prefect_server(url), gateway() as resident:
        subprocess.run([consensus(), "save", "default", "--flow", given.flow, *options], check=True)
        forks = Forks(resident)
        for number in range(given.rounds + 1):
            bare.append(timed([sys.executable, "-c", BARE, f"bare {number}", str(calls)]))
            beside.append(timed([consensus(), f"beside {number}"], forks))
            alone.append(timed([consensus(), f"alone {number}"], CONSENSUS_RESIDENT="0"))
    print(f"{given.flow}, {calls * DELAY:.1f} s of models; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, times in took.items():
        walls, cpus = zip(*times[1:], strict=True)  # the first one warms up
        beyond = [wall - calls * DELAY for wall in walls]
        print(
            f"{name:<28} {min(walls):.3f} s, median {statistics.median(walls):.3f}; beyond the models {min(beyond):.3f} s, "
            f"median {statistics.median(beyond):.3f}; CPU {min(cpus):.3f} s, median {statistics.median(cpus):.3f}"
        )
    targets = Targets()
    for times, most in ((beside, 0.5), (alone, 1.5)):
        what = "beside a gateway" if times is beside else "by itself"
        targets.figure(f"seconds beyond the models, {what}", [one.wall - calls * DELAY for one in times[1:]], most)
    ratio = statistics.median(one.wall / two.wall for one, two in zip(beside[1:], alone[1:], strict=True))
    print(f"beside a gateway             {ratio:.2f} x the time of the command by itself, median of the rounds")


if __name__ == "__main__":
    main()
