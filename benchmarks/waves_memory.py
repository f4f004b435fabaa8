"""What rows that wait for the vendors' batches take of memory: so many of them wait at once.

Each batch is `consensus batch --vendor-batch --no-wait` in a process of its own, which ends when all that can be submitted is
at the vendor. More than 20,000 rows are never under way at once, so that memory grows no further from there.

    python benchmarks/waves_memory.py [--rows 1000,20000,40000]
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from common import prefect_server, vendors

MODEL = "openai/gpt-4o-mini"


def peak_mb(rows: int) -> tuple[float, float]:
    """Leave a batch at the vendor; return the most memory that its process had, in MB, and its seconds."""
    home = Path(os.environ["PREFECT_HOME"])
    questions, answers = home / f"{rows}.jsonl", home / f"{rows}.answers.jsonl"
    with questions.open("w") as file:
        file.writelines(json.dumps({"id": n, "prompt": f"What is {rows} times {n}?"}) + "\n" for n in range(rows))
    command = [sys.executable, "-m", "consensus_flows.deployments.cli", "batch", str(questions), "-o", str(answers)]
    options = ["--flow", "pump", "-m", MODEL, "--vendor-batch", "--no-wait", "--no-probe", "--json"]
    started = time.monotonic()
    process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    waiting = 8
    if os.waitstatus_to_exitcode(status) != waiting:
        raise SystemExit(f"the batch of {rows} rows ended with code {os.waitstatus_to_exitcode(status)}")
    return used.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3), time.monotonic() - started


def main(sizes: list[int]) -> None:
    """Print the figures."""
    with vendors(0.0, "--job-delay", "86400") as url, prefect_server(url):
        print(f"{'rows':>8}{'peak MB':>10}{'seconds':>10}")
        for rows in sizes:
            memory, took = peak_mb(rows)
            print(f"{rows:>8,}{memory:>10.0f}{took:>10.0f}", flush=True)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", default="1000,20000,40000", help="numbers of rows, separated by commas")
    main([int(size) for size in options.parse_args().rows.split(",")])
