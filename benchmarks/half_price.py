"""The same batch by calls and by the vendors' batch APIs: answers, right answers, lines, bill and time, in one run.

500 rows of GSM8K through five recorded models at three vendors on loopback, counted by a vote on the number. Prints both, and
fails if an answer differs, a line is executed twice, or the bill is not half. (In a process of its own, the first call of each model
would be made directly; here each has answered before.)

Usage: `half_price.py [ROWS]`; needs the recorded answers in ../shared/data beside the checkout.
"""

import asyncio
import csv
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import ROOT, prefect_server

from tests.kits.recorded import GSM, GSM_MEMBERS, gsm_questions, scored, serve
from tests.vendors import LoopbackVendors

AT = dict(zip(GSM_MEMBERS, ("openai", "openai", "anthropic", "anthropic", "google"), strict=True))
PRICES = (0.2, 0.18, 0.3, 0.2, 0.18)
"""US dollars per million tokens of each model, input and output alike."""


async def run(source: Path, output: Path, *, vendor_batch: bool) -> Any:
    """Run the batch once, with a cache of its own."""
    from consensus_flows.flows.batch import batch

    members = [f"{AT[name]}/{name}" for name in GSM_MEMBERS]
    config = {
        "members": members,
        "extract": "number",
        "fresh": True,
        "prices": [f"{name}={price}/{price}" for name, price in zip(members, PRICES, strict=True)],
    }
    return await batch(str(source), str(output), flow="vote", config=config, vendor_batch=vendor_batch, concurrency=16)


def main(rows: int) -> int:
    """Print both runs; returns how much is not as it must be."""
    questions = gsm_questions()[:rows]
    with tempfile.TemporaryDirectory() as folder, LoopbackVendors() as vendors:
        serve(vendors)
        source = Path(folder, "gsm.csv")
        with source.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("id", "prompt"), *((one.id, one.text) for one in questions)])
        os.environ |= {
            "OPENAI_API_KEY": "bench",
            "OPENAI_BASE_URL": vendors.openai_url,
            "ANTHROPIC_API_KEY": "bench",
            "ANTHROPIC_BASE_URL": vendors.anthropic_url,
            "GEMINI_API_KEY": "bench",
            "GOOGLE_GEMINI_BASE_URL": vendors.google_url,
            "CONSENSUS_BATCH_POLL_S": "1",
        }
        with prefect_server(None):
            found = {}
            for name, by_batch in (("by calls", False), ("by batches", True)):
                before, started = vendors.count(), time.perf_counter()
                output = Path(folder, f"{by_batch}.jsonl")
                summary = asyncio.run(run(source, output, vendor_batch=by_batch))
                answers = [json.loads(line)["answer"] for line in output.read_text(encoding="utf-8").splitlines()]
                right = sum(
                    answer is not None and scored(answer) == one.gold
                    for answer, one in zip(answers, questions, strict=True)
                )
                found[name] = (answers, summary.cost_usd)
                print(
                    f"{name:11}{summary.done:5} answered{100 * right / rows:7.1f} % right{vendors.count() - before:6} requests"
                    f"{summary.cost_usd:10.5f} US$  {time.perf_counter() - started:6.1f} s"
                )
        lines = vendors.jobs.executions
    whole, half = found["by calls"], found["by batches"]
    directly = vendors.count() - len(GSM_MEMBERS) * rows - sum(lines.values())
    print(f"{len(vendors.jobs.jobs)} batches, {sum(lines.values())} lines, {directly} calls made directly")
    print(f"the bill is {half[1] / whole[1]:.4f} of that by calls")
    wrong = (whole[0] != half[0]) + (set(lines.values()) != {1}) + (abs(half[1] / whole[1] - 0.5) > 0.01)
    return int(wrong)


if __name__ == "__main__":
    if not GSM.exists():
        sys.exit(f"{GSM.relative_to(ROOT.parent)} is not here")
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 500))
