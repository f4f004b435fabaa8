"""# A swarm of sub-tasks from Python.

The small local model splits a task, answers its parts at the same time, and joins the answers. Put your own models in:
`openai/gpt-6-luna`, `anthropic/claude-haiku-4-5`, or `panel/NAME` for a saved panel.

Run it with `.venv/bin/python examples/swarm.py`; the first line finds a Prefect server, or starts one.
"""

import asyncio

from consensus_flows import SwarmConfig, connect, swarm

# A model as small as this one splits badly. One part with an answer is enough here; by default it is more than half.

CONFIG = SwarmConfig.model_validate(
    {
        "members": ["local/smollm2"],
        "orchestrator": "local/smollm2",
        "max_parts": 3,
        "quorum": 1,
        "system": "Answer in one short sentence.",
        "sampling": {"temperature": 0.7, "max_output_tokens": 128, "seed": 1},
        "orchestrator_settings": {"temperature": 0.0, "max_output_tokens": 512},
        "aggregator_settings": {"temperature": 0.0, "max_output_tokens": 256},
    }
)


async def main() -> None:
    """Run it, and show who did what."""
    record = await swarm("Compare cats and dogs as pets: cost, care and noise.", CONFIG)
    for part in record.parts:
        print(f"{part.number}. {part.title} ({part.member}): {part.error or 'answered'}")
    print(f"{record.status} after {record.calls} calls: {record.answer}")


if __name__ == "__main__":
    connect()
    asyncio.run(main())
