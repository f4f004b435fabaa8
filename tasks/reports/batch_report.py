"""What a batch shows in the Prefect UI: a bar while it goes on, and in the end a summary, a table of models and the distribution of agreement."""

import asyncio
import time
from collections.abc import Mapping, Sequence
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

from consensus_flows.tasks.batches.review import WORDS
from consensus_flows.tasks.batches.summary import BINS, BatchSummary, Progress, fewer_unanimous, how_sure
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.record import bill_of
from consensus_flows.tasks.reports.batch_before import Before, run_before
from consensus_flows.tasks.reports.markdown import cell, percent, prose, quoted
from consensus_flows.tasks.reports.verdict import Outcome, Verdict, listed

BAR = 30
"""Characters of the longest bar."""
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
            before = await run_before()
            if self._moving is not None:
                await self._moving  # or it could put the bar back after its end
            await asyncio.gather(*(_quietly(one) for one in self._end(value, before)))

    def _share(self, rows: int) -> float:
        return round(100 * min(1.0, rows / max(1, self._progress.wanted)), 1)

    async def _move(self, rows: int) -> None:
        if self._bar is not None:
            await _quietly(self._update(self._bar, rows))

    async def _update(self, bar: "asyncio.Task[UUID]", rows: int) -> None:
        await aupdate_progress_artifact(await bar, self._share(rows), f"{rows} of {self._progress.wanted} rows")

    def _end(self, summary: BatchSummary, before: Before | None) -> list[Any]:
        return [
            self._move(summary.done + summary.failed),
            acreate_markdown_artifact(summary_markdown(summary, before), "batch-summary", of_batch(summary).message),
            acreate_table_artifact(models_table(summary), "batch-models", "Calls, latency and cost by model"),
            acreate_markdown_artifact(histogram(summary), "batch-agreement", "Agreement distribution"),
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
        payload={"verdict": of_batch(summary).name, "message": of_batch(summary).message}
        | summary.model_dump(
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


def summary_markdown(summary: BatchSummary, before: Before | None = None) -> str:
    """Describe a batch for a person: the verdict, what changed, what to look at, then the figures."""
    verdict = of_batch(summary)
    parts = [
        f"# {summary.algorithm} over `{cell(summary.input)}`",
        f"**{verdict.name}** · {verdict.message}",
        f"The answers are in `{cell(summary.output)}`{_review_file(summary)}.",
    ]
    if summary.error:
        parts += ["## Why it ended early", prose(summary.error)]
    if summary.review:
        shown = f", {len(summary.review)} of them here" if summary.to_review > len(summary.review) else ""
        parts += [
            f"## Rows to look at\n\n{summary.to_review} of {summary.rows} rows{shown}; `consensus run RUN` shows one:",
            _table(review_table(summary)),
        ]
    parts += [prose(text) for text in (fewer_unanimous(summary), how_sure(summary)) if text]
    parts += ["## Figures", _table(_figures(summary, before))]
    if summary.members:
        parts += ["## Members", _table(members_table(summary))]
    if summary.models:
        parts += ["## Models", _table(models_table(summary))]
    parts += ["## Agreement", histogram(summary)]
    if summary.failures:
        parts += ["## Rows without an answer", quoted("\n".join(summary.failures) + _more(summary))]
    if summary.bad_rows:
        parts += ["## Bad rows", quoted("\n".join(summary.bad_rows))]
    return "\n\n".join(parts)


def _review_file(summary: BatchSummary) -> str:
    return f", the rows to look at in `{cell(summary.review_file)}`" if summary.review_file else ""


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _figures(summary: BatchSummary, before: Before | None) -> list[dict[str, Any]]:
    """List what the batch came to, beside the run before."""
    found = _facts(summary)
    if before is None:
        return [{"": name, "this run": value} for name, value in found.items()]
    earlier = _facts(before.summary)
    head = f"[the run before](/runs/flow-run/{before.flow_run_id})"
    return [{"": name, "this run": value, head: earlier[name]} for name, value in found.items()]


def _facts(summary: BatchSummary) -> dict[str, Any]:
    spared = f"; {summary.calls_not_made} not needed" if summary.calls_not_made else ""
    return {
        "Status": summary.status,
        "Rows": summary.rows,
        "With an answer": f"{summary.done}, {summary.degraded} of them degraded",
        "Failed": summary.failed,
        "Tied": summary.ties,
        "Abstained": summary.abstained,
        "Unsure": summary.unsure,
        "To review": summary.to_review,
        "Not started": summary.not_started,
        "Bad rows of the input": summary.bad,
        "Finished by an earlier run": summary.resumed,
        "Calls": f"{summary.calls}, {summary.cached_calls} of them from the cache{spared}",
        "Cost": bill_of(summary).removeprefix("cost "),
        "Duration": f"{summary.duration_s:.1f} s, {summary.calls_per_s:g} calls a second",
        "Models that never answered": ", ".join(map(cell, summary.never_answered)) or "none",
    }


def review_table(summary: BatchSummary) -> list[dict[str, Any]]:
    """List rows that a person should look at, and why."""
    return [
        {
            "row": cell(row.id),
            "answer": "-" if row.answer is None else cell(row.answer)[:80],
            "why": ", ".join(WORDS[reason] for reason in row.reasons),
            "run": f"`{cell(row.run_id)}`" if row.run_id else "-",
        }
        for row in summary.review
    ]


def members_table(summary: BatchSummary) -> list[dict[str, Any]]:
    """List how each member did over the rows, stored answers included."""
    return [
        {
            "member": cell(name),
            "answered": f"{member.answered} of {member.rows}",
            "wins": f"{member.wins} of {member.read}" if member.read else "-",
            "agrees with the panel": percent(member.wins / member.read) if member.read else "-",
        }
        for name, member in summary.members.items()
    ]


def histogram(summary: BatchSummary) -> str:
    """Draw how many rows have which agreement, those without all members apart; text, so that it is seen in light and in dark."""
    most = max(1, *summary.agreement)
    rows = []
    for place, count in enumerate(summary.agreement):
        degraded = summary.agreement_degraded[place]
        bar = "█" * round((count - degraded) / most * BAR) + "░" * round(degraded / most * BAR)
        share = f"{place * 100 // BINS} to {(place + 1) * 100 // BINS} %"
        rows.append({"agreement": share, "rows": count, "without a member": degraded, "": bar or "·"})
    return _table(rows[::-1])


def _more(summary: BatchSummary) -> str:
    more = summary.failed - len(summary.failures)
    return f"\n... and {more} more" if more else ""


def models_table(summary: BatchSummary) -> list[dict[str, Any]]:
    """List what each model did, one row each."""
    return [
        {
            "model": cell(model.model),
            "calls sent": model.calls,
            "from the cache": model.stored,
            "failed": model.failed,
            "p50 s": seconds(model.p50_s),
            "p95 s": seconds(model.p95_s),
            "cost USD": "unknown" if model.cost_usd is None else round(model.cost_usd, 6),
            "possibly billed": model.possibly_billed,
            "errors": ", ".join(f"{count} {kind}" for kind, count in model.errors.items()),
        }
        for model in summary.models
    ]


def of_batch(summary: BatchSummary) -> Verdict:
    """Judge a batch."""
    started = summary.rows - summary.not_started
    words = {
        "failed": summary.failed,
        "degraded": summary.degraded,
        "tied": summary.ties,
        "abstained": summary.abstained,
        "unsure": summary.unsure,
    }
    counts = [f"{count} {word}" for word, count in words.items() if count]
    name: Outcome = "Completed"
    if summary.status == "stopped" or (summary.failed and not summary.done):
        name = "Failed"
    elif summary.status == "budget":
        name, counts = "BudgetEnded", ["budget ended", *counts]
    elif summary.status == "waiting":
        name, counts = "Waiting", [summary.error or "", *counts]
    elif summary.failed or summary.degraded:
        name = "Degraded"
    elif summary.ties:
        name = "Tie"
    elif summary.unsure or summary.abstained:
        name = "LowConfidence"
    rows = plural(summary.rows, "row") if not summary.not_started else f"{started} of {summary.rows} rows"
    lead = ", ".join([rows, *counts]) if counts else f"{rows} answered"
    causes = [cell(summary.error)] if summary.status == "stopped" and summary.error else []
    causes += [listed(_sick_models(summary))] if counts and _sick_models(summary) else []
    if name == "Failed" and not causes and summary.failures:
        causes = [cell(summary.failures[0])]
    because = f": {'; '.join(causes)}" if causes else ""
    paid = "from the cache" if not summary.sent_calls else bill_of(summary)
    return Verdict(name, f"{lead}{because} · {paid}")


def _sick_models(summary: BatchSummary) -> list[str]:
    """Name the models that failed, those that never answered first."""
    failed = sorted((one for one in summary.models if one.failed), key=lambda one: -one.failed / one.calls)
    return [
        f"{cell(one.model)} never answered"
        if one.never_answered
        else f"{cell(one.model)} failed {one.failed} of {one.calls + one.stored} calls"
        for one in failed
    ]
