"""A process that makes calls for a long time, and says what it holds: memory, threads, sockets, open files.

Run as `python -m tests.chaos.soak CALLS`, with the vendors and a Prefect server named in the environment. It prints a line
of JSON after a warm-up, and one after each fifth of the calls.
"""

import asyncio
import gc
import json
import sys
from pathlib import Path

from prefect import flow

from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.flows.pump import run_pump
from consensus_flows.tasks.calls.providers import close_clients

AT_ONCE = 10
MEMBERS = ["openai/m1", "anthropic/m2", "google/m3", "openrouter/m4", "openai/m5"]
PARTS = 5


def held() -> dict[str, int]:
    """What this process holds now."""
    gc.collect()
    open_files = [str(path.readlink()) for path in _links()]
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    memory = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return {
        "memory_kb": int(memory.split()[1]),
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "sockets": sum(link.startswith("socket:") for link in open_files),
        "files": sum(link.startswith("/") and "/dev/" not in link for link in open_files),
        "descriptors": len(open_files),
    }


def _links() -> list[Path]:
    return [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]


@flow(name="soak")
async def part(start: int, questions: int) -> int:
    """Ask so many questions of five members."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> int:
        async with gate:
            return (await run_pump(f"Question {number}", PumpConfig(members=MEMBERS))).calls

    return sum(await asyncio.gather(*(one(start + number) for number in range(questions))))


async def main(calls: int) -> None:
    """Warm up, then make the calls and print after each part what is held."""
    questions = calls // len(MEMBERS) // PARTS
    for number in range(PARTS + 1):
        made = await part(number * questions, questions)
        await close_clients()
        await asyncio.sleep(2)  # events and logs are sent by threads of their own
        print(json.dumps({"calls": made, **held()}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
