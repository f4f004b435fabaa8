"""A batch: one algorithm over every row of a file, as a flow; split over several runs of itself if that is wanted."""

from pathlib import PurePosixPath
from typing import Annotated, Any

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from blocks.budget import Budget
from flows.algorithms import ALGORITHMS, Name
from flows.batch_shards import alive, leave_summary, run_shards
from flows.batching import Batch, run_batch
from flows.saved_algorithm import load_saved
from tasks.batches.journal_place import dated
from tasks.batches.outcome import BatchSummary
from tasks.batches.source import Source
from tasks.errors import ConfigurationError, QuorumError
from tasks.places import confined
from tasks.recording import recorded
from tasks.reports.batch_report import BatchReport
from tasks.saved_config import validated


def run_name() -> str:
    """Name a flow run after its input."""
    given = flow_run.parameters
    part = f", part {given['shard']} of {given.get('shards')}" if given.get("shard") else ""
    return f"{PurePosixPath(str(given.get('input') or '')).name}{part}"


@flow(name="batch", flow_run_name=run_name, persist_result=True, result_serializer="json", validate_parameters=True)
async def batch(
    input: str,
    output: str,
    *,
    flow: Name | None = None,
    config: dict[str, Any] | None = None,
    saved: str = "default",
    prompt_column: str | None = None,
    prompt_template: str | None = None,
    id_column: str | None = None,
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 8,
    skip_bad: bool = False,
    budget: Budget | None = None,
    shards: Annotated[int, Field(ge=1, le=1000)] = 1,
    shard: Annotated[int, Field(ge=1)] | None = None,
) -> BatchSummary:
    """Run an algorithm on every row of a file. Killed half-way it is simply run again, and goes on where it was.

    Args:
        input: File of prompts (.csv, .tsv, .jsonl, .json, .parquet, .txt) or folder of .md and .txt files, on the machine
            where the run is, or an fsspec address such as s3://bucket/prompts.csv.
        output: File of answers (.jsonl, .csv, .parquet), likewise; {date} in it stands for the day of the run.
        flow: The algorithm; empty: that of the saved configuration.
        config: Its settings. Empty: the saved configuration.
        saved: Name of the saved configuration to use when no settings are given.
        prompt_column: The column that is the prompt; empty: prompt, question, or the only one.
        prompt_template: The prompt as a text with {column} in it, instead of a column.
        id_column: The column that tells rows apart; empty: id where there is one, else the line number.
        concurrency: Rows that are worked on at once.
        skip_bad: Go on without rows that cannot be used.
        budget: What the whole batch may spend.
        shards: Split the rows over so many deployment runs of this flow.
        shard: Which of these runs this is, from 1; empty for the run that starts them.
    """
    if config is not None and saved != "default":
        # A deployment that has a configuration would go on with it, without a word about the one that was named.
        raise ConfigurationError(
            f"saved: {saved!r} is named, and config is given too: give one of them, and null for config"
        )
    if config is None:
        name, settings = await load_saved(saved, flow)
    else:
        name = flow or "consortium"
        settings = validated(ALGORITHMS[name].config_class(), config)
    if shard is not None and shard > shards:
        raise ConfigurationError(f"shard is {shard}, but there are only {shards} shards")
    work = Batch(
        source=Source(
            confined(input, "input"), prompt_column=prompt_column, prompt_template=prompt_template, id_column=id_column
        ),
        output=dated(confined(output, "output")),
        algorithm=name,
        config=settings,
        concurrency=concurrency,
        skip_bad=skip_bad,
        budget=budget or Budget(),
        prompts=(prompt_column, prompt_template, id_column),
        part=(0 if shard is None else shard - 1, shards if shard is not None else 1),
    )
    async with recorded(BatchReport(), in_conversation=False), alive(work.output if shard else None):
        summary = await (run_shards(work, shards) if shards > 1 and shard is None else run_batch(work))
        if shard is not None:
            leave_summary(work.output, summary)
    return _told_of_end(summary)


def _told_of_end(summary: BatchSummary) -> BatchSummary:
    """Return what the flow returns, or fail it when nothing came of it."""
    if summary.status == "stopped" or (summary.failed and not summary.done):
        first = f"; the first one, {summary.failures[0]}" if summary.failures else ""
        error = QuorumError(summary.error or f"none of {summary.rows} rows has an answer{first}")
        error.record = summary  # type: ignore[attr-defined]
        raise error
    return summary
