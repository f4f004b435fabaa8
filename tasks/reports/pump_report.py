"""What a pump run shows: every answer under its member's name."""

import asyncio
from collections.abc import Sequence

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact

from consensus_flows.tasks.record import Iteration, Response
from consensus_flows.tasks.reports.report import Report, agreement_note, answer_section, calls_table, cell, quoted


def heading(response: Response) -> str:
    """Return the line above a member's answer."""
    return f"## {' '.join(response.member.split())}"


def answers_text(answered: Sequence[Response]) -> str:
    """Return all answers in one text, each under its member's name, in the order given."""
    return "\n\n".join(f"{heading(response)}\n\n{response.text or ''}" for response in answered)


class PumpReport(Report):
    """Shows the answers side by side instead of a judgement of them."""

    shows_confidence = False

    async def _write(self, iteration: Iteration, before: "asyncio.Task[None] | None") -> None:  # noqa: ARG002  # there is one
        await asyncio.gather(
            acreate_markdown_artifact(answers_markdown(iteration), "pump-answers", "All answers"),
            acreate_table_artifact(calls_table(iteration), "pump-calls", "All calls"),
        )


def answers_markdown(iteration: Iteration) -> str:
    """Show every answer, or why there is none."""
    answered = [response for response in iteration.responses if response.answered]
    slowest = max((response.latency_s for response in iteration.responses), default=0.0)
    told = f"{len(answered)} of {len(iteration.responses)} members answered in {iteration.duration_s:.1f} s"
    parts = [
        "# Answers",
        f"{told}, the slowest in {slowest:.1f} s · {agreement_note(iteration)}",
    ]
    for response in iteration.responses:
        if response.error:
            parts.append(f"## `{cell(response.member)}` failed\n\n{quoted(response.error.message)}")
        else:
            parts.append(answer_section(response, "##"))
    return "\n\n".join(parts)
