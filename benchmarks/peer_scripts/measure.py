"""What the peers measure alike, by the standard library alone: each of them runs in an environment of its own."""

import asyncio
import json
import resource
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

MEMBERS = ("a", "b", "c")
JUDGE = "judge"
CALLS = len(MEMBERS) + 1
"""Of a row."""
WARM_UP = 8
Row = Callable[[str], Awaitable[None]]
"""Answers one question."""


def cpu() -> float:
    """Return the CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory_mb() -> float:
    """Return the most memory that this process has had, in MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e6 if sys.platform == "darwin" else 1e3)


def judge_prompt(question: str, answers: list[str]) -> str:
    """Return what the arbiter is asked."""
    shown = "\n\n".join(f"Answer {number}:\n{answer}" for number, answer in enumerate(answers, 1))
    return f"Question:\n{question}\n\n{shown}\n\nWrite the best answer to the question."


def questions(name: str, rows: int) -> list[str]:
    """Return the questions of a run; they differ from those of any other run."""
    return [f"{name} {number}" for number in range(rows)]


@asynccontextmanager
async def measuring(into: dict[str, Any]) -> AsyncIterator[None]:
    """Measure the block: seconds, CPU seconds, memory before and at most."""
    into["warm_mb"], used, started = memory_mb(), cpu(), time.perf_counter()
    yield
    into |= {"seconds": time.perf_counter() - started, "cpu": cpu() - used, "memory_mb": memory_mb()}


async def at_once(texts: list[str], concurrency: int, row: Row) -> None:
    """Answer all questions, at most `concurrency` of them at once."""
    left = iter(texts)

    async def worker() -> None:
        for text in left:
            await row(text)

    await asyncio.gather(*(worker() for _ in range(concurrency)))


async def measured_rows(name: str, rows: int, concurrency: int, row: Row) -> dict[str, Any]:
    """Answer some questions to warm up, and then those that are measured."""
    measured: dict[str, Any] = {}
    await at_once(questions(f"warm-up {name}", WARM_UP), WARM_UP, row)
    async with measuring(measured):
        await at_once(questions(name, rows), concurrency, row)
    return measured


def size_mb(folder: Path) -> float:
    """Return how much is stored in a folder, in MB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def run(measure: Callable[[str, int, int, Path], Awaitable[dict[str, Any]]]) -> None:
    """Measure as the command line says, `NAME ROWS CONCURRENCY FOLDER`, and print what was measured as JSON."""
    name, rows, concurrency, folder = sys.argv[1:]

    async def main() -> dict[str, Any]:
        return await measure(name, int(rows), int(concurrency), Path(folder))

    print(json.dumps(asyncio.run(main())))
