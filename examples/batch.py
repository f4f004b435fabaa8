"""# A batch from Python.

The small local model answers every row of a file, three instances vote on each, and the answers become a file. Put your own
models in: `openai/gpt-6-luna`, `anthropic/claude-haiku-4-5:2`, `openrouter/deepseek/deepseek-r1:free`.

Run it with `.venv/bin/python examples/batch.py`; the first line finds a Prefect server, or starts one.
"""

import asyncio
import json
import tempfile
from pathlib import Path
from textwrap import shorten
from typing import Final

from consensus_flows import Budget, batch, connect
from consensus_flows.flows.algorithms import algorithm
from consensus_flows.tasks.batches.estimate import estimate
from consensus_flows.tasks.batches.source import Source

PROMPTS = Path(__file__).parent / "prompts.csv"

# ## The configuration
#
# The same settings as for one question, as plain JSON: `flow` names the algorithm. `saved="night"` in place of both would
# take what `consensus save night --flow vote ...` has saved.

FLOW: Final = "vote"
CONFIG = {
    "members": ["local/smollm2:3"],
    "quorum": 1,
    "system": "Answer in one short sentence.",
    "sampling": {"temperature": 0.2, "max_output_tokens": 256, "seed": 1},
}


async def main() -> None:
    """Say what it would take, run it, and run it again."""
    # ## What it would take
    #
    # Everything is read once and checked; no model is called.
    found = Source(str(PROMPTS)).inspect()
    vote = algorithm(FLOW)
    config = vote.config_class().model_validate(CONFIG)
    expected = await estimate(config, vote.plan(config), found.rows, found.size)
    print(f"{found.rows} rows, {expected.calls_most} calls")

    with tempfile.TemporaryDirectory() as folder:
        # ## The run
        #
        # Kill it half-way and start it again: it goes on where it was. The budget is that of the whole batch.
        output = Path(folder) / "answers.jsonl"
        summary = await batch(
            str(PROMPTS), str(output), flow=FLOW, config=CONFIG, concurrency=2, budget=Budget(max_calls=100)
        )
        print(
            f"{summary.status}: {summary.done} of {summary.rows} answered, {summary.cached_calls} calls from the cache"
        )
        for line in output.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            print(
                f"  {row['id']}: {shorten(row['answer'] or row['error'], 90)} (agreement {row['agreement'] or 0:.0%})"
            )

        # ## Once more
        #
        # Every answer is cached; only what was cut off at its limit of tokens is asked again.
        again = await batch(str(PROMPTS), str(output), flow=FLOW, config=CONFIG)
        print(f"again: {again.cached_calls} of {again.calls} calls from the cache, {again.sent_calls} sent")


if __name__ == "__main__":
    connect()
    asyncio.run(main())
