"""What a vote shows in the Prefect UI: the votes, the count, and what a judge found in pairs."""

import asyncio
from typing import Any

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact

from consensus_flows.tasks.record import Comparison, Iteration, Record
from consensus_flows.tasks.reports.report import Report, answer_section, calls_table, cell, percent, quoted


class VoteReport(Report):
    """Shows a count instead of an arbiter's judgement."""

    shows_confidence = False

    async def _write(self, iteration: Iteration, before: "asyncio.Task[None] | None") -> None:
        if before is not None:  # one after the other, so that the last one written is the latest
            await asyncio.wait([before])
        record = self._record
        if record is None:
            return
        work = [
            acreate_markdown_artifact(vote_markdown(record, iteration), "vote-result", "Result"),
            acreate_table_artifact(calls_table(iteration), "vote-calls", "Calls"),
        ]
        if record.votes:
            work.append(acreate_table_artifact(votes_table(record), "vote-votes", "Votes"))
        if record.comparisons:
            work.append(acreate_table_artifact(pairs_table(record.comparisons), "vote-pairs", "Compared pairs"))
        await asyncio.gather(*work)


def votes_table(record: Record) -> list[dict[str, Any]]:
    """List what each member voted for, in the order in which they were asked."""
    return [
        {
            "member": vote.member,
            "answer": "abstains" if vote.answer is None else cell(vote.answer),
            "weight": vote.weight,
        }
        for vote in record.votes
    ]


def pairs_table(comparisons: list[Comparison]) -> list[dict[str, Any]]:
    """List the compared pairs and what the judge said of them in both orders."""
    return [
        {
            "first": one.pair[0],
            "second": one.pair[1],
            "better in this order": one.said[0] or "nothing",
            "better in the other order": one.said[1] or "nothing",
            "winner": one.winner or ("none" if None in one.said else "tie"),
        }
        for one in comparisons
    ]


def tally_lines(record: Record) -> list[str]:
    """Say in a line each how many votes an answer has and whose they are."""
    lines = [
        f"{option.votes:g} ({percent(option.share)}) {cell(option.answer)[:80]}: {', '.join(option.members)}"
        for option in record.tally
    ]
    abstained = [vote.member for vote in record.votes if vote.answer is None]
    return [*lines, f"no vote: {', '.join(abstained)}"] if abstained else lines


def vote_markdown(record: Record, iteration: Iteration) -> str:
    """Describe the result for a person."""
    parts = ["# Result"]
    synthesis = iteration.synthesis
    if synthesis is None:
        parts.append(f"No answer.\n\n{quoted(record.error or '')}")
    else:
        how = {"vote": "Most votes", "pairwise": "Best in pairs", "fuse": "Fused of the best"}
        title = how.get(synthesis.method or "", "Nearest to the others, because the judge failed")
        parts += [f"## {title}", quoted(synthesis.text)]
        notes = [f"**agreement** {percent(iteration.agreement)}"]
        notes += ["**unanimous**"] if record.unanimous else []
        notes += ["**tie**, the member listed first decided"] if record.tie else []
        parts.append(" · ".join(notes))
    if record.tally:
        parts += ["## Votes", quoted("\n".join(tally_lines(record)))]
    if synthesis is not None and synthesis.ranking:
        parts += ["## Ranking", quoted("\n".join(f"{n}. {name}" for n, name in enumerate(synthesis.ranking, 1)))]
    parts.append("## Answers")
    parts += [answer_section(one) for one in iteration.responses if one.answered]
    failed = [f"{one.member}: {one.error.message}" for one in iteration.responses if one.error]
    if failed:
        parts += ["## Failed", quoted("\n".join(failed))]
    return "\n\n".join(parts)
