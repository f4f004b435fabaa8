"""`consensus batch`: an algorithm over every row of a file."""

import asyncio
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, validators
from prefect.exceptions import TerminationSignal
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consensus_flows.blocks.settings import Budget
from consensus_flows.deployments.algorithm_commands import Flow, Given, choose
from consensus_flows.deployments.batch_view import BatchLines, BatchTable, batch_summary
from consensus_flows.deployments.commands.algorithms.questions import RowFileOptions
from consensus_flows.deployments.last_word import LastWord
from consensus_flows.deployments.options import OUTPUT, SENTENCE, PanelOptions, options_type
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, Stop, explain, put, put_json, say
from consensus_flows.flows.algorithms import Algorithm, algorithm
from consensus_flows.flows.batch import batch
from consensus_flows.flows.batching import Batch, checked
from consensus_flows.flows.saved_algorithm import with_panels
from consensus_flows.tasks.attachments import attach
from consensus_flows.tasks.batches.addresses import dated
from consensus_flows.tasks.batches.estimate import Estimate, estimate
from consensus_flows.tasks.batches.frames import InputFormat, guess_format, kept, unnamed_output
from consensus_flows.tasks.batches.source import Selection, Source
from consensus_flows.tasks.batches.summary import BatchSummary
from consensus_flows.tasks.calls.providers import close_clients, warm_up
from consensus_flows.tasks.calls.task_runs import TaskRuns
from consensus_flows.tasks.errors import ConfigurationError, QuorumError
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.watch import Watcher, watched_by

BUDGET_OPTIONS = {
    "max_calls": "--max-calls",
    "max_tokens": "--max-tokens",
    "max_cost_usd": "--max-cost",
    "max_seconds": "--deadline",
}
NICENESS = 10
FROM_1 = validators.Number(gte=1, lte=1000)


@Parameter(name="*")
@dataclass(kw_only=True)
class BatchOptions(RowFileOptions):
    """What is read and written, and how much at once."""

    output: Annotated[str, Parameter(name=["--output", "-o"], group=OUTPUT, allow_leading_hyphen=True, metavar="FILE")]
    """Output file (.jsonl, .csv, .parquet) or fsspec URL; {date} is replaced by the local day. - prints JSONL on stdout."""
    name: Annotated[str | None, Parameter(group=OUTPUT, metavar="NAME")] = None
    """Name of a saved configuration."""
    prompt_column: Annotated[str | None, Parameter(group=OUTPUT, metavar="COLUMN")] = None
    """Column of the prompt; default: prompt, question, or the only one."""
    prompt_template: Annotated[str | None, Parameter(group=OUTPUT, metavar="TEMPLATE")] = None
    """Template of the prompt with {column} placeholders, instead of a column."""
    id_column: Annotated[str | None, Parameter(group=OUTPUT, metavar="COLUMN")] = None
    """Column that identifies a row; default: id if there is one, else the row number."""
    concurrency: Annotated[int, Parameter(group=OUTPUT, validator=FROM_1, metavar="N")] = 8
    """Number of rows to work on concurrently."""
    skip_bad: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False
    """Skip invalid rows, and list them."""
    input_format: Annotated[InputFormat | None, Parameter(group=OUTPUT)] = None
    """Format of standard input; default: JSON if it starts like JSON, else CSV."""
    limit: Annotated[int | None, Parameter(group=OUTPUT, validator=validators.Number(gte=1), metavar="N")] = None
    """Run only the first rows, to try. A later run of all rows reuses their answers."""
    sample: Annotated[int | None, Parameter(group=OUTPUT, validator=validators.Number(gte=1), metavar="N")] = None
    """Run only this many random rows."""
    sample_seed: Annotated[int, Parameter(group=OUTPUT, metavar="N")] = 0
    """Seed of --sample."""
    wide: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False
    """Write one column per member instead of the nested answers."""
    abstain_below: Annotated[
        float | None, Parameter(group=OUTPUT, validator=validators.Number(gt=0, lte=1), metavar="SHARE")
    ] = None
    """Give no answer if a smaller share of the members agrees, 0 to 1."""
    review: Annotated[str | None, Parameter(group=OUTPUT, metavar="FILE")] = None
    """File (.csv, .jsonl) of the rows to review, with an HTML page of the same name beside it; or only the page (.html)."""
    review_below: Annotated[
        float | None, Parameter(group=OUTPUT, validator=validators.Number(gt=0, lte=1), metavar="PROBABILITY")
    ] = None
    """Mark answers of a lower probability as unsure, to be reviewed, 0 to 1. Requires a panel of `consensus calibrate`."""
    dry_run: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False
    """Print the number of calls and the estimated cost by model, and exit."""
    records: Annotated[str | None, Parameter(group=OUTPUT, metavar="FOLDER")] = None
    """Folder for the whole record of each row as JSON, as `consensus tally` reads it."""
    reference_column: Annotated[str | None, Parameter(group=OUTPUT, metavar="COLUMN")] = None
    """Column of recorded answers to use as the first layer, with --flow moa."""
    probe: Annotated[bool, Parameter(group=OUTPUT)] = True
    """Check the models against the vendors' lists of models before the first row."""
    strict: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False
    """Fail the batch if a model never answers or is disabled. Without it, the exit code is 4 if a model never answered."""
    overwrite: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False
    """Replace an output file that has no rows of this input."""
    shards: Annotated[int, Parameter(group=OUTPUT, validator=FROM_1, metavar="N")] = 1
    """Number of deployment runs over which to split the rows."""
    vendor_batch: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False
    """Send the calls through the vendors' batch APIs (OpenAI, Anthropic, Google): half the price, within a day."""
    by: Annotated[str | None, Parameter(group=OUTPUT, metavar="HH:MM")] = None
    """Time of day until when to wait for the vendors' batches; then cancel them, and ask for the rest at once."""
    within: Annotated[timedelta | None, Parameter(group=OUTPUT, metavar="DURATION")] = None
    """The same as a time from now, for example 4h or 90m."""
    wait: Annotated[bool, Parameter(group=OUTPUT)] = True
    """Wait for the vendors' batches; --no-wait submits what can be submitted, and the same command later collects."""
    task_runs: Annotated[TaskRuns, Parameter(group=OUTPUT)] = "all"
    """Which calls to show in Prefect as task runs: all, those that failed, or none. The history has every call."""
    json: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False
    """Print the summary as JSON on stdout, and nothing else."""

    def parameters(self) -> dict[str, Any]:
        """Return these as parameters of the batch flow."""
        own = {"output", "name", "input_format", "dry_run", "json", "attach"}
        found = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in own}
        return found | {
            "attachments": self.attachments() or None,
            "within": None if self.within is None else self.within.total_seconds(),
        }


def command(flow: str | None) -> Callable[..., Exit]:
    """Make the command for one algorithm, with its options; or for a saved configuration of any."""

    def run(
        input: Annotated[str, SENTENCE],
        *,
        flow: Flow = flow,
        batch: BatchOptions,
        given: Given | None = None,
    ) -> Exit:
        """Run an algorithm on every row of a file; --flow names the algorithm, --name a saved configuration.

        A model that fails in three consecutive rows, for a reason other than the row itself (auth, not_found, quota,
        connection, server, timeout, overloaded), is disabled for the rest of the run. If it has answered before, it must
        also have been failing for a minute. The next run asks it again.

        If it is killed, run the same command again: it resumes. After the end, the same command retries failed rows.
        --max-calls, --max-tokens and --max-cost limit the whole batch, --deadline this run of it.

        Args:
            input: File of prompts (.csv, .tsv, .jsonl, .json, .parquet, .txt), folder of .md and .txt files, or fsspec URL;
                - reads standard input.
            flow: Algorithm; default: that of --name, else consortium. `consensus batch --flow vote --help` shows its options.
            batch: What is read and written.
            given: The settings.
        """
        return _run(input, batch, given or {}, flow)

    run.__annotations__["given"] = options_type(algorithm(flow).config_class()) if flow else PanelOptions
    return run


def _run(source: str, options: BatchOptions, given: Given, flow: str | None) -> Exit:
    given = {**given}
    try:
        budget = Budget.model_validate(given.pop("budget", {}))
    except ValidationError as error:
        raise Stop(explain(error, BUDGET_OPTIONS)) from None
    one, config = choose(options.name, given, flow)
    to_stdout = options.output == "-"
    if "-" in {source, options.output} and options.shards > 1:
        raise Stop("--shards: give files for input and output, which every worker can see")
    if to_stdout and options.json:
        raise Stop("--json: the answers are printed on stdout already; name a file with --output")
    if source == "-":
        source = _stdin(options.input_format)
    if to_stdout:
        chosen = [options.prompt_column, options.prompt_template, options.id_column, options.limit, options.sample]
        options = replace(options, output=unnamed_output(source, one.name, config.model_dump(mode="json"), chosen))
    if options.dry_run:
        return _estimate(source, options, one, config)
    view = None if options.json else BatchTable() if sys.stderr.isatty() else BatchLines()
    shards = "; the shards that were started continue, and it takes them over" if options.shards > 1 else ""
    return run_batch_flow(
        source,
        options.output,
        one.name,
        config,
        lambda summary, ui_url: _told(summary, options, ui_url, to_stdout=to_stdout),
        view=view,
        interrupted=f"finished rows are kept, and the same command continues with the others{shards}",
        budget=budget,
        **options.parameters(),
    )


def run_batch_flow(
    source: str,
    output: str,
    flow: str,
    config: Any,
    report: Callable[[BatchSummary, str], Exit],
    *,
    view: Watcher | None,
    interrupted: str,
    **parameters: Any,
) -> Exit:
    """Run the batch flow, for this command and for every other one that asks many questions.

    Args:
        source: The rows.
        output: The file of answers.
        flow: What is run on each row.
        config: Its configuration.
        report: Prints what came of it, given the address of the UI, and returns the exit code.
        view: Shows how far it is; closed before anything is reported, if it can be.
        interrupted: What is said after Ctrl-C.
        parameters: Further parameters of the flow.
    """
    warm_up(model.provider for model in config.models())
    info = connect()
    # Many questions give way to the server and to a single one: beside rows from the cache it would take three times as long.
    os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
    close = getattr(view, "close", lambda: None)

    def reported(summary: BatchSummary) -> Exit:
        close()
        return report(summary, info.ui_url)

    last = LastWord(info.api_url, "batch_written", reported)

    async def work() -> BatchSummary:
        with watched_by(*([view] if view else []), last):
            try:
                done: BatchSummary = await batch(
                    source,
                    output,
                    flow=flow,
                    config=config.model_dump(mode="json", exclude_defaults=True),
                    **parameters,
                )
            except QuorumError as error:
                done = getattr(error, "record", None)  # type: ignore[assignment]
                if done is None:
                    raise
            finally:
                await close_clients()
        return done

    try:
        return last.run(work())
    except ConfigurationError as error:
        raise Stop(as_options(error.message)) from None
    except (KeyboardInterrupt, TerminationSignal) as signal:
        close()
        say(f"consensus: interrupted; {interrupted}")
        raise SystemExit(130 if isinstance(signal, KeyboardInterrupt) else 143) from None
    finally:
        close()


def as_options(message: str, kind: type[Any] = BatchOptions) -> str:
    """Name parameters of the flow as the command line calls them, by the options of a command."""
    names = "|".join(sorted((name for name in kind.__dataclass_fields__ if "_" in name), key=len, reverse=True))
    return re.sub(rf"\b(?:{names})\b", lambda found: f"--{found[0].replace('_', '-')}", message)


def _stdin(form: InputFormat | None) -> str:
    data = sys.stdin.buffer.read()
    if not data.strip():
        raise Stop("input: standard input is empty")
    return kept(data, f".{form or guess_format(data)}")


def _told(summary: BatchSummary, options: BatchOptions, ui_url: str, *, to_stdout: bool) -> Exit:
    if options.json:
        put_json(summary.model_dump(mode="json"))
    else:
        batch_summary(summary, ui_url)
        if to_stdout:
            output = Path(summary.output)
            with output.open(encoding="utf-8") as rows:
                for row in rows:
                    put(row.removesuffix("\n"))
            output.unlink()
        else:
            put(summary.output)
    return exit_code(summary)


def exit_code(summary: BatchSummary) -> Exit:
    """Return the exit code of a batch."""
    if summary.status == "budget":
        return Exit.BUDGET
    if summary.status == "waiting":
        return Exit.WAITING
    if summary.failed or summary.status == "stopped":
        return Exit.NO_ANSWER
    return Exit.NEVER_ANSWERED if summary.never_answered else Exit.ANSWER


def _estimate(source: str, options: BatchOptions, one: Algorithm, config: Any) -> Exit:
    """Print what the batch would take, and call no model."""
    connect()

    async def work() -> Estimate:
        with watched_by(BatchLines()):
            try:
                return await estimated(source, options, one, config)
            finally:
                await close_clients()

    try:
        found = asyncio.run(work())
    except ConfigurationError as error:
        raise Stop(as_options(error.message)) from None
    if options.json:
        put_json(found.model_dump(mode="json"))
        return Exit.ANSWER
    show_estimate(found)
    return Exit.ANSWER


async def estimated(source: str, options: BatchOptions, one: Algorithm, config: Any) -> Estimate:
    """Check a batch as before its first row, and return what it would take.

    Raises:
        ConfigurationError: Naming what cannot be used.
    """
    settings = await with_panels(config)
    work = Batch(
        Source(
            source,
            prompt_column=options.prompt_column,
            prompt_template=options.prompt_template,
            id_column=options.id_column,
            attach_column=options.attach_column,
            selection=Selection(options.limit, options.sample, options.sample_seed),
        ),
        dated(options.output),
        one.name,
        settings,
        skip_bad=options.skip_bad,
        attachments=await asyncio.to_thread(attach, options.attachments(), "--attach"),
        review=options.review,
        review_below=options.review_below,
        probe=options.probe,
        overwrite=options.overwrite,
    )
    inventory = await checked(work)
    return await estimate(
        settings, one.plan(settings), inventory.rows, inventory.size, work.files(inventory), one.waves(settings)
    )


def show_estimate(found: Estimate) -> None:
    """Print what is expected, by model."""
    table = Table(box=None, header_style="dim")
    for name in ("model", "calls", "input tokens", "output tokens", "cost"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for model in found.models:
        table.add_row(
            Text(model.model + (f" ({model.service_tier})" if model.service_tier else "")),
            _range(model.calls_least, model.calls_most),
            _range(model.input_tokens_least, model.input_tokens_most),
            _range(model.output_tokens_least, model.output_tokens_most),
            _dollars(model.cost_usd_least, model.cost_usd_most),
        )
    Console().print(table)
    price = _dollars(found.cost_usd_least, found.cost_usd_most)
    if found.unpriced_calls and found.known_cost_usd_most:
        known = _dollars(found.known_cost_usd_least, found.known_cost_usd_most)
        price = f"{known} + {plural(found.unpriced_calls, 'call')} of unknown price"
    put(f"{plural(found.rows, 'row')}: {_range(found.calls_least, found.calls_most)} calls, {price}")
    if found.calls_expected is not None:
        cost = (
            "" if found.cost_usd_expected is None else f", {_dollars(found.cost_usd_expected, found.cost_usd_expected)}"
        )
        put(f"expected: {found.calls_expected:,} calls{cost}, as on the labeled rows of the calibration")
    if any(model.batch_api for model in found.models):
        put(_batch_price(found))
    for text in found.assumptions:
        say(f"  assumed: {text}")


def _batch_price(found: Estimate) -> str:
    """Say what the vendors' batch APIs would take."""
    waves = (
        ""
        if found.waves_least is None
        else f", in {_range(found.waves_least, found.waves_most or 0)} {'wave' if found.waves_most == 1 else 'waves'}"
    )
    without = [model.model for model in found.models if not model.batch_api]
    others = f"; asked directly, without a batch API: {', '.join(without)}" if without else ""
    return f"with --vendor-batch: {_dollars(found.batch_usd_least, found.batch_usd_most)}{waves}{others}"


def _range(least: int, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _dollars(least: float | None, most: float | None) -> str:
    if least is None or most is None:
        return "cost unknown"
    return f"${least:.4f}" if f"{least:.4f}" == f"{most:.4f}" else f"${least:.4f} to ${most:.4f}"
