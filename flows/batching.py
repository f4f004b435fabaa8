"""The rows of a batch: one algorithm over every row of a file, with a file of answers in the end.

Every call is a task run of the batch's flow run and is stored like any other. A finished row is entered in a journal
beside the output at once, so that a run that is killed is simply started again: it goes on with the rows that are
missing, and of those only calls that had not been answered are paid for.
"""

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeGuard

from prefect.runtime import flow_run

from consensus_flows.blocks.member import ModelName
from consensus_flows.blocks.panel import PanelConfig
from consensus_flows.blocks.settings import Budget
from consensus_flows.flows.algorithms import algorithm
from consensus_flows.flows.grading import run_enough
from consensus_flows.flows.run import attaching
from consensus_flows.tasks.addresses import whole
from consensus_flows.tasks.attachments import attached, check_size
from consensus_flows.tasks.batches.addresses import journal_path, same_place
from consensus_flows.tasks.batches.journal import Finished, Journal, peek
from consensus_flows.tasks.batches.output import (
    check_output,
    check_records,
    check_replaced,
    write_output,
    write_part,
    write_record,
)
from consensus_flows.tasks.batches.results import member_key, not_started, outcome
from consensus_flows.tasks.batches.review_file import Reviewer, check_review
from consensus_flows.tasks.batches.rows import BadRow, Files, Fingerprint, Inventory, Row, files_of, input_changed
from consensus_flows.tasks.batches.source import Source
from consensus_flows.tasks.batches.summary import BatchSummary, Progress, describe
from consensus_flows.tasks.calibration import differences, figures
from consensus_flows.tasks.calls.breaker import KINDS, Breaker, breaking
from consensus_flows.tasks.calls.budget import BudgetTracker, most_tokens, spending
from consensus_flows.tasks.calls.call import Call, Caller
from consensus_flows.tasks.calls.pricing import price_table, priced, uncovered, unpriced
from consensus_flows.tasks.calls.probe import probe
from consensus_flows.tasks.calls.providers import (
    Endpoint,
    check_attachments,
    check_models,
    conflicts,
    models_checked,
    prepare,
)
from consensus_flows.tasks.calls.redact import redact
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.calls.task_runs import TaskRuns, showing
from consensus_flows.tasks.calls.waves import Waves
from consensus_flows.tasks.errors import ConfigurationError, ConsensusError, OutputError
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.record import PDF, Attachment, Record, Response
from consensus_flows.tasks.reports.recorded import recorded_answers
from consensus_flows.tasks.watch import emit, watched_by

IN_A_ROW = 25
"""So many rows without an answer, one after the other, end a batch: a key that has run out fails all that follow too."""
SHOWN = 20
"""Bad rows that are named."""
ROWS_OF_WAVE = 20_000
"""Rows that are worked on at once where all of them wait for the vendors' batches."""
LABEL = 80
"""Characters of a row's id in the name of a task run."""


@dataclass(frozen=True)
class Batch:
    """What is to be done.

    Attributes:
        source: The rows.
        output: Where the answers go, a path or an fsspec address.
        algorithm: Name of the algorithm.
        config: Its configuration.
        concurrency: Rows that are worked on at once.
        skip_bad: Whether to skip rows that cannot be used.
        budget: What the whole batch may spend, in all its runs together; seconds are those of one run.
        part: Which rows: of every `part[1]` the one numbered `part[0]`, from 0.
        prompts: Column of the prompt, template and column of the id as they were given; a journal of other prompts is another batch's.
        records: Folder that gets the whole record of each row, a path or an fsspec address.
        reference_column: Column of recorded answers, which stand in for the first layer of a mixture of agents.
        attachments: Files that every row is about, beside its own.
        attached_from: Where they were read.
        wide: Whether each member has a column of the output, in place of `answers`.
        abstain_below: The least share with which an answer stands.
        review: File, or page alone, of the rows that a person should look at.
        review_below: The least probability with which an answer needs no look.
        function: What runs a row; None for the algorithm.
        probe: Whether to look for models that cannot answer before the first row.
        strict: Whether a model that does not answer ends the batch.
        overwrite: Whether an output of another input is replaced.
        vendor_batch: Whether calls go through the vendors' batch APIs.
        ends_at: Until when batches are waited for, in seconds since the epoch; then the rest is asked at once.
        wait: Whether to wait for the vendors' batches.
        task_runs: Which calls are task runs of Prefect.
    """

    source: Source
    output: str
    algorithm: str
    config: Any
    concurrency: int = 8
    skip_bad: bool = False
    budget: Budget = field(default_factory=Budget)
    part: tuple[int, int] = (0, 1)
    prompts: tuple[str | None, str | None, str | None] = (None, None, None)
    records: str | None = None
    reference_column: str | None = None
    attachments: tuple[Attachment, ...] = ()
    attached_from: tuple[str | Attachment, ...] = ()
    wide: bool = False
    abstain_below: float | None = None
    review: str | None = None
    review_below: float | None = None
    function: Callable[..., Awaitable[Record]] | None = None
    probe: bool = True
    strict: bool = False
    overwrite: bool = False
    vendor_batch: bool = False
    ends_at: float | None = None
    wait: bool = True
    task_runs: TaskRuns = "all"

    def members(self) -> list[str] | None:
        """Return the members that have columns of their own, by their names in the output."""
        if not self.wide:
            return None
        config = self.config
        return [
            member_key(str(one)) for one in (config.panel() if isinstance(config, PanelConfig) else config.members())
        ]

    def progress(self, wanted: int, resumed: int = 0) -> Progress:
        """Return the progress of this batch, which begins."""
        return Progress(
            flow_run_id=flow_run.id,
            input=self.source.whole_address,
            output=self.whole_output(),
            part=self.part[1] > 1,
            algorithm=self.algorithm,
            wanted=wanted,
            resumed=resumed,
        )

    def whole_output(self) -> str:
        """Return the output's address as it holds wherever one stands."""
        return whole(self.output, "output")

    def files(self, inventory: Inventory) -> Files:
        """Return the files of all rows together, those of every row among them."""
        return inventory.files.and_also(files_of(*self.attachments), times=inventory.rows)

    def reviewer(self) -> Reviewer:
        """Return what rows go through on their way to the output."""
        return Reviewer(self.whole_output(), self.review, self.abstain_below, self.review_below, self.source.prompt_of)

    def plan(self) -> dict[str, Any]:
        """What a finished row depends on; not how fast or at what price it was worked out."""
        ignored = {"budget", "prices", "timeout", "fresh", "service_tier"}
        return {
            "flow": self.algorithm,
            "configuration": self.config.model_dump(mode="json", exclude=ignored, exclude_defaults=True),
            "prompts": list(self.prompts),
            "part": list(self.part),
            "records": self.records,
            "reference": self.reference_column,
            "attach": self.source.attach_column,
            "attachments": [one.model_dump(mode="json") for one in self.attachments] or None,
        }


async def run_batch(
    batch: Batch,
    call: Call | None = None,
    leave: Callable[[BatchSummary, Inventory, tuple[int, int, float]], None] | None = None,
    inventory: Inventory | None = None,
) -> BatchSummary:
    """Run an algorithm on every row that is not finished yet.

    Args:
        batch: What is to be done.
        call: Makes the calls; by default the `ask` task.
        leave: Says for others how a part has ended, when its rows are written.
        inventory: What `checked` has returned, if it was called already.

    Returns:
        The summary of the batch. The rows are in the output.

    Raises:
        ConfigurationError: Before any call, naming what cannot be used: the input, rows of it, the output, a model.
        OutputError: If rows cannot be written; finished ones are kept.
    """
    inventory = inventory or await checked(batch)
    journal = Journal(journal_path(batch.output), batch.plan(), inventory.sha256)
    try:
        if journal.jobs and not batch.vendor_batch:
            raise ConfigurationError(_at_vendors(journal))
        run = _Run(batch, journal, inventory, call or Caller.of(batch.config))
        summary = await run.work()
        await asyncio.to_thread(run.write, summary)
        if leave is not None:
            await asyncio.to_thread(leave, summary, inventory, journal.totals.spent)
        await emit("batch_written", summary)
        if summary.status == "finished":
            # Whoever is killed before finds the rows and the bill in it, and ends what was left.
            journal.remove()
        # What comes now may wait for the Prefect server.
        await emit("batch_ended", summary)
    finally:
        journal.close()
    return summary


async def checked(batch: Batch) -> Inventory:
    """Read the whole input once, and check everything that can be checked before the first call.

    Raises:
        ConfigurationError: Naming what cannot be used.
    """
    if batch.config.attestation.attest:
        raise ConfigurationError("the rows of a batch are not attested: ask one question at a time", field="attest")
    if batch.records is not None:  # at first, because the output may be in the same folder
        check_records(batch.records)
    check_output(batch.output)
    if batch.review is not None:
        check_review(batch.review, batch.output)
    if batch.review_below is not None and not batch.config.gives_probability():
        raise ConfigurationError(
            "review_below: the answers of this panel have no probability: fit one on labeled rows with `consensus calibrate`, "
            "or use abstain_below for the share of the votes"
        )
    if same_place(batch.source.address, batch.output):
        raise ConfigurationError(f"output: {batch.output} is the input, which would be lost: name another file")
    found = await asyncio.to_thread(peek, journal_path(batch.output), batch.plan())
    inventory = await asyncio.to_thread(batch.source.inspect, found.holds if found is not None else None)
    if inventory.bad_rows and not batch.skip_bad:
        raise ConfigurationError(_bad(inventory))
    if not batch.skip_bad:
        check_files(inventory.files)
    if not (batch.overwrite or batch.part[1] > 1 or journal_path(batch.output).exists()):
        await asyncio.to_thread(check_replaced, batch.output, batch.source, inventory)
    endpoints = await check_models(batch.config.all_models(), batch.config.embedding())
    if batch.budget.max_cost_usd is not None:
        with priced(batch.config.price_table()):
            if names := await unpriced(endpoints):
                await emit("notice", uncovered(names))
    for text in (*conflicts(endpoints.values()), *differences(batch.config)):
        await emit("notice", text)
    await prepare(endpoints)
    await price_table()  # takes as long to import as some calls take, and is no part of the first row
    if batch.attachments or any(inventory.files[:2]):
        kinds = [*batch.attachments, *_examples(inventory.files)]
        readers = [*batch.config.readers(), *batch.config.grading.models()]
        await check_attachments({name: endpoints[name] for name in batch.config.reached(readers)}, kinds)
    if batch.probe:
        await check_answering(endpoints, batch.config.embedding())
    return inventory


def check_files(files: Files) -> None:
    """Refuse files that cannot be sent.

    Raises:
        ConfigurationError: Naming them with their rows.
    """
    if files.problems:
        shown = "\n".join(f"  {problem}" for problem in files.problems[:SHOWN])
        raise ConfigurationError(f"{len(files.problems)} files cannot be attached:\n{shown}", field="attach_column")


def _examples(files: Files) -> list[Attachment]:
    """Return a file of each kind that there is, to ask whether models take it."""
    kinds = [("an image", "image/png", files.images), ("a PDF", PDF, files.pages)]
    return [Attachment(name=name, type=kind, sha256="0" * 64, size=0) for name, kind, number in kinds if number]


async def check_answering(endpoints: Mapping[ModelName, Endpoint], embedding: ModelName | None = None) -> None:
    """Look for models that cannot answer: misspelled names, dead keys, addresses that cannot be reached.

    Raises:
        ConfigurationError: Naming them.
    """
    found = await probe(endpoints, embedding)
    if found.tested:
        await emit("notice", found.describe())
    if found.problems:
        raise ConfigurationError(
            f"{len(found.problems)} of {len(endpoints)} models cannot answer; --no-probe (probe: false) asks them all the same:\n"
            + "\n".join(f"  {problem}" for problem in found.problems.values())
        )


def _at_vendors(journal: Journal) -> str:
    lines = sum(len(job.lines) for job in journal.jobs.values())
    return (
        f"vendor_batch: {plural(lines, 'line')} of this batch are at the vendors, and would be paid for twice: run it with "
        "vendor_batch to collect them, and with within (a minute, say) to cancel what has not come by then"
    )


def _bad(inventory: Inventory) -> str:
    shown = [describe(bad) for bad in inventory.bad[:SHOWN]]
    more = f"\n... and {inventory.bad_rows - len(shown)} more" if inventory.bad_rows > len(shown) else ""
    if any("wrong encoding" in bad.message for bad in inventory.bad):
        more += "\nText is read as UTF-8: if the file has another encoding, re-encode it"
    return (
        f"input: {inventory.bad_rows} of {inventory.rows + inventory.bad_rows} rows are invalid; fix them, or skip "
        "them with skip_bad:\n" + "\n".join(shown) + more
    )


def _kinds(record: Record) -> set[str]:
    return {call.error.kind for call in record.calls_made() if call.error is not None}


def was_cut(record: Record) -> bool:
    """Tell whether a row would be another one if the budget went on."""
    return record.status in {"budget", "failed"} or "budget" in _kinds(record)


def failed_of_its_own(record: Record) -> bool:
    """Tell whether a row has failed because of what is in it, which says nothing of the rows that follow."""
    kinds = _kinds(record)
    return bool(kinds) and kinds <= {"content_filter", "context_length"}


class Labelled:
    """Names in every call the row that it is made for."""

    def __init__(self, call: Call, row: str) -> None:
        self._call = call
        self._row = row if len(row) <= LABEL else f"{row[: LABEL - 1]}…"

    async def __call__(self, request: Request, **options: Any) -> Response:
        """Make the call."""
        return await self._call(request.model_copy(update={"label": f"{self._row} · {request.title}"}), **options)


def _waves_of(batch: Batch, journal: Journal) -> Waves | None:
    if not batch.vendor_batch:
        return None
    ends_at = None if batch.ends_at is None else time.monotonic() + batch.ends_at - time.time()
    return Waves(journal, wait=batch.wait, ends_at=ends_at)


class _Run:
    """One run of a batch: workers that take row after row."""

    def __init__(self, batch: Batch, journal: Journal, inventory: Inventory, call: Call) -> None:
        self._batch = batch
        self._journal = journal
        self._inventory = inventory
        self._call = call
        self._function = batch.function or partial(run_enough, algorithm(batch.algorithm))
        self._left: dict[int, dict[str, Any]] = {}
        """Rows that the end of the budget or of the batch has cut: they are shown, and done by the next run."""
        self._present = bytearray()
        """By the number of a row, whether it is in the input now; a journal may know others, of an input that was longer."""
        self._failures: list[tuple[Row, str | None]] = []
        self._stop: str | None = None
        self._changed: str | None = None
        """Why the input is not what was inspected."""
        self._calls = 0
        """Those of rows that were cut among them."""
        self._progress = batch.progress(wanted=self._wanted(), resumed=journal.found)
        self._too_long = math.inf
        """So long a prompt is not begun any more, in bytes: the budget has refused one that is twice as long."""
        self._passed_over = False
        self._breaker = Breaker()
        self._without: dict[int, tuple[Row, set[str]]] = {}
        """Finished rows for which models gave no answer, for no reason of the row."""
        self._waves = _waves_of(batch, journal)
        # In a wave, nobody is late because others have answered.
        self._config = (
            batch.config if self._waves is None else batch.config.model_copy(update={"straggler_grace": None})
        )

    async def work(self) -> BatchSummary:
        """Do the rows that are not finished."""
        batch, started = self._batch, time.monotonic()
        summary = BatchSummary(
            flow_run_id=flow_run.id,
            algorithm=batch.algorithm,
            input=batch.source.address,
            output=batch.output,
            bad=self._inventory.bad_rows,
            bad_rows=[describe(bad) for bad in self._inventory.bad[:SHOWN]],
            resumed=self._journal.found,
            review_file=batch.review,
            calibration=figures(batch.config),
            gives_probability=batch.config.gives_probability(),
        )
        await emit("batch_started", self._progress)
        rows = self._rows()
        with (
            watched_by(self._journal),
            models_checked(),
            showing(batch.task_runs),
            spending(batch.budget, self._journal) as spent,
        ):
            spent.calls, spent.tokens, spent.cost_usd = self._journal.totals.spent
            if self._waves is None:
                await self._workers(rows, spent)
            else:
                with priced(batch.config.price_table()):
                    async with self._waves.collecting(spent):
                        await self._workers(rows, spent)
        self._journal.end_interrupted()
        self._journal.sync()
        if batch.records is not None:
            await asyncio.to_thread(os.sync)
        summary.duration_s = round(time.monotonic() - started, 4)
        summary.calls_per_s = round(self._calls / max(summary.duration_s, 1e-9), 2)
        summary.taken_out = list(self._breaker.out.values())
        if batch.strict:
            self._undo(
                {one.model for one in self._journal.totals.models() if one.never_answered} | {*self._breaker.out}
            )
        if self._stop is not None:
            summary.status, summary.error = "stopped", self._stop
        elif self._changed is not None:
            summary.status, summary.error = "stopped", self._changed
        elif self._waves is not None and self._waves.left.is_set():
            summary.status = "waiting"
            summary.error = f"{plural(self._waves.lines_left, 'line')} at the vendors"
        elif spent.refusal and (self._left or self._passed_over or next(rows, None) is not None):
            summary.status, summary.error = "budget", spent.refusal
        return summary

    def _wanted(self) -> int:
        number, of = self._batch.part
        return len(range(number, self._inventory.rows, of))

    def _rows(self) -> Iterator[Row]:
        """Yield the rows that are not finished; at the end it is known whether the input is still what was inspected."""
        seen, why = Fingerprint(), ""
        first = {row.number: row for row in self._inventory.left if self._mine(row) and not self._journal.holds(row)}
        for number in first:
            self._note_present(number)
        yield from first.values()
        try:
            for row in self._batch.source.rows():
                text = seen.add(row)
                if self._mine(row):
                    self._note_present(row.number)
                    if row.number not in first and not self._journal.holds(row, text):
                        yield row
        except ConfigurationError as error:
            why = error.message.removeprefix("input: ")
        if why or not seen.matches(self._inventory):
            self._changed = input_changed(self._batch.source.address, why or seen.difference(self._inventory))

    def _note_present(self, number: int) -> None:
        self._present.extend(bytes(max(0, number + 1 - len(self._present))))
        self._present[number] = 1

    def _all(self) -> Iterator[Row]:
        return (row for row in self._batch.source.rows() if self._mine(row))

    def _mine(self, row: Row | BadRow) -> TypeGuard[Row]:
        number, of = self._batch.part
        return isinstance(row, Row) and row.number % of == number

    async def _workers(self, rows: Iterator[Row], spent: BudgetTracker) -> None:
        try:
            async with asyncio.TaskGroup() as workers:
                at_once = self._batch.concurrency if self._waves is None else ROWS_OF_WAVE
                tasks = [
                    workers.create_task(self._worker(rows, spent))
                    for _ in range(min(at_once, max(1, self._inventory.rows)))
                ]
                if self._waves is not None and not self._batch.wait:
                    await self._until_left(self._waves, tasks)
        except BaseExceptionGroup as group:  # all workers fail of one cause: the disk, or an input that is gone
            raise group.exceptions[0] from None

    async def _until_left(self, waves: Waves, workers: list[asyncio.Task[None]]) -> None:
        """Wait until the workers have done all that can be done without waiting for vendors, and stop them."""
        left = asyncio.create_task(waves.left.wait())
        done = asyncio.create_task(asyncio.wait(workers))
        try:
            await asyncio.wait([left, done], return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
            done.cancel()
        for worker in workers:
            worker.cancel()

    async def _worker(self, rows: Iterator[Row], spent: BudgetTracker) -> None:
        while self._stop is None and not spent.exhausted and not (self._batch.strict and self._breaker.out):
            row = next(rows, None)
            if row is None:
                return
            if most_tokens(row.prompt) > self._too_long:
                self._passed_over = True
                await asyncio.sleep(0)
                continue
            with spending(Budget()) as of_row, breaking(self._breaker, row.id):
                try:
                    record = await self._do(row)
                except asyncio.CancelledError:
                    if self._waves is not None and self._waves.left.is_set():
                        self._leave(row, "waiting for a vendor's batch")
                    raise
            self._calls += record.calls
            if self._journal.error is not None:
                raise self._journal.error
            if self._batch.records is not None:
                # Before the row is in the journal: a finished row has a record, whatever ends the run.
                await asyncio.to_thread(write_record, self._batch.records, row.id, record)
            if of_row.refusal and was_cut(record):
                if of_row.short:
                    # Shorter rows may still be covered. Not all are tried: they would be cut too, one after the other.
                    self._too_long = min(self._too_long, most_tokens(row.prompt) / 2)
                result = self._leave(row, f"cut off: {of_row.refusal}")
            elif self._stop is not None and record.answer is None:
                result = self._leave(row, record.error)
            else:
                result = outcome(row, record)
                self._journal.add(row, result)
                self._watch(row, record)
                silent = {
                    call.provider + "/" + call.model
                    for call in record.calls_made()
                    if call.error and call.error.kind in KINDS
                }
                if silent:
                    self._without[row.number] = row, silent
            self._progress.add(result)
            await emit("row", result)

    def _leave(self, row: Row, error: str | None) -> dict[str, Any]:
        """Let the next run do a row, and say in the output why this one did not."""
        result = self._left[row.number] = not_started(row, error)
        return result

    async def _do(self, row: Row) -> Record:
        """Run one row; whatever ends it is written into its record, and the other rows go on."""
        given: dict[str, Any] = {}
        try:
            if self._batch.reference_column is not None:
                given["reference"] = recorded_answers(row.columns.get(self._batch.reference_column))
            if files := await self._files(row):
                given["conversation"] = tuple(attaching(files))
            with self._waves.row() if self._waves is not None else nullcontext():
                record = await self._function(row.prompt, self._config, Labelled(self._call, row.id), **given)
        except OutputError:
            raise
        except Exception as error:
            message = error.message if isinstance(error, ConsensusError) else f"{type(error).__name__}: {error}"
            record = Record(flow=self._batch.algorithm, prompt=row.prompt, status="failed", error=redact(message))
        return record

    async def _files(self, row: Row) -> list[Attachment]:
        """Read the files of a row; where an earlier run of this batch has read them, these very ones are sent again.

        Raises:
            ConfigurationError: If one cannot be read or sent.
        """
        source, kept = self._batch.source, self._journal.kept
        names = source.files_of(row.columns) if source.attach_column else []
        new = [name for name in names if name not in kept]
        read = await asyncio.to_thread(lambda: [attached(source.whole(name), "attach_column") for name in new])
        for name, file in zip(new, read, strict=True):  # not in the thread: the journal is written in one place alone
            if name not in kept:
                self._journal.keep(name, file)
        found = [*self._batch.attachments, *(kept[name] for name in names)]
        check_size(sum(one.size for one in found), "attach_column")
        return found

    def _watch(self, row: Row, record: Record) -> None:
        """Stop when row after row fails, and let the next run do those again."""
        if record.answer is not None:
            self._failures.clear()
            return
        if failed_of_its_own(record):
            return
        self._failures.append((row, record.error))
        if len(self._failures) >= IN_A_ROW:
            self._stop = f"{IN_A_ROW} rows in a row have no answer, the last one because of: {record.error}"
            for failed, error in self._failures:
                self._journal.forget(failed.number)
                self._leave(failed, error)
            self._failures.clear()

    def _undo(self, silent: set[str]) -> None:
        """Stop a strict batch over models that do not answer, and let the next run do again what they are missing from."""
        if not silent:
            return
        self._stop = self._stop or f"strict: no answer of {', '.join(sorted(silent))}"
        for row, missing in self._without.values():
            if missing & silent:
                self._journal.forget(row.number)
                self._leave(row, self._stop)

    def write(self, summary: BatchSummary) -> None:
        """Write the output and sum it up; the rows go by one after the other and are never all in memory."""
        batch = self._batch
        totals = self._journal.totals
        try:
            if batch.part[1] > 1:
                write_part(batch.output, self._counted(summary), totals)
            else:
                with batch.reviewer() as reviewer:
                    rows = self._counted(summary, reviewer)
                    write_output(batch.output, rows, self._inventory, batch.source.id_column, batch.members())
                    reviewer.write(summary.rows)
        except OSError as error:
            raise OutputError(
                f"output: {batch.output} cannot be written: {error.strerror or error}. All rows are kept in "
                f"{self._journal.path}: start again with the same arguments when that is mended"
            ) from None
        summary.add_bill(totals)

    def _counted(self, summary: BatchSummary, reviewer: Reviewer | None = None) -> Iterator[Finished]:
        # An input that has changed is not read a third time: what is finished of it is all that can be said.
        only_finished = summary.status == "finished" or self._changed is not None
        for one in self._journal.finished() if only_finished else self._with_those_left():
            present = one.number < len(self._present) and self._present[one.number]
            if not only_finished or (present and one.number not in self._left):
                shown = one if reviewer is None else reviewer.reviewed(one)
                summary.add(shown.result)
                yield shown

    def _with_those_left(self) -> Iterator[Finished]:
        """All rows in the order of the input, those too that were not started."""
        finished = self._journal.finished()
        held = next(finished, None)
        for row in self._all():
            while held is not None and held.number < row.number:
                held = next(finished, None)
            if held is not None and self._journal.holds(row):
                yield held
            else:
                yield Finished(row.number, self._left.get(row.number) or not_started(row), row.columns)
