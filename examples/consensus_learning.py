"""# Consensus learning from Python.

Three instances of the small local model answer, and their answers are merged. Put your own models in:
`openai/gpt-6-luna`, `anthropic/claude-haiku-4-5:2`, `openrouter/deepseek/deepseek-r1:free`.

Run it with `.venv/bin/python examples/consensus_learning.py`; the first line finds a Prefect server, or starts one.
"""

import asyncio
import json

from consensus_flows import ConsensusLearningConfig, connect, consensus_learning
from consensus_flows.tasks.reports.flare import document, read_input

# ## A model merges the answers
#
# With `iterations=1` each member then improves its answer, and they are merged again. The small model is too small for that.

SYSTEM = "Answer in one short sentence."
SAMPLING = {"temperature": 0.7, "max_output_tokens": 200, "seed": 1}
MERGED = ConsensusLearningConfig(
    members=["local/smollm2:3"],
    aggregator="local/smollm2",
    iterations=0,
    system=SYSTEM,
    sampling=SAMPLING,
    aggregator_settings={"temperature": 0.0, "max_output_tokens": 256, "seed": 1},
)

# ## The members settle it among themselves
#
# Five answers are read as numbers. Then each member asks random peers until nobody changes: five calls in all.

SETTLED = ConsensusLearningConfig(
    members=["local/smollm2:5"],
    approach="decentralized",
    extract="number",
    iterations=0,
    system=SYSTEM,
    sampling=SAMPLING,
)

# ## One of Flare's input files
#
# The ids are OpenRouter's unless they name a provider, as these do.

MODEL = {"id": "local/smollm2", "max_tokens": 200, "temperature": 0.7}
INPUT = {
    "models": [MODEL, MODEL, MODEL],
    "initial_conversation": [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "What is the capital of Japan?"},
    ],
    "aggregator": [
        {"model": MODEL, "aggregator_prompt": [{"role": "user", "content": "Merge the answers into one sentence."}]}
    ],
    "improvement_prompt": "Answer the question again.",
    "iterations": 1,
}


async def main() -> None:
    """Run the three, one after the other."""
    record = await consensus_learning("What is the capital of France?", MERGED)
    print(record.answer)

    record = await consensus_learning("What is 7 + 5?", SETTLED)
    settlement = record.iterations[0].settlement
    assert settlement is not None, "decentralized rounds have one"
    print(f"{record.status} on {settlement.value} after {record.calls} calls: {settlement.given} -> {settlement.held}")

    run = read_input(json.dumps(INPUT))
    config = ConsensusLearningConfig.model_validate(run.settings)
    record = await consensus_learning(run.question or "", config, conversation=list(run.conversation))
    print(json.dumps(document(record, config.system, run.conversation), indent=2))


if __name__ == "__main__":
    connect()
    asyncio.run(main())
