"""A batch: one algorithm over every row of a file, as a flow; split over several runs of itself if that is wanted."""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import replace
from datetime import date
from functools import partial
from os import PathLike, fspath
from pathlib import PurePosixPath
from typing import Annotated, Any

from prefect import Flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from consensus_flows.blocks.panel import RunConfig
from consensus_flows.blocks.settings import Budget
from consensus_flows.flows.algorithms import MAIN, FlowName, algorithm_of
from consensus_flows.flows.batch_shards import alive, done_before, inspected, leave_summary, run_next_parts, run_shards
from consensus_flows.flows.batching import Batch, checked, run_batch
from consensus_flows.flows.run import Attachments
from consensus_flows.flows.saved_algorithm import settings_of, with_panels
from consensus_flows.tasks.addresses import confined, input_address, whole
from consensus_flows.tasks.attachments import attach
from consensus_flows.tasks.batches.addresses import dated, day_of_run, next_time
from consensus_flows.tasks.batches.frames import kept_rows, unnamed_output
from consensus_flows.tasks.batches.output import check_output
from consensus_flows.tasks.batches.rows import Inventory
from consensus_flows.tasks.batches.source import Selection, Source
from consensus_flows.tasks.batches.summary import BatchSummary
from consensus_flows.tasks.batches.unfinished import unfinished
from consensus_flows.tasks.calls.task_runs import TaskRuns
from consensus_flows.tasks.errors import ConfigurationError, QuorumError
from consensus_flows.tasks.recording import record_runs
from consensus_flows.tasks.reports.batch_report import BatchReport, of_batch
from consensus_flows.tasks.reports.verdict import Verdict, concluded
from consensus_flows.tasks.watch import emit


def run_name() -> str:
    """Name a flow run after the saved configuration or the algorithm, and its input."""
    given = flow_run.parameters
    part = f", part {given['shard']} of {given.get('shards')}" if given.get("shard") else ""
    what = given["config"] if isinstance(given.get("config"), str) and given["config"] else given.get("flow") or MAIN
    return f"{what} · {PurePosixPath(str(given.get('input') or '')).name}{part}"


class BatchFlow(Flow[..., Coroutine[Any, Any, BatchSummary]]):
    """The flow of a batch, which can be called with rows in place of a file."""

    def __call__(  # type: ignore[override]
        self, input: object, output: str | PathLike[str] | None = None, **parameters: Any
    ) -> Coroutine[Any, Any, BatchSummary]:
        """Run a batch.

        Args:
            input: A path or an address; or the rows: a data frame of pandas, Polars or Arrow, or a list of objects or texts.
            output: File of answers; without one `to_frame()` of the result has them.
            parameters: Further parameters of the flow; `config` may be a configuration too, such as `VoteConfig(...)`.

        Returns:
            What awaits the `BatchSummary`.

        Raises:
            ConfigurationError: If `flow` is another algorithm than that of the configuration.
        """
        if isinstance(config := parameters.get("config"), RunConfig):
            name = algorithm_of(config).name
            if parameters.get("flow") not in {None, name}:
                raise ConfigurationError(f"config: these are settings of {name}, not of {parameters['flow']}")
            parameters |= {"flow": name, "config": config.model_dump(mode="json", exclude_defaults=True)}
        source = fspath(input) if isinstance(input, str | PathLike) else kept_rows(input)
        answers = unnamed_output(source, parameters) if output is None else fspath(output)
        running: Coroutine[Any, Any, BatchSummary] = super().__call__(source, answers, **parameters)
        return running


def _verdict(summary: BatchSummary) -> Verdict:
    """Judge a batch, and name its files: notifications have no other way to tell those of a `{date}`."""
    verdict = of_batch(summary)
    return verdict._replace(message=f"{verdict.message} · {_files(summary)}")


def _files(summary: BatchSummary) -> str:
    if not summary.to_review:
        return summary.output
    where = f" in {summary.review_file}" if summary.review_file else ""
    return f"{summary.output} · {summary.to_review} to review{where}"


@partial(
    BatchFlow,
    name="batch",
    flow_run_name=run_name,
    persist_result=True,
    result_serializer="json",
    validate_parameters=True,
)
@concluded(_verdict)
async def batch(
    input: str,
    output: str,
    *,
    config: dict[str, Any] | str | None = None,
    flow: FlowName | None = None,
    prompt_column: str | None = None,
    prompt_template: str | None = None,
    id_column: str | None = None,
    attach_column: str | None = None,
    attachments: Attachments = None,
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 8,
    skip_bad: bool = False,
    records: str | None = None,
    reference_column: str | None = None,
    wide: bool = False,
    abstain_below: Annotated[float, Field(gt=0, le=1)] | None = None,
    review: str | None = None,
    review_below: Annotated[float, Field(gt=0, le=1)] | None = None,
    limit: Annotated[int, Field(ge=1)] | None = None,
    sample: Annotated[int, Field(ge=1)] | None = None,
    sample_seed: int = 0,
    budget: Budget | None = None,
    shards: Annotated[int, Field(ge=1, le=1000)] = 1,
    shard: Annotated[int, Field(ge=1)] | None = None,
    probe: bool = True,
    strict: bool = False,
    overwrite: bool = False,
    vendor_batch: bool = False,
    by: Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")] | None = None,
    within: Annotated[float, Field(gt=0)] | None = None,
    wait: bool = True,
    task_runs: TaskRuns = "all",
    timezone: str | None = None,
) -> BatchSummary:
    """Run an algorithm on every row of a file. Killed half-way, it is simply run again, and continues where it was.

    Args:
        input: File of prompts (.csv, .tsv, .jsonl, .json, .parquet, .txt) or folder of .md and .txt files, on the machine
            where the run is, or an fsspec address such as s3://bucket/prompts.csv.
        output: File of answers (.jsonl, .csv, .parquet), likewise; {date} in it stands for the day of the run.
        config: The name of a saved configuration, or settings. Empty: the one called default.
        flow: The algorithm; empty: that of the saved configuration.
        prompt_column: The column that is the prompt; empty: prompt, question, or the only one.
        prompt_template: The prompt as a text with {column} in it, instead of a column.
        id_column: The column that tells rows apart; empty: id where there is one, else the row number.
        attach_column: The column of images, PDFs and text files that the prompt is about: a path or URL, a JSON list of
            them, or one a line. Paths begin at the folder of the input.
        attachments: Files that every prompt is about: paths or URLs.
        concurrency: Rows that are worked on at once.
        skip_bad: Skip rows that cannot be used.
        records: Folder for the whole record of each row, a JSON file named after the row's id; or an fsspec address.
        reference_column: The column of recorded answers, a list or an object by member, that stand in for the first layer
            of a mixture of agents.
        wide: Write a column for each member in place of the nested answers.
        abstain_below: Give no answer where a smaller share of the members agrees, 0 to 1.
        review: File (.csv, .jsonl) of the rows that a person should look at, with a page of the same name beside it; or the
            page alone (.html).
        review_below: Mark answers of a lower probability as unsure, to be reviewed, 0 to 1; for calibrated panels.
        limit: Run only the first rows, at most this many.
        sample: Run only this many rows, drawn at random.
        sample_seed: Draws other rows.
        budget: What the whole batch may spend.
        shards: Split the rows over so many deployment runs of this flow.
        shard: Which of these runs this is, from 1; empty for the run that starts them.
        probe: Look for models that cannot answer before the first row: misspelled names, dead keys, addresses that cannot be
            reached.
        strict: Fail the batch when a model never answers, or is disabled because it keeps failing.
        overwrite: Replace an output that holds nothing of this input.
        vendor_batch: Send the calls through the vendors' batch APIs, at half the price.
        by: Time of day, for example 06:00, until when the vendors' batches are waited for; what has not come by then is asked
            for at once.
        within: The same as a number of seconds from now.
        wait: Wait for the vendors' batches; without it the run submits what can be submitted, and a later one goes on.
        task_runs: Which calls are task runs in Prefect: all, those that failed, or none. The history has every call.
        timezone: Time zone of the time in `by` and of the day in `{date}`, for example Europe/Berlin; empty: that of the machine where the run is.
    """
    name, settings = await settings_of(flow, config, MAIN)
    settings = await with_panels(settings)
    if shard is not None and shard > shards:
        raise ConfigurationError(f"shard is {shard}, but there are only {shards} shards")
    if reference_column is not None and name != "mixture-of-agents":
        raise ConfigurationError(
            f"reference_column: {name} has no layer that recorded answers could stand in for; mixture-of-agents has"
        )
    if vendor_batch and shards > 1:
        raise ConfigurationError(
            "shards: calls for the vendors' batch APIs are collected in one place; use shards or vendor_batch"
        )
    if not vendor_batch and not (by is None and within is None and wait):
        raise ConfigurationError("by, within and wait are about the vendors' batch APIs: use them with vendor_batch")
    if by is not None and within is not None:
        raise ConfigurationError("by: give the time of day or, with within, the seconds from now")
    ends_at = next_time(by, timezone) if by is not None else None if within is None else time.time() + within
    address, today = whole(confined(output, "output"), "output"), day_of_run(timezone)
    work = Batch(
        source=Source(
            input_address(input),
            prompt_column=prompt_column,
            prompt_template=prompt_template,
            id_column=id_column,
            attach_column=attach_column,
            selection=Selection(limit, sample, sample_seed),
        ),
        output=confined(dated(address, today), "output"),
        algorithm=name,
        config=settings,
        concurrency=concurrency,
        skip_bad=skip_bad,
        budget=budget or Budget(),
        prompts=(prompt_column, prompt_template, id_column),
        records=None if records is None else confined(records, "records"),
        reference_column=reference_column,
        attachments=await asyncio.to_thread(attach, attachments or []),
        attached_from=tuple(attachments or ()),
        wide=wide,
        abstain_below=abstain_below,
        review=None if review is None else whole(confined(dated(review, today), "review"), "review"),
        review_below=review_below,
        part=(0 if shard is None else shard - 1, shards if shard is not None else 1),
        probe=probe,
        strict=strict,
        overwrite=overwrite,
        vendor_batch=vendor_batch,
        ends_at=ends_at,
        wait=wait,
        task_runs=task_runs,
    )
    async with record_runs(BatchReport(), in_conversation=False, many=True), alive(work.output if shard else None):
        inventory = inspected.get() or await checked(work)
        if shard is not None:
            summary = done_before(work.output, inventory) or await run_batch(
                work, leave=partial(leave_summary, work.output), inventory=inventory
            )
        elif shards > 1:
            summary = await run_shards(work, shards, inventory, address, today)
        else:
            summary = await run_batch(await _or_unfinished(work, address, today, inventory), inventory=inventory)
    if shard is not None and inspected.get() is None:
        await run_next_parts(batch, work.output, inventory)
    return _or_failure(summary)


async def _or_unfinished(work: Batch, address: str, today: date, inventory: Inventory) -> Batch:
    """Return the batch, or that of the day before if this run continues it; name those that nobody continues."""
    for one in await asyncio.to_thread(lambda: list(unfinished(address, work.plan(), today))):
        # Its output would become that of another input.
        found = one._replace(resumes=one.resumes and one.rows == inventory.sha256)
        get_run_logger().warning("%s", found.describe(work.output))
        await emit("notice", found.describe(work.output))
        if found.resumes:
            check_output(found.output)
            return replace(work, output=found.output)
    return work


def _or_failure(summary: BatchSummary) -> BatchSummary:
    """Return what the flow returns, or fail it when nothing came of it."""
    if summary.status == "stopped" or (summary.failed and not summary.done):
        first = f"; the first one, {summary.failures[0]}" if summary.failures else ""
        error = QuorumError(
            f"{summary.error or f'none of {summary.rows} rows has an answer{first}'} · {_files(summary)}"
        )
        error.record = summary  # type: ignore[attr-defined]
        raise error
    return summary
