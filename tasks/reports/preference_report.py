"""What a prefer run shows in the UI: how each judge ranked, and what follows from all of them."""

import asyncio
from typing import Any

from prefect.artifacts import acreate_markdown_artifact, acreate_progress_artifact, acreate_table_artifact

from consensus_flows.tasks.counting.preference import score
from consensus_flows.tasks.record import Iteration, JudgeRanking, Record, Scores
from consensus_flows.tasks.reports.report import Report, answer_section, calls_table, cell, percent, quoted


class PreferReport(Report):
    """Shows rankings instead of an arbiter's judgement."""

    shows_confidence = False

    def __init__(self, rounds: int = 1) -> None:
        super().__init__()
        self._rounds = rounds

    async def told(self, event: str, value: Any) -> None:
        """Take note of an event of the run."""
        await super().told(event, value)
        if event == "ended":
            await self._scores(value)

    async def _write(self, iteration: Iteration, before: "asyncio.Task[None] | None") -> None:
        if before is not None:  # one after the other, so that the last one written is the latest
            await asyncio.wait([before])
        entries = self._record.rankings if self._record else []
        done = round(100 * iteration.number / self._rounds, 1)
        await asyncio.gather(
            acreate_markdown_artifact(round_markdown(iteration, entries), "prefer-round", f"Round {iteration.number}"),
            acreate_table_artifact(calls_table(iteration), "prefer-calls", f"Calls of round {iteration.number}"),
            acreate_progress_artifact(done, "prefer-progress", "Rounds done"),
        )

    async def _scores(self, record: Record) -> None:
        if record.scores is not None:
            await asyncio.gather(
                acreate_table_artifact(scores_table(record.scores), "prefer-scores", "All rankings put together"),
                acreate_markdown_artifact(scores_markdown(record.scores), "prefer-summary", "What the judges prefer"),
            )


def groups_text(ranking: list[list[str]]) -> str:
    """Return a ranking as one line: `a > b = c`."""
    return " > ".join(" = ".join(group) for group in ranking)


def said_by(entry: JudgeRanking) -> str:
    """Return in a line what a judge said."""
    return groups_text(entry.ranking) or (f"no ranking: {entry.error}" if entry.error else "abstained")


def number_text(value: float | None, digits: int = 2) -> str:
    """Return a figure, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def round_markdown(iteration: Iteration, entries: list[JudgeRanking]) -> str:
    """Describe a round for a person."""
    answered = [response for response in iteration.responses if response.answered]
    told = f"{len(answered)} of {len(iteration.responses)} members answered"
    parts = [
        f"# Round {iteration.number}",
        f"{told} · **agreement** {percent(iteration.agreement)} (measured)",
        "## Rankings",
    ]
    own = [entry for entry in entries if entry.round == iteration.number]
    parts.append(quoted("\n".join(f"{entry.judge}: {said_by(entry)}" for entry in own)) if own else "None.")
    if own:
        scores = score(own, [response.member for response in answered])
        parts.append(f"Best by Borda: `{cell(scores.winner or '-')}` · Kendall's W {number_text(scores.kendall_w)}")
    parts.append("## Answers")
    parts += [answer_section(response) for response in answered]
    remarks = [entry for entry in own if entry.analysis or entry.abstained]
    if remarks:
        parts.append("## What the judges said")
        for entry in remarks:
            shown = ", ".join(f"{label} {member}" for label, member in zip(_labels(entry), entry.order, strict=True))
            text = entry.analysis or entry.text or ""
            parts.append(f"### `{cell(entry.judge)}`\n\nIt saw `{cell(shown)}`.\n\n{quoted(text)}")
    failed = [f"{response.member}: {response.error.message}" for response in iteration.responses if response.error]
    if failed:
        parts += ["## Failed", quoted("\n".join(failed))]
    return "\n\n".join(parts)


def _labels(entry: JudgeRanking) -> list[str]:
    from consensus_flows.tasks.plain_text import labels

    return labels(len(entry.order))


def scores_table(scores: Scores) -> list[dict[str, Any]]:
    """List the members, best first."""
    return [
        {
            "member": member,
            "Borda": number_text(one.borda),
            "mean rank": number_text(one.mean_rank),
            "beats": one.wins,
            "first places": one.first_places,
            "rank by itself": number_text(one.rank_by_self),
            "rank by others": number_text(one.rank_by_others),
        }
        for member, one in scores.members.items()
    ]


def scores_markdown(scores: Scores) -> str:
    """Say what all rankings come to."""
    return quoted("\n".join(scores_lines(scores)))


def scores_lines(scores: Scores) -> list[str]:
    """Say in a few lines what all rankings come to."""
    lines = [
        f"best by Borda: {scores.winner or 'nobody was ranked'}"
        + (f" (shared by {', '.join(scores.tied)})" if scores.tied else ""),
        f"Condorcet winner: {scores.condorcet_winner or 'there is none'}",
        f"Kendall's W: {number_text(scores.kendall_w)}",
        f"{scores.rankings} rankings, {scores.abstentions} abstentions",
    ]
    if scores.self_preference is not None:
        better = number_text(scores.self_preference)
        lines.append(f"self-preference: members rank themselves {better} places better than others do")
        lines.append("ranks by itself and by others are among all answers; all else leaves judges' own answers out")
    effect = scores.position_effect
    if effect is not None:
        ranks = ", ".join(number_text(rank) for rank in effect.mean_rank)
        lines.append(f"position effect: mean rank by position {ranks}; correlation {number_text(effect.correlation)}")
    return lines
