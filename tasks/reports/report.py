"""What a run shows in the Prefect UI: artifacts for every iteration, events for automations, names that can be read."""

import asyncio
import re
from typing import Any, ClassVar
from uuid import UUID

from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.events import emit_event
from prefect.logging import get_logger
from prefect.runtime import flow_run

from consensus_flows.tasks.errors import QuorumError
from consensus_flows.tasks.plain_text import visible
from consensus_flows.tasks.record import AnswerComparison, Iteration, Record, Response

LIMIT = 20_000
"""Characters of a text that an artifact shows; the whole text is in the flow's result."""


def run_name() -> str:
    """Name a flow run after its question."""
    prompt = str(flow_run.parameters.get("prompt") or "")
    words = " ".join(prompt.split())
    return words if len(words) <= 60 else words[:59] + "…"


def start_record(flow: str, prompt: str, seed: int | None = None) -> Record:
    """Return the record of a run that starts now."""
    return Record(flow=flow, flow_run_id=flow_run.id, prompt=prompt, seed=seed)


def told_of_end(record: Record) -> Record:
    """Return what the flow returns, or fail it with the reason why there is no answer.

    Raises:
        QuorumError: If there is no answer; `record` holds the record.
    """
    if record.answer is not None:
        return record
    error = QuorumError(record.error or "no member gave an answer")
    error.record = record  # type: ignore[attr-defined]
    raise error


class Report:
    """Writes artifacts and events while the run goes on, without making it wait for them."""

    shows_confidence: ClassVar[bool] = True
    """Whether each iteration has a progress artifact of its confidence; flows without an arbiter show something else."""

    def __init__(self, threshold: float | None = None) -> None:
        self._threshold = threshold
        self._writing: list[asyncio.Task[None]] = []
        self._record: Record | None = None
        self._bars: list[asyncio.Task[UUID]] = []
        self._ended = 0

    async def told(self, event: str, value: Any) -> None:
        """Take note of an event of the run."""
        if event == "started":
            self._record = value
        elif event == "answered" and self.shows_confidence and len(self._bars) == self._ended:
            # While the others think: what is left for the end is what a run waits for.
            self._bars.append(asyncio.ensure_future(self._begin(self._ended + 1)))
        elif event == "iterated":
            self._ended += 1
            # At once, not with the artifacts: an automation must not hear of the end before.
            self._emit_iteration(value)
            before = self._writing[-1] if self._writing else None
            self._writing.append(asyncio.ensure_future(self._write(value, before)))
        elif event == "ended":
            self._emit_end(value)
            for outcome in await asyncio.gather(*self._bars, *self._writing, return_exceptions=True):
                if isinstance(outcome, Exception):
                    get_logger("consensus").warning("An artifact could not be written: %r", outcome)

    async def _write(self, iteration: Iteration, before: "asyncio.Task[None] | None") -> None:
        if before is not None:  # one after the other, so that the last one written is the latest
            await asyncio.wait([before])
        name = key(self._record.flow if self._record else "run")
        number, done = iteration.number, self._progress(iteration)
        await asyncio.gather(
            acreate_markdown_artifact(iteration_markdown(iteration), f"{name}-iteration", f"Iteration {number}"),
            acreate_table_artifact(calls_table(iteration), f"{name}-calls", f"Calls of iteration {number}"),
            self._advance(number, done),
        )

    async def _begin(self, number: int) -> UUID:
        name = key(self._record.flow if self._record else "run")
        created: UUID = await acreate_progress_artifact(0.0, f"{name}-progress", f"Confidence in iteration {number}")
        return created

    async def _advance(self, number: int, done: float) -> None:
        description = f"Confidence after iteration {number}"
        if len(self._bars) >= number:
            await aupdate_progress_artifact(await self._bars[number - 1], done, description)

    def _progress(self, iteration: Iteration) -> float:
        """How near the run is to its threshold, in per cent."""
        confidence = iteration.synthesis.confidence if iteration.synthesis else None
        if confidence is None:
            return 0.0
        return 100.0 if not self._threshold else round(min(1.0, confidence / self._threshold) * 100, 1)

    def _emit_iteration(self, iteration: Iteration) -> None:
        synthesis = iteration.synthesis
        _emit(
            "consensus.iteration.ended",
            self._record,
            {
                "iteration": iteration.number,
                "confidence": synthesis.confidence if synthesis else None,
                "agreement": iteration.agreement,
                "failed_members": [r.member for r in iteration.responses if not r.answered],
            },
        )

    def _emit_end(self, record: Record) -> None:
        payload = {
            "status": record.status,
            "confidence": record.confidence,
            "agreement": record.agreement,
            "degraded": record.degraded,
            "cost_usd": record.cost_usd,
        }
        _emit("consensus.run.ended", record, payload)
        if self._threshold is not None and (record.confidence is None or record.confidence < self._threshold):
            _emit("consensus.run.below-threshold", record, payload | {"threshold": self._threshold})


def _emit(event: str, record: Record | None, payload: dict[str, Any]) -> None:
    run_id = record.flow_run_id if record else None
    resource = {
        "prefect.resource.id": f"consensus.run.{run_id or 'local'}",
        "prefect.resource.name": record.flow if record else "run",
    }
    related = (
        [{"prefect.resource.id": f"prefect.flow-run.{run_id}", "prefect.resource.role": "flow-run"}] if run_id else []
    )
    emit_event(event, resource=resource, related=related, payload=payload)


def key(name: str) -> str:
    """Return `name` as an artifact key: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def quoted(text: str) -> str:
    """Return model text for markdown: fenced longer than any fence in it, so that nothing in it is rendered or hidden."""
    text = text if len(text) <= LIMIT else f"{text[:LIMIT]}\n… ({len(text)} characters in all)"
    text = visible(text)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def cell(text: str) -> str:
    """Return text for a table cell, without what markdown or HTML would act on."""
    return " ".join(re.sub(r"[<>\[\]!`|]", " ", visible(text)).split())[:300]


def percent(value: float | None) -> str:
    """Return a share as per cent, or a dash."""
    return "-" if value is None else f"{value * 100:.0f} %"


def agreement_note(iteration: Iteration) -> str:
    """Say how far the answers agree, and by which measure."""
    measure = iteration.agreement_measure or ""
    how = f"by `{cell(measure)}`" if measure.startswith("embedding:") else "(measured)"
    return f"**agreement** {percent(iteration.agreement)} {how}"


def answer_section(response: Response, level: str = "###") -> str:
    """Show what a member answered; and what the prompt set has kept apart from it, as such."""
    parts = [f"{level} `{cell(response.member)}`", quoted(response.text or "")]
    if response.reasoning:
        parts += ["Reasoning before it:", quoted(response.reasoning)]
    if response.citations:
        parts += ["Sources that it names (nobody has looked them up):", quoted("\n".join(response.citations))]
    return "\n\n".join(parts)


def iteration_markdown(iteration: Iteration) -> str:
    """Describe an iteration for a person."""
    synthesis = iteration.synthesis
    failed = [f"{r.member}: {r.error.message}" for r in iteration.responses if r.error]
    if synthesis is None:
        return f"# Iteration {iteration.number}\n\nToo few members answered.\n\n" + quoted("\n".join(failed))
    by = f"by `{cell(synthesis.arbiter)}`" if synthesis.arbiter else "no arbiter could judge"
    confidence = f"**Confidence** {percent(synthesis.confidence)} (the arbiter's word, {by})"
    parts = [
        f"# Iteration {iteration.number}",
        f"{confidence} · {agreement_note(iteration)}",
        f"## Answer of `{cell(synthesis.chosen)}`" if synthesis.chosen else "## Synthesis",
        quoted(synthesis.text),
    ]
    if synthesis.dissent:
        parts += ["## Dissent", quoted(synthesis.dissent)]
    if synthesis.refinement_areas:
        parts += ["## What to refine", quoted("\n".join(f"- {area}" for area in synthesis.refinement_areas))]
    if synthesis.comparison:
        parts += comparison_section(synthesis.comparison)
    if synthesis.analysis:
        parts += ["## Analysis", quoted(synthesis.analysis)]
    parts.append("## Answers")
    parts += [answer_section(r) for r in iteration.responses if r.answered]
    parts += hazards_section(iteration)
    if failed:
        parts += ["## Failed", quoted("\n".join(failed))]
    return "\n\n".join(parts)


def comparison_section(comparison: AnswerComparison) -> list[str]:
    """Show how the answers compare, and which members say what."""
    contradictions = [
        "\n".join([f"- {one.topic}", *(f"  - {p.position} ({', '.join(p.members)})" for p in one.positions)])
        for one in comparison.contradictions
    ]
    sections = {
        "Consensus": [f"- {point}" for point in comparison.consensus],
        "Contradictions": contradictions,
        "Covered only by some": [f"- {one.point} ({', '.join(one.members)})" for one in comparison.partial_coverage],
        "Unique insights": [f"- {one.insight} ({one.member})" for one in comparison.unique_insights],
        "Blind spots": [f"- {point}" for point in comparison.blind_spots],
    }
    shown = [(f"### {title}", quoted("\n".join(lines))) for title, lines in sections.items() if lines]
    return ["## Comparison", *(part for pair in shown for part in pair)] if shown else []


def hazards_section(iteration: Iteration) -> list[str]:
    """Say whose text looked like an attack, and on account of what."""
    found = [f"{r.member}: {', '.join(r.hazards)}" for r in iteration.responses if r.hazards]
    return ["## Looked like an attack", quoted("\n".join(found))] if found else []


def calls_table(iteration: Iteration) -> list[dict[str, Any]]:
    """List the calls of an iteration, one row each."""
    roles = (("member", iteration.responses), ("embedding", iteration.embeddings), ("arbiter", iteration.judgements))
    return [_row(response, role) for role, calls in roles for response in calls]


def _row(response: Response, role: str) -> dict[str, Any]:
    return {
        "role": role,
        "member": cell(response.member),
        "latency s": round(response.latency_s, 2),
        "input tokens": response.usage.input_tokens,
        "output tokens": response.usage.output_tokens,
        "cost USD": "unknown" if response.cost_usd is None else round(response.cost_usd, 6),
        "attempts": response.attempts,
        "cached": "yes" if response.cached else "no",
        "looks like an attack": ", ".join(response.hazards),
        "error": cell(response.error.message) if response.error else "",
    }
