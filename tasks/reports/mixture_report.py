"""What a mixture of agents shows in the Prefect UI: every layer with its answers, or how many of the queries are done."""

import asyncio
from uuid import UUID

from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)

from consensus_flows.tasks.record import Iteration
from consensus_flows.tasks.reports.report import (
    Report,
    agreement_note,
    answer_section,
    calls_table,
    cell,
    quoted,
)


class MixtureReport(Report):
    """Writes the answers and the calls of each layer, and how many of the layers are done."""

    shows_confidence = False

    def __init__(self, layers: int) -> None:
        super().__init__()
        self._layers = layers
        self._bar: UUID | None = None

    async def _write(self, iteration: Iteration, before: "asyncio.Task[None] | None") -> None:
        if before is not None:  # one after the other, so that the last one written is the latest
            await asyncio.wait([before])
        number = iteration.number
        # How many windows there will be is known only when the last layer has answered.
        done = 100.0 if number >= self._layers else round(number / self._layers * 100, 1)
        await asyncio.gather(
            acreate_markdown_artifact(layer_markdown(iteration), "mixture-of-agents-layer", f"Layer {number}"),
            acreate_table_artifact(calls_table(iteration), "mixture-of-agents-calls", f"Calls of layer {number}"),
            self._show(done, f"Layer {number} of {max(number, self._layers)}"),
        )

    async def _show(self, done: float, description: str) -> None:
        if self._bar is None:
            self._bar = await acreate_progress_artifact(done, "mixture-of-agents-progress", description)
        else:
            await aupdate_progress_artifact(self._bar, done, description)


def layer_markdown(iteration: Iteration) -> str:
    """Describe a layer for a person."""
    synthesis, number = iteration.synthesis, iteration.number
    answered = [response for response in iteration.responses if response.answered]
    calls = [*iteration.responses, *iteration.embeddings, *iteration.judgements]
    failed = [f"{call.member}: {call.error.message}" for call in calls if call.error]
    parts = [f"# Layer {number}"]
    if iteration.responses:
        recorded = ", recorded earlier" if any(response.recorded for response in answered) else ""
        parts.append(
            f"{len(answered)} of {len(iteration.responses)} models answered{recorded} · {agreement_note(iteration)}"
        )
    if synthesis:
        if iteration.judgements and not iteration.judgements[-1].answered and synthesis.arbiter:
            by = "no aggregator could answer; the synthesis so far stands in"
        elif synthesis.arbiter:
            by = f"by `{cell(synthesis.arbiter)}` from {len(synthesis.labels)} answers"
        else:
            by = f"no synthesis could be made; the answer of `{cell(synthesis.chosen or '')}` stands in for one"
        parts += ["## Answer", by, quoted(synthesis.text)]
    parts += [answer_section(response, "##") for response in answered]
    if failed:
        parts += ["## Failed", quoted("\n".join(failed))]
    return "\n\n".join(parts)
