"""`consensus demo`: what a panel is worth, shown with a small model on this machine. No key."""

import csv
import json
import sys
import tempfile
import time
from pathlib import Path

from consensus_flows.blocks.sampling import Sampling
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.deployments.algorithm_commands import ask
from consensus_flows.deployments.batch_view import BatchLines, BatchTable
from consensus_flows.deployments.commands.algorithms.batch import run_batch_flow
from consensus_flows.deployments.local_model import install_local_model
from consensus_flows.deployments.run import TurnOptions
from consensus_flows.deployments.terminal import Exit, put, say
from consensus_flows.flows.algorithms import algorithm
from consensus_flows.tasks.addresses import EXAMPLES
from consensus_flows.tasks.batches.summary import BatchSummary

MODEL = "local/smollm2"
SAMPLES = 5
ROWS = EXAMPLES / "capitals.csv"
LIMIT = 10


def demo(prompt: str | None = None, *, out: TurnOptions | None = None) -> Exit:
    """Show why a panel is worth it, with a small local model: a question, the cache, and a small batch. No key is needed.

    Args:
        prompt: Question to ask instead; the small model knows little.
        out: What is printed and written.
    """
    install_local_model()
    out = out or TurnOptions()
    # Not a consortium: a model this small answers, but cannot judge.
    config = VoteConfig(
        members=[f"{MODEL}:{SAMPLES}"],
        system="Answer in one short sentence.",
        sampling=Sampling(temperature=0.8, max_output_tokens=64, seed=1),
    )
    if prompt is not None:
        return ask(algorithm("vote"), prompt, config, out)
    with ROWS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    config = config.model_copy(update={"extract": "label:" + ",".join(row["capital"] for row in rows)})
    question = rows[1]["prompt"]
    if out.json or out.raw:
        return ask(algorithm("vote"), question, config, out)
    say(f"1. One question, {SAMPLES} samples of a small model: {question}")
    # A turn that continues an earlier one would be another question.
    ask(algorithm("vote"), question, config, TurnOptions())
    say("\n2. The same question again: every answer comes from the cache, and nothing is paid twice.")
    started = time.monotonic()
    ask(algorithm("vote"), question, config, TurnOptions(raw=True))
    say(f"  {time.monotonic() - started:.1f} s")
    say(f"\n3. A batch, as you would run it every night: {LIMIT} questions of {ROWS.name}.")
    folder = Path(tempfile.mkdtemp(prefix="consensus-demo-"))
    return run_batch_flow(
        str(ROWS),
        str(folder / "answers.jsonl"),
        "vote",
        config,
        _report,
        view=BatchTable() if sys.stderr.isatty() else BatchLines(),
        interrupted="run it again: answers that are there come from the cache",
        limit=LIMIT,
        review=str(folder / "review.html"),
    )


def _report(summary: BatchSummary, ui_url: str) -> Exit:
    """Compare the votes with the samples, by the right answers in the file."""
    rows = [json.loads(line) for line in Path(summary.output).read_text(encoding="utf-8").splitlines()]
    samples = [sample["answer"] == row["capital"] for row in rows for sample in row["answers"].values()]
    right = sum(row["answer"] == row["capital"] for row in rows)
    wrong = sum(row["answer"] not in {None, row["capital"]} for row in rows)
    put(
        f"One sample alone is right in {sum(samples) / len(samples):.0%} of the rows. "
        f"The vote is right in {right} of {len(rows)}, wrong in {wrong}, and asks for a person in {summary.to_review}."
    )
    say(f"  answers:        {summary.output}")
    say(f"  rows to review: {summary.review_file}")
    say(f"  in the UI:      {ui_url}/runs/flow-run/{summary.flow_run_id} (`consensus ui` signs you in)")
    return Exit.ANSWER
