"""What the tests of batches share: inputs, outputs, panels, and a batch in a process of its own."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL

from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.flows.batching import Batch
from consensus_flows.tasks.batches.source import Source
from tests.kits import processes
from tests.vendors import ANY, LoopbackVendors, Reply, SeenRequest, Step

ROOT = Path(__file__).parent.parent.parent
ONE = ["--flow", "pump", "-m", "openai/a"]
THREE = ["--flow", "vote", "-m", "openai/a", "-m", "anthropic/b", "-m", "google/c"]


def prompts(folder: Path, number: int, name: str = "prompts.csv", word: str = "What is") -> Path:
    """A file with a column of its own beside the id and the prompt."""
    path = folder / name
    rows = [{"id": f"r{n}", "prompt": f"{word} {n}?", "gold": n * n} for n in range(number)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def answer(seen: SeenRequest) -> Reply:
    return Reply(text=f"{seen.model} says: {seen.prompt.upper()}")


def serve(vendors: LoopbackVendors, delay: float = 0.0) -> None:
    """Let every model answer what depends on the question alone."""
    vendors.delay = delay
    vendors.script(ANY, then=answer)


def failing_for(word: str, fault: Step) -> Step:
    """A fault for the questions with a word in them."""

    def step(seen: SeenRequest) -> Reply:
        return (fault if isinstance(fault, Reply) else fault(seen)) if word in seen.prompt else answer(seen)

    return step


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    return [json.loads(line) for line in path.read_text().splitlines()]


def column(path: Path, name: str) -> list[Any]:
    return [row[name] for row in read(path)]


def same(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what differs between a run that asks and one that finds its answers in the store."""
    return [
        {k: v for k, v in row.items() if k not in {"cost_usd", "cached_calls", "duration_s", "run_id"}} for row in rows
    ]


def disk_full_for(patch: pytest.MonkeyPatch, kind: str) -> None:
    """Let a journal take every line but those of a kind."""
    write = os.write

    def written(file: int, line: Any) -> int:
        if bytes(line).startswith(f'{{"{kind}"'.encode()):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, line)

    patch.setattr(os, "write", written)


def batch_of(source: Path, output: Path, **options: Any) -> Batch:
    """A batch of one call a row."""
    config = PumpConfig.model_validate({"members": ["openai/a"]} | options.pop("config", {}))
    return Batch(source=Source(str(source)), output=str(output), algorithm="pump", config=config, **options)


def environment_of(tmp_path: Path) -> dict[str, str]:
    """The environment of a process beside the tests: their server, and a store and a home of its own."""
    return os.environ | {
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(tmp_path / "results"),
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "CONSENSUS_HISTORY_URL": f"sqlite:///{tmp_path / 'history.db'}",
        "PYTHONPATH": str(ROOT),
    }


def start(arguments: list[Any], environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start `consensus batch` in a process of its own."""
    return processes.start(
        [sys.executable, "-m", "consensus_flows.deployments.cli", "batch", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def kill_when(process: "subprocess.Popen[bytes]", ready: Any, seconds: float = 60) -> bool:
    """Kill a process as soon as something is so; tell whether it was still there."""
    deadline = time.monotonic() + seconds
    while not ready() and process.poll() is None:
        assert time.monotonic() < deadline, "it did not come so far"
        time.sleep(0.005)
    if process.poll() is not None:
        process.communicate()
        return False
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return True
