"""# A vote from Python.

Instances of the small local model answer a sum, and their answers are counted. Put your own models in: `openai/gpt-6-luna`,
`anthropic/claude-haiku-4-5:2`, `openrouter/deepseek/deepseek-r1:free`.

Run it with `.venv/bin/python examples/vote.py`; the first line finds a Prefect server, or starts one.
"""

import asyncio

from consensus_flows import VoteConfig, connect, vote
from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.tasks.counting.extraction.extract import extract_all
from consensus_flows.tasks.counting.ranking import borda, condorcet_winner, kendall_w
from consensus_flows.tasks.counting.vote import count_votes

SAMPLING = {"temperature": 0.7, "max_output_tokens": 120, "seed": 1}

# ## Self-consistency
#
# Seven instances are asked three at a time, until four of them agree.

COUNTED = VoteConfig(
    members=["local/smollm2:7"],
    extract="number",
    stop_when=4,
    waves=3,
    quorum=1,
    system="Answer with one short sentence that ends with the number.",
    sampling=SAMPLING,
)

# ## Ranking by pairs
#
# Free texts cannot be counted. A judge compares each pair in both orders, never its own answer, and the best two are fused.
# There is one local model, so here the judge would compare nothing but its own; give it another to see it judge.

COMPARED = VoteConfig(
    members=["local/smollm2:3"],
    pairwise_judge="local/smollm2",
    fuse="local/smollm2",
    fuse_top=2,
    quorum=1,
    system="Answer in one short sentence.",
    sampling=SAMPLING,
    judge_settings={"temperature": 0.0, "max_output_tokens": 256, "seed": 1},
)

# ## The count alone
#
# Reading and counting are plain functions: no model, no server.

TEXTS = ['{"answer": "1,200"}', 'Sure: {"answer": 1200.0}', '{"answer": "1300"}', "I cannot say."]


async def main() -> None:
    """Run the two votes, then count by hand."""
    record = await vote("What is 7 + 5?", COUNTED)
    print(f"{record.status}: {record.answer} after {record.calls} calls")
    for option in record.tally:
        print(f"  {option.answer}: {option.votes:g} of {len(record.votes)} asked, {', '.join(option.members)}")

    record = await vote("Why is the sky blue?", COMPARED)
    print(f"{record.answer}\n  {'; '.join(map(str, record.warnings))}")


def by_hand() -> None:
    """Count recorded answers, and put three judges' rankings together."""
    readings = extract_all(TEXTS, parse_extraction("json:answer"))
    tally = count_votes([reading.value if reading else None for reading in readings])
    print(f"winner {tally.winner.value if tally.winner else None}, share {tally.share}, unanimous {tally.unanimous}")

    rankings = [[["b"], ["c"]], [["c"], ["a"]], [["b"], ["a"]]]  # of a, b and c: each judge leaves itself out
    print(borda(rankings, "abc"), condorcet_winner(rankings, "abc"), kendall_w(rankings, "abc"))


if __name__ == "__main__":
    by_hand()
    connect()
    asyncio.run(main())
