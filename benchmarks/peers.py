"""The same batch by bare asyncio, LangGraph, litellm, inspect_ai, plain Prefect tasks and the `batch` flow: speed, cost of a call.

Three members and an arbiter of 200 ms each at one vendor on loopback, so many rows at once. They run in turn, round after round,
each in a process of its own that has answered a few rows to warm up; a round's figures are compared with each other, never with
those of another round. The peers are installed at the versions below, each into an environment of its own in the user's cache
folder, when they are first needed. Every call of the `batch` flow is a task run on a Prefect server with the settings of
prefect.toml, every row a run in the history; both are counted afterwards.

    python benchmarks/peers.py [--rows 300] [--concurrency 64] [--rounds 3] [--only bare,batch]
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import Targets, prefect_server, vendors
from throughput import CALLS, DELAY, WARM_UP, cpu_of, run_batch, save_credentials

SCRIPTS = Path(__file__).parent / "peer_scripts"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "consensus-flows" / "peers"
OPENAI = f"openai=={version('openai')}"
PEERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "bare": ("bare_sdk.py", ()),
    "LangGraph": (
        "with_langgraph.py",
        ("langgraph==1.2.24", "langgraph-checkpoint-sqlite==3.1.2", OPENAI),
    ),
    "litellm": ("with_litellm.py", ("litellm==1.110.2",)),
    "inspect_ai": ("with_inspect.py", ("inspect_ai==0.3.285", OPENAI)),
    "Prefect": ("with_prefect.py", ()),
}
"""The script of each peer and what it needs; nothing, where it runs in this environment."""
BATCH = "batch flow"
SETTLES_S = 4
"""Seconds that the server takes at most to write the last events."""


def environment(needed: tuple[str, ...]) -> str:
    """Return the Python of an environment that has what is needed, made when there is none yet."""
    if not needed:
        return sys.executable
    folder = CACHE / f"{'-'.join(needed).replace('==', '-')}-py{sys.version_info[0]}.{sys.version_info[1]}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"installing {' '.join(needed)} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *needed], check=True)
        (folder / "complete").touch()
    return str(python)


def peer(what: str, server: int, name: str, rows: int, concurrency: int) -> dict[str, Any]:
    """Measure a peer in a process of its own."""
    script, needed = PEERS[what]
    before = cpu_of(server)
    with tempfile.TemporaryDirectory(prefix="consensus-peer-") as folder:
        command = [environment(needed), str(SCRIPTS / script), name, str(rows), str(concurrency), folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if what == "Prefect":
        time.sleep(SETTLES_S)
        after = cpu_of(server)
        measured["server_ms"] = (after - before) / (rows + WARM_UP) / CALLS * 1e3 if before and after else None
    return measured


def batch(server: int, name: str, rows: int, concurrency: int) -> dict[str, Any]:
    """Measure the `batch` flow, and count what it has stored."""
    measured = run_batch(server, rows, concurrency, name)
    stored = f"{measured['task_runs']} task runs, {measured['runs']} runs and {measured['calls']} calls in the history"
    return measured | {"stored": stored}


def line(what: str, rounds: list[dict[str, Any]], base: list[dict[str, Any]], calls: int) -> str:
    """Return the medians of a peer as a line of the table."""

    def median(of: Callable[[dict[str, Any]], float]) -> float:
        return statistics.median(of(one) for one in rounds)

    server = f"{median(lambda one: one['server_ms']):.1f}" if rounds[0].get("server_ms") else "-"
    return (
        f"{what:<12}{median(lambda one: calls / one['seconds']):>8.0f}{statistics.median(ratios(base, rounds)):>9.2f}"
        f"{median(lambda one: one['cpu'] / calls * 1e3):>9.1f}{server:>9}{median(lambda one: one['memory_mb']):>9.0f}"
        f"{median(lambda one: (one['memory_mb'] - one['warm_mb']) / calls * 1e3):>10.1f}   {rounds[-1]['stored']}"
    )


HEAD = """\
             calls/s  of bare   CPU ms   server  peak MB   kB more   stored in the end
                                a call  a call             a call"""


def ratios(of: list[dict[str, Any]], to: list[dict[str, Any]]) -> list[float]:
    """Return, round by round, how many times as fast the second is as the first."""
    return [one["seconds"] / other["seconds"] for one, other in zip(of, to, strict=True)]


def main(rows: int, concurrency: int, rounds: int, only: list[str]) -> bool:
    """Print the figures; tells whether no target is missed."""
    chosen = [what for what in (*PEERS, BATCH) if what in {"bare", BATCH, *only}]
    for what in chosen:
        if what in PEERS:
            environment(PEERS[what][1])
    found: dict[str, list[dict[str, Any]]] = {what: [] for what in chosen}
    with vendors(DELAY) as url, prefect_server(url) as server:
        assert server.pid is not None
        asyncio.run(save_credentials(url, concurrency * (CALLS - 1)))
        print(
            f"{rows} rows, {concurrency} at once, {CALLS} calls a row of {DELAY * 1e3:.0f} ms, {rounds} rounds in turn"
        )
        for number in range(rounds):
            for what in chosen:
                name = f"{what} {number}".replace(" ", "-")
                if what == BATCH:
                    found[what].append(batch(server.pid, name, rows, concurrency))
                else:
                    found[what].append(peer(what, server.pid, name, rows, concurrency))
    print(HEAD)
    for what, measured in found.items():
        print(line(what, measured, found["bare"], rows * CALLS))
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    targets = Targets()
    ours = found[BATCH]
    targets.ratio("calls/s, of bare asyncio and the SDK", ratios(found["bare"], ours), 0.5)
    if "LangGraph" in found:
        targets.ratio("calls/s, of LangGraph with checkpoints", ratios(found["LangGraph"], ours), 1.0)
    targets.figure("CPU ms a call, in the flow", [one["cpu"] / rows / CALLS * 1e3 for one in ours], 5.0)
    targets.figure("CPU ms a call, in the server", [one["server_ms"] for one in ours if one["server_ms"]], 3.0)
    return targets.met


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=300)
    options.add_argument("--concurrency", type=int, default=64, help="rows at once")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument(
        "--only", default=",".join(PEERS), help="peers, separated by commas; bare is always among them"
    )
    given = options.parse_args()
    sys.exit(not main(given.rows, given.concurrency, given.rounds, given.only.split(",")))
