"""The run before of the same batch, to compare with."""

import asyncio
from typing import NamedTuple
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.sorting import FlowRunSort
from prefect.logging import get_logger
from prefect.runtime import flow_run

from consensus_flows.tasks.batches.summary import BatchSummary

LOOKED_AT = 50
"""Runs among which it is looked for, the newest first."""
WAIT_S = 10.0
_SAME = ("input", "output", "flow", "shard")
"""Parameters that two runs of one batch share."""


class Before(NamedTuple):
    """A run of the same batch that has ended earlier."""

    flow_run_id: UUID
    summary: BatchSummary


async def run_before() -> Before | None:
    """Find the last run with the same input, output and algorithm; None where there is none, or none can be read."""
    try:
        async with asyncio.timeout(WAIT_S):
            return await _find()
    except Exception as error:
        get_logger("consensus").warning("The run before could not be read: %r", error)
        return None


async def _find() -> Before | None:
    if flow_run.id is None:
        return None
    own = {name: flow_run.parameters.get(name) for name in _SAME}
    async with get_client() as client:
        runs = await client.read_flow_runs(
            flow_filter=FlowFilter.model_validate({"name": {"any_": ["batch"]}}),
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": ["COMPLETED"]}}}),
            sort=FlowRunSort.END_TIME_DESC,
            limit=LOOKED_AT,
        )
    for run in runs:
        if run.state is not None and {name: run.parameters.get(name) for name in _SAME} == own:
            summary = await run.state.aresult(raise_on_failure=False)
            if isinstance(summary, BatchSummary):
                return Before(run.id, summary)
    return None
