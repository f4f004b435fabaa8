"""What a mixture of agents shows in the Prefect UI: every layer with its answers, or how many of the queries are done."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.logging import get_logger
from prefect.runtime import flow_run

from consensus_flows.tasks.record import Record
from consensus_flows.tasks.reports.report import (
    cell,
    percent,
)


def queries_run_name() -> str:
    """Name a flow run after its question, or the first of them."""
    prompt = flow_run.parameters.get("prompt") or ""
    prompts = prompt if isinstance(prompt, list) else [prompt]
    more = f" (and {len(prompts) - 1} more)" if len(prompts) > 1 else ""
    words = " ".join(str(prompts[0]).split()) if prompts else ""
    return (words if len(words) <= 60 else words[:59] + "…") + more


class QueriesReport:
    """Shows of a list of queries how many are done, and at the end what came of each."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._ended = 0
        self._progress: UUID | None = None
        self._turn = asyncio.Lock()

    async def told(self, event: str, value: Any) -> None:  # noqa: ARG002  # a watcher's form
        """Take note of an event of one of the runs."""
        if event != "ended":
            return
        self._ended += 1
        async with self._turn:  # one after the other, so that it never goes back
            done = round(100 * self._ended / self._total, 1)
            if self._progress is None:
                self._progress = await acreate_progress_artifact(
                    done, "mixture-of-agents-queries-progress", f"Of {self._total} queries"
                )
            else:
                await aupdate_progress_artifact(self._progress, done)

    async def show(self, records: Sequence[Record]) -> None:
        """Write what came of each query, in their order."""
        try:
            await acreate_table_artifact(
                [query_row(record) for record in records], "mixture-of-agents-queries", "What came of each query"
            )
        except Exception as error:  # a run that is paid for does not end because its table cannot be shown
            get_logger("consensus").warning("An artifact could not be written: %r", error)


def query_row(record: Record) -> dict[str, Any]:
    """Describe the run of one query in a row."""
    return {
        "query": cell(record.prompt),
        "status": record.status + (", degraded" if record.degraded else ""),
        "answer": cell(record.answer or ""),
        "agreement": percent(record.agreement),
        "calls": record.calls,
        "cost USD": "unknown" if record.cost_usd is None else round(record.cost_usd, 6),
        "error": cell(record.error or ""),
    }
