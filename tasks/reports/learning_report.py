"""What a run of consensus learning shows in the Prefect UI after each round."""

import asyncio

from prefect.artifacts import acreate_markdown_artifact, acreate_progress_artifact, acreate_table_artifact

from consensus_flows.tasks.record import Iteration, Settlement
from consensus_flows.tasks.reports.report import Report, agreement_note, answer_section, calls_table, cell, key, quoted


class LearningReport(Report):
    """Writes the aggregate, the answers and the calls of each round, and how many of the rounds are done."""

    shows_confidence = False

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self._rounds = rounds

    async def _write(self, iteration: Iteration, before: "asyncio.Task[None] | None") -> None:
        if before is not None:  # one after the other, so that the last one written is the latest
            await asyncio.wait([before])
        name = key(self._record.flow if self._record else "run")
        number = iteration.number
        await asyncio.gather(
            acreate_markdown_artifact(round_markdown(iteration), f"{name}-round", f"Round {number}"),
            acreate_table_artifact(calls_table(iteration), f"{name}-calls", f"Calls of round {number}"),
            acreate_progress_artifact(
                round(number / self._rounds * 100, 1),
                f"{name}-progress",
                f"Round {number} of at most {self._rounds}",
            ),
        )


def round_markdown(iteration: Iteration) -> str:
    """Describe a round for a person."""
    synthesis = iteration.synthesis
    failed = [f"{r.member}: {r.error.message}" for r in iteration.responses if r.error]
    if synthesis is None:
        return f"# Round {iteration.number}\n\nToo few members answered.\n\n" + quoted("\n".join(failed))
    if synthesis.arbiter:
        by = f"by `{cell(synthesis.arbiter)}`"
    elif synthesis.method == "stand-in":
        by = f"no aggregate could be made; the answer of `{cell(synthesis.chosen or '')}` stands in for one"
    else:
        by = f"by {synthesis.method}: the answer of `{cell(synthesis.chosen or '')}`"
    parts = [
        f"# Round {iteration.number}",
        f"**Aggregate** {by} · {agreement_note(iteration)}",
        quoted(synthesis.text),
    ]
    if synthesis.votes:
        votes = [f"{value}: {', '.join(members)}" for value, members in synthesis.votes.items()]
        parts += ["## Votes", quoted("\n".join(votes))]
    if iteration.settlement:
        parts += ["## Settlement", _settlement(iteration.settlement)]
    parts.append("## Answers")
    parts += [answer_section(r) for r in iteration.responses if r.answered]
    if failed:
        parts += ["## Failed", quoted("\n".join(failed))]
    return "\n\n".join(parts)


def _settlement(settlement: Settlement) -> str:
    outcome = "settled on one value" if settlement.settled else "did not settle on one value"
    lines = [f"{member} holds {value}" for member, value in settlement.held.items()]
    lines += [
        f"round {one.round}: {one.member} adopted {one.value} from {one.peer} (answer of {one.author})"
        for one in settlement.adopted
    ]
    return f"The members {outcome} in {settlement.rounds} rounds without a model.\n\n{quoted(chr(10).join(lines))}"
