"""What a batch shows in the Prefect UI: a bar while it goes on, and in the end a summary, a table of models and a picture."""

import asyncio
import time
from base64 import b64encode
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    acreate_image_artifact,
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.events import emit_event
from prefect.logging import get_logger

from consensus_flows.tasks.batches.summary import BatchSummary, Progress
from consensus_flows.tasks.record import bill
from consensus_flows.tasks.reports.markdown import cell, prose, quoted
from consensus_flows.tasks.reports.pictures import histogram

PAUSE_S = 2.0
"""Seconds between two looks at the bar."""


class BatchReport:
    """Writes artifacts and an event, without making the rows wait for them."""

    def __init__(self) -> None:
        self._progress = Progress()
        self._bar: asyncio.Task[UUID] | None = None
        self._moving: asyncio.Task[None] | None = None
        self._moved = 0.0

    async def on_event(self, event: str, value: Any) -> None:
        """Take note of an event of the batch; those of its rows' runs are none of ours."""
        if event == "batch_started":
            self._progress = value
            share, description = self._share(value.finished), f"Rows of {value.wanted}"
            self._bar = asyncio.ensure_future(acreate_progress_artifact(share, "batch-progress", description))
        elif event in {"row", "shard"}:
            now = time.monotonic()
            if now - self._moved > PAUSE_S and (self._moving is None or self._moving.done()):
                self._moved, self._moving = now, asyncio.ensure_future(self._move(self._progress.finished))
        elif event == "batch_ended":
            _emit(value)
            if self._moving is not None:
                await self._moving  # or it could put the bar back after its end
            await asyncio.gather(*(_quietly(one) for one in self._end(value)))

    def _share(self, rows: int) -> float:
        return round(100 * min(1.0, rows / max(1, self._progress.wanted)), 1)

    async def _move(self, rows: int) -> None:
        if self._bar is not None:
            await _quietly(self._update(self._bar, rows))

    async def _update(self, bar: "asyncio.Task[UUID]", rows: int) -> None:
        await aupdate_progress_artifact(await bar, self._share(rows), f"{rows} of {self._progress.wanted} rows")

    def _end(self, summary: BatchSummary) -> list[Any]:
        return [
            self._move(summary.done + summary.failed),
            acreate_markdown_artifact(summary_markdown(summary), "batch-summary", "What the batch came to"),
            acreate_table_artifact(models_table(summary), "batch-models", "Calls, latency and cost of each model"),
            acreate_image_artifact(
                "data:image/svg+xml;base64," + b64encode(histogram(summary.agreement).encode()).decode(),
                "batch-agreement",
                "How many rows have which agreement",
            ),
        ]


async def _quietly(work: Any) -> None:
    """A batch that is paid for does not end because its artifacts cannot be written."""
    try:
        await work
    except Exception as error:
        get_logger("consensus").warning("An artifact could not be written: %r", error)


def _emit(summary: BatchSummary) -> None:
    run_id = summary.flow_run_id
    emit_event(
        "consensus.batch.ended",
        resource={
            "prefect.resource.id": f"consensus.run.{run_id or 'local'}",
            "prefect.resource.name": "batch",
        },
        related=[{"prefect.resource.id": f"prefect.flow-run.{run_id}", "prefect.resource.role": "flow-run"}]
        if run_id
        else [],
        payload=summary.model_dump(
            mode="json",
            include={
                "status",
                "rows",
                "done",
                "failed",
                "degraded",
                "not_started",
                "calls",
                "cost_usd",
                "possibly_billed",
            },
        ),
    )


def seconds(value: float | None) -> str:
    """Return a latency for a person."""
    return "-" if value is None else f"{value:.2f}"


def summary_markdown(summary: BatchSummary) -> str:
    """Describe a batch for a person."""
    facts = {
        "Rows": summary.rows,
        "With an answer": f"{summary.done}, {summary.degraded} of them degraded",
        "Failed": summary.failed,
        "Not started": summary.not_started,
        "Bad rows of the input": summary.bad,
        "Finished by an earlier run": summary.resumed,
        "Calls": f"{summary.calls}, {summary.cached_calls} of them from the store",
        "Cost": bill(summary.cost_usd, summary.possibly_billed).removeprefix("cost "),
        "Duration": f"{summary.duration_s:.1f} s, {summary.calls_per_s:g} calls a second",
    }
    parts = [
        f"# {summary.algorithm} over `{cell(summary.input)}`",
        f"| Status | {summary.status} |\n|---|---|\n"
        + "\n".join(f"| {name} | {value} |" for name, value in facts.items()),
        f"The answers are in `{cell(summary.output)}`.",
    ]
    if table := models_table(summary):
        lines = [list(table[0]), ["---"] * len(table[0]), *(row.values() for row in table)]
        parts.append("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines))
    if summary.error:
        parts += ["## Why it ended early", prose(summary.error)]
    if summary.failures:
        parts += ["## Rows without an answer", quoted("\n".join(summary.failures) + _more(summary))]
    if summary.bad_rows:
        parts += ["## Bad rows", quoted("\n".join(summary.bad_rows))]
    return "\n\n".join(parts)


def _more(summary: BatchSummary) -> str:
    more = summary.failed - len(summary.failures)
    return f"\n... and {more} more" if more else ""


def models_table(summary: BatchSummary) -> list[dict[str, Any]]:
    """List what each model did, one row each."""
    return [
        {
            "model": cell(model.model),
            "calls sent": model.calls,
            "failed": model.failed,
            "p50 s": seconds(model.p50_s),
            "p95 s": seconds(model.p95_s),
            "cost USD": "unknown" if model.cost_usd is None else round(model.cost_usd, 6),
            "possibly billed": model.possibly_billed,
            "errors": ", ".join(f"{count} {kind}" for kind, count in model.errors.items()),
        }
        for model in summary.models
    ]
