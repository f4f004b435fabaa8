"""# Models that rank each other

Three instances of the small local model answer, then each ranks the answers of the two others. It is far too small to judge
well; put your own models in: `openai/gpt-6-luna`, `anthropic/claude-haiku-4-5`, `google/gemini-3.8-flash`.

Run it with `.venv/bin/python examples/prefer.py`; the first line finds a Prefect server, or starts one.
"""

import asyncio

from consensus_flows import PreferConfig, connect, prefer
from consensus_flows.tasks.counting.preference import score

config = PreferConfig(
    members=["local/smollm2:3"],
    rounds=2,
    include_self=True,
    system="Answer in one short sentence.",
    sampling={"temperature": 0.7, "max_output_tokens": 96, "seed": 1},
    judge_settings={"temperature": 0.0, "max_output_tokens": 256, "seed": 1},
)


async def main() -> None:
    """Ask, and show who prefers whom."""
    record = await prefer("What is the capital of France?", config)
    print(record.answer)

    # ## What each judge said
    #
    # A ranking is a list of groups: members in one group are tied. An empty one is an abstention.
    for entry in record.rankings:
        print(f"  round {entry.round}: {entry.judge} saw {', '.join(entry.order)} and ranks {entry.ranking}")

    # ## What it comes to
    #
    # The same function that made the record's scores counts any rankings: here those of the first round alone.
    members = [str(member) for member in config.panel()]
    for scores in (record.scores, score([entry for entry in record.rankings if entry.round == 1], members)):
        if scores is not None:
            ranks = {member: one.mean_rank for member, one in scores.members.items()}
            print(
                f"best {scores.winner}, Condorcet {scores.condorcet_winner}, W {scores.kendall_w}, mean ranks {ranks}"
            )


if __name__ == "__main__":
    connect()
    asyncio.run(main())
