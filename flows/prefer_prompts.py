"""Prefer over many prompts: one flow run, a record of each prompt in a folder, and a progress artifact.

Stopped half-way it is simply run again: what was answered is taken from the store, and nothing is paid for twice.
"""

import asyncio
from pathlib import Path
from uuid import UUID

from prefect import flow
from prefect.artifacts import acreate_progress_artifact, acreate_table_artifact, aupdate_progress_artifact
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import BaseModel, Field

from consensus_flows.blocks.prefer import Prefer, PreferConfig
from consensus_flows.flows.prefer import run_prefer
from consensus_flows.tasks.calls.budget import spending
from consensus_flows.tasks.calls.providers import check_models
from consensus_flows.tasks.calls.redact import redact
from consensus_flows.tasks.confinement import place
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.record import Record
from consensus_flows.tasks.recording import record_runs
from consensus_flows.tasks.reports.preference_report import number_text
from consensus_flows.tasks.reports.record_files import read_prompts, record_folder, write_record
from consensus_flows.tasks.reports.report import cell
from consensus_flows.tasks.saved_config import ConfigOrName, resolve_config
from consensus_flows.tasks.watch import tell


class PromptOutcome(BaseModel):
    """What came of one prompt."""

    prompt: str
    """Name of the prompt's file, without its ending."""
    file: str
    """The file that holds the record."""
    status: str
    winner: str | None = None
    condorcet_winner: str | None = None
    kendall_w: float | None = None
    degraded: bool = False
    cost_usd: float | None = None
    calls: int = 0
    cached_calls: int = 0
    error: str | None = None


class Outcomes(BaseModel):
    """What came of all prompts, in the order of their names."""

    flow_run_id: str | None = None
    outcomes: list[PromptOutcome] = Field(default_factory=list)


def run_name() -> str:
    """Name a flow run after its folder."""
    return f"prompts of {Path(str(flow_run.parameters.get('prompts') or '')).name or '.'}"


@flow(
    name="prefer-prompts",
    flow_run_name=run_name,
    persist_result=True,
    result_serializer="json",
    validate_parameters=True,
)
async def prefer_prompts(
    prompts: str,
    output: str,
    config: ConfigOrName[PreferConfig] = None,
    at_once: int = 4,
) -> Outcomes:
    """Run prefer on every prompt of a folder.

    Args:
        prompts: Folder whose *.md and *.txt files are the prompts, on the machine where the run is.
        output: Folder into which the record of each prompt is written, as JSON.
        config: Who takes part, and how often; its budget is that of the whole run. Or the name of a saved configuration
            (a Prefer block). Empty: the one called default.
        at_once: How many prompts are worked on at once.
    """
    config = await resolve_config(Prefer, config)
    if at_once < 1:
        raise ConfigurationError(f"at_once is {at_once}: it must be at least 1")
    texts = read_prompts(place(prompts, "prompts"))
    folder = record_folder(place(output, "output"))
    await check_models(config.models(), config.embedding())
    progress = await _Progress.start(len(texts))
    gate = asyncio.Semaphore(at_once)

    async def one(name: str, text: str) -> PromptOutcome:
        async with gate:
            record = await _record(text, config)
        path = write_record(folder, name, record)
        await progress.step()
        get_run_logger().info("%s: %s", name, record.status)
        return _outcome(name, path, record)

    async with record_runs(in_conversation=False):
        with spending(config.budget):
            outcomes = await asyncio.gather(*(one(name, text) for name, text in texts.items()))
    found = Outcomes(flow_run_id=flow_run.id, outcomes=outcomes)
    await tell("done", found)
    await acreate_table_artifact(
        [
            {
                "prompt": cell(one.prompt),
                "status": one.status,
                "best by Borda": cell(one.winner or "-"),
                "Condorcet": cell(one.condorcet_winner or "-"),
                "Kendall's W": number_text(one.kendall_w),
                "error": cell(one.error or ""),
            }
            for one in outcomes
        ],
        "prefer-prompts",
        "What came of each prompt",
    )
    return found


async def _record(prompt: str, config: PreferConfig) -> Record:
    """Run one prompt; whatever ends it is written into its record, and the other prompts go on."""
    try:
        return await run_prefer(prompt, config)
    except Exception as error:
        return Record(
            flow="prefer",
            flow_run_id=flow_run.id,
            prompt=prompt,
            status="failed",
            error=redact(f"{type(error).__name__}: {error}"),
            seed=config.order_seed,
        )


def _outcome(name: str, path: Path, record: Record) -> PromptOutcome:
    scores = record.scores
    return PromptOutcome(
        prompt=name,
        file=str(path),
        status=record.status,
        winner=scores.winner if scores else None,
        condorcet_winner=scores.condorcet_winner if scores else None,
        kendall_w=scores.kendall_w if scores else None,
        degraded=record.degraded,
        cost_usd=record.cost_usd,
        calls=record.calls,
        cached_calls=record.cached_calls,
        error=record.error,
    )


class _Progress:
    """The share of prompts that are done, in one artifact that is brought up to date."""

    def __init__(self, artifact: UUID, total: int) -> None:
        self._artifact = artifact
        self._total = total
        self._done = 0

    @classmethod
    async def start(cls, total: int) -> "_Progress":
        return cls(await acreate_progress_artifact(0.0, "prefer-prompts-progress", f"Of {total} prompts"), total)

    async def step(self) -> None:
        self._done += 1
        try:
            await aupdate_progress_artifact(self._artifact, round(100 * self._done / self._total, 1))
        except Exception as error:  # a run that is paid for does not end because its progress cannot be shown
            get_run_logger().warning("The progress could not be shown: %r", error)
