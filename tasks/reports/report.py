"""What a run shows in the Prefect UI: artifacts for every iteration, events for automations, names that people can read."""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
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

from consensus_flows.tasks.record import AnswerComparison, Iteration, Record, Response
from consensus_flows.tasks.reports import verdict
from consensus_flows.tasks.reports.answer import answer_page
from consensus_flows.tasks.reports.call_log import log_call
from consensus_flows.tasks.reports.markdown import cell, percent, prose, quoted


def run_name() -> str:
    """Name a flow run after its question."""
    prompt = str(flow_run.parameters.get("prompt") or "")
    words = " ".join(prompt.split())
    return words if len(words) <= 60 else words[:59] + "…"


@dataclass(frozen=True)
class Artifact:
    """One artifact of a run.

    Attributes:
        key: Its key; artifacts of one key are versions of each other.
        description: What it shows.
        content: Markdown, the rows of a table, or a progress in percent.
    """

    key: str
    description: str
    content: str | list[dict[str, Any]] | float


class Report:
    """Writes artifacts and events while the run goes on, without making it wait for them.

    Args:
        of_iteration: Returns the artifacts of an iteration that has ended; by default its answers and its calls.
        of_run: Returns the artifacts of the whole run at its end.
        threshold: A confidence below which an event says so.
    """

    def __init__(
        self,
        of_iteration: Callable[[Record, Iteration], Iterable[Artifact]] | None = None,
        of_run: Callable[[Record], Iterable[Artifact]] | None = None,
        *,
        threshold: float | None = None,
    ) -> None:
        self._of_iteration = of_iteration or answers_and_calls
        self._of_run = of_run
        self._threshold = threshold
        self._record: Record | None = None
        self._written: asyncio.Task[None] | None = None
        self._progress: dict[str, UUID] = {}

    async def on_event(self, event: str, value: Any) -> None:
        """Take note of an event of the run."""
        if event == "started":
            self._record = value
        elif event == "called":
            log_call(value)
        elif event == "iterated" and self._record is not None:
            # At once, not with the artifacts: an automation must not get the end of the run first.
            self._emit_iteration(self._record, value)
            self._write(self._of_iteration(self._record, value))
        elif event == "ended":
            self._emit_end(value)
            self._write([] if self._of_run is None else self._of_run(value))
            assert self._written is not None
            # The answer has one version only, so it need not come after the others.
            answer = Artifact("answer", verdict.of_run(value).message, answer_page(value))
            await asyncio.gather(self._written, self._write_all([answer]))

    def _write(self, artifacts: Iterable[Artifact]) -> None:
        """Write artifacts in the background, after those before, so that the last one written is the latest version."""
        self._written = asyncio.ensure_future(self._write_after(self._written, list(artifacts)))

    async def _write_after(self, before: "asyncio.Task[None] | None", artifacts: list[Artifact]) -> None:
        if before is not None:
            await before
        await self._write_all(artifacts)

    async def _write_all(self, artifacts: Iterable[Artifact]) -> None:
        for outcome in await asyncio.gather(*map(self._create, artifacts), return_exceptions=True):
            if isinstance(outcome, Exception):
                get_logger("consensus").warning("An artifact could not be written: %r", outcome)

    async def _create(self, artifact: Artifact) -> None:
        content = artifact.content
        if isinstance(content, str):
            await acreate_markdown_artifact(content, artifact.key, artifact.description)
        elif isinstance(content, list):
            await acreate_table_artifact(content, artifact.key, artifact.description)
        elif artifact.key in self._progress:
            await aupdate_progress_artifact(self._progress[artifact.key], content, artifact.description)
        else:
            self._progress[artifact.key] = await acreate_progress_artifact(content, artifact.key, artifact.description)

    def _emit_iteration(self, record: Record, iteration: Iteration) -> None:
        payload = {
            "iteration": iteration.number,
            "confidence": iteration.synthesis.confidence if iteration.synthesis else None,
            "agreement": iteration.agreement,
            "failed_members": [r.member for r in iteration.responses if not r.answered],
        }
        _emit("consensus.iteration.ended", record, payload)

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


def _emit(event: str, record: Record, payload: dict[str, Any]) -> None:
    run_id = record.flow_run_id
    resource = {
        "prefect.resource.id": f"consensus.run.{run_id or 'local'}",
        "prefect.resource.name": record.flow,
    }
    related = (
        [{"prefect.resource.id": f"prefect.flow-run.{run_id}", "prefect.resource.role": "flow-run"}] if run_id else []
    )
    emit_event(event, resource=resource, related=related, payload=payload)


def key(name: str) -> str:
    """Return `name` as an artifact key: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def agreement_note(iteration: Iteration) -> str:
    """Say how far the answers agree, and by which measure."""
    measure = iteration.agreement_measure or ""
    how = f"by `{cell(measure)}`" if measure.startswith("embedding:") else "(measured)"
    return f"**agreement** {percent(iteration.agreement)} {how}"


def answer_section(response: Response, level: str = "###") -> str:
    """Show what a member answered; and what the prompt set has kept apart from it, as such."""
    parts = [f"{level} `{cell(response.member)}`", prose(response.text or "")]
    if response.reasoning:
        parts += ["Reasoning before it:", prose(response.reasoning)]
    if response.citations:
        parts += ["Sources that it names (nobody has looked them up):", quoted("\n".join(response.citations))]
    return "\n\n".join(parts)


def answers_and_calls(record: Record, iteration: Iteration) -> Iterator[Artifact]:
    """Show what an iteration came to, its answers and its calls."""
    title, made = f"Iteration {iteration.number}", iteration.synthesis
    page = iteration_page(title, iteration, [agreement_note(iteration), *([prose(made.text)] if made else [])])
    yield Artifact(f"{key(record.flow)}-iteration", title, page)
    yield calls_artifact(record, iteration, title.lower())


def calls_artifact(record: Record, iteration: Iteration, of: str) -> Artifact:
    """Return the table of the calls of an iteration."""
    return Artifact(f"{key(record.flow)}-calls", f"Calls of {of}", calls_table(iteration))


def iteration_page(title: str, iteration: Iteration, sections: Sequence[str]) -> str:
    """Describe an iteration for a person: its own sections, then every answer, what looked like an attack, and what failed."""
    failed = [f"{call.member}: {call.error.message}" for call in iteration.calls_made() if call.error]
    parts = [f"# {title}", *sections]
    if answered := iteration.answered():
        parts += ["## Answers", *(answer_section(response) for response in answered)]
    parts += hazards_section(iteration)
    if failed:
        parts += ["## Failed", prose("\n".join(f"- {line}" for line in failed))]
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
    shown = [(f"### {title}", prose("\n".join(lines))) for title, lines in sections.items() if lines]
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
        "suspicious": ", ".join(response.hazards),
        "error": cell(response.error.message) if response.error else "",
    }
