"""`consensus batch`: an algorithm over every row of a file."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

from cyclopts import Parameter, validators
from prefect.exceptions import TerminationSignal
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consensus_flows.blocks.budget import Budget
from consensus_flows.deployments.batch_view import BatchLines, BatchTable, batch_summary
from consensus_flows.deployments.commands.settings.saved import find
from consensus_flows.deployments.kinds import module_of, options_for, options_of
from consensus_flows.deployments.last_word import LastWord
from consensus_flows.deployments.options import OUTPUT, PanelOptions, RunOptions
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, Stop, explain, put, put_json, say
from consensus_flows.flows.algorithms import ALGORITHMS, Name
from consensus_flows.flows.batch import batch
from consensus_flows.flows.batching import Batch, checked
from consensus_flows.tasks.batches.addresses import dated
from consensus_flows.tasks.batches.estimate import Estimate, estimate
from consensus_flows.tasks.batches.source import Source
from consensus_flows.tasks.batches.summary import BatchSummary
from consensus_flows.tasks.calls.clients import close_clients
from consensus_flows.tasks.calls.warm_up import warm_up
from consensus_flows.tasks.errors import QuorumError
from consensus_flows.tasks.watch import Watcher, watched_by

BUDGET = {
    "max_calls": "max_calls",
    "max_tokens": "max_tokens",
    "max_cost": "max_cost_usd",
    "deadline": "max_seconds",
}
"""Options of a run that are those of the whole batch here, and their fields."""
FROM_1 = validators.Number(gte=1, lte=1000)


@Parameter(name="*")
@dataclass(kw_only=True)
class BatchOptions:
    """What is read and written, and how much at once."""

    output: Annotated[str, Parameter(name=["--output", "-o"], group=OUTPUT)]
    """File of answers (.jsonl, .csv, .parquet) or an fsspec address; {date} stands for the day."""
    name: Annotated[str | None, Parameter(group=OUTPUT)] = None
    """Name of a saved configuration."""
    prompt_column: Annotated[str | None, Parameter(group=OUTPUT)] = None
    """The column that is the prompt; default: prompt, question, or the only one."""
    prompt_template: Annotated[str | None, Parameter(group=OUTPUT)] = None
    """The prompt as a text with {column} in it, instead of a column."""
    id_column: Annotated[str | None, Parameter(group=OUTPUT)] = None
    """The column that tells rows apart; default: id where there is one, else the line number."""
    concurrency: Annotated[int, Parameter(group=OUTPUT, validator=FROM_1)] = 8
    """Rows that are worked on at once."""
    skip_bad: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False
    """Go on without rows that cannot be used, and list them."""
    dry_run: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False
    """Print the number of calls and the estimated cost of each model, and stop."""
    records: Annotated[str | None, Parameter(group=OUTPUT)] = None
    """Folder that gets the whole record of each row as JSON, which `consensus tally` reads."""
    reference_column: Annotated[str | None, Parameter(group=OUTPUT)] = None
    """With --flow moa, the column of recorded answers that stand in for the first layer."""
    shards: Annotated[int, Parameter(group=OUTPUT, validator=FROM_1)] = 1
    """Split the rows over so many deployment runs, for as many workers as there are."""
    json: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False
    """Print the summary as JSON on stdout, and nothing else."""


def _command(kind: Name) -> Callable[..., Exit]:
    """Make the command for one kind of flow, with that flow's options."""
    options = options_of(kind)

    def run(input: str, *, batch: BatchOptions, panel: options | None = None) -> Exit:  # type: ignore[valid-type]
        """Run a flow on every row of a file; killed half-way it is simply started again, and goes on where it was.

        --max-calls, --max-tokens and --max-cost are those of the whole batch, --deadline that of this start of it.

        Args:
            input: File of prompts (.csv, .tsv, .jsonl, .json, .parquet, .txt), folder of .md and .txt files, or address.
            batch: What is read and written.
            panel: The flow's own options.
        """
        return _run(input, batch, panel or options(), kind)

    return run


def run_command(
    input: str,
    *,
    flow: Annotated[Name | None, Parameter(group=OUTPUT)] = None,
    batch: BatchOptions,
    panel: PanelOptions | None = None,
) -> Exit:
    """Run a flow on every row of a file, as it is saved.

    Args:
        input: File of prompts (.csv, .tsv, .jsonl, .json, .parquet, .txt), folder of .md and .txt files, or address.
        flow: The kind of flow, with its own options, which `consensus batch --flow vote --help` shows; default: that of
            --name, else consortium.
        batch: What is read and written.
        panel: Who is asked in place of those saved, and conditions of every row's run.
    """
    return _run(input, batch, panel or PanelOptions(), flow)


def __getattr__(name: str) -> Callable[..., Exit]:
    """Make `batch_vote` and its like when they are asked for: each needs the modules of its flow."""
    kind = name.removeprefix("batch_")
    if kind in ALGORITHMS:
        return _command(kind)
    raise AttributeError(name)


def _run(source: str, options: BatchOptions, panel: RunOptions, kind: Name | None) -> Exit:
    try:
        budget = Budget(**{field: getattr(panel, option) for option, field in BUDGET.items()})
    except ValidationError as error:
        names = {field: f"--{option.replace('_', '-')}" for option, field in BUDGET.items()}
        raise Stop(explain(error, names)) from None
    panel = replace(panel, **dict.fromkeys(BUDGET))
    found = find(options.name, kind) if options.name else None
    if kind is None and found is None:
        raise Stop("say which flow: --name SAVED, or --flow consortium|learn|moa|vote|pump|prefer with its options")
    algorithm: Name = kind or found.kind  # type: ignore[union-attr]
    own = options_for(algorithm, panel, options.name)
    config = module_of(algorithm).configure(own, found.values if found else None)
    if options.dry_run:
        return _estimate(source, options, config)
    view = None if options.json else BatchTable() if sys.stderr.isatty() else BatchLines()
    shards = "; the shards that were started go on, and it takes them over" if options.shards > 1 else ""
    return run_batch_flow(
        source,
        options.output,
        algorithm,
        config,
        lambda summary, ui_url: _told(summary, options, ui_url),
        view=view,
        interrupted=f"finished rows are kept, and the same command continues with the others{shards}",
        budget=budget,
        prompt_column=options.prompt_column,
        prompt_template=options.prompt_template,
        id_column=options.id_column,
        concurrency=options.concurrency,
        skip_bad=options.skip_bad,
        records=options.records,
        reference_column=options.reference_column,
        shards=options.shards,
    )


def run_batch_flow(
    source: str,
    output: str,
    algorithm: Name,
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
        algorithm: What is run on each row.
        config: Its configuration.
        report: Prints what came of it, given the address of the UI, and returns the exit code.
        view: Shows how far it is; closed before anything is reported, if it can be.
        interrupted: What is said after Ctrl-C.
        parameters: Further parameters of the flow.
    """
    warm_up(model.provider for model in config.models())
    info = connect()
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
                    flow=algorithm,
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
    except (KeyboardInterrupt, TerminationSignal) as signal:
        close()
        say(f"consensus: interrupted; {interrupted}")
        raise SystemExit(130 if isinstance(signal, KeyboardInterrupt) else 143) from None
    finally:
        close()


def _told(summary: BatchSummary, options: BatchOptions, ui_url: str) -> Exit:
    if options.json:
        put_json(summary.model_dump(mode="json"))
    else:
        batch_summary(summary, ui_url)
        put(summary.output)
    if summary.status == "budget":
        return Exit.BUDGET
    return Exit.NO_ANSWER if summary.failed or summary.status == "stopped" else Exit.ANSWER


def _estimate(source: str, options: BatchOptions, config: Any) -> Exit:
    """Print what the batch would take, and call no model."""
    connect()
    work = Batch(
        Source(
            source,
            prompt_column=options.prompt_column,
            prompt_template=options.prompt_template,
            id_column=options.id_column,
        ),
        dated(options.output),
        "consortium",
        config,
        skip_bad=options.skip_bad,
    )

    async def estimated() -> Estimate:
        inventory = await checked(work)
        return await estimate(config, inventory.rows, inventory.size)

    found = asyncio.run(estimated())
    if options.json:
        put_json(found.model_dump(mode="json"))
        return Exit.ANSWER
    table = Table(box=None, header_style="dim")
    for name in ("model", "calls", "input tokens", "output tokens", "cost"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for one in found.models:
        table.add_row(
            Text(one.model + (f" ({one.service_tier})" if one.service_tier else "")),
            _range(one.calls_least, one.calls_most),
            _range(one.input_tokens_least, one.input_tokens_most),
            _range(one.output_tokens_least, one.output_tokens_most),
            _dollars(one.cost_usd_least, one.cost_usd_most),
        )
    Console().print(table)
    put(
        f"{found.rows} rows: {_range(found.calls_least, found.calls_most)} calls, "
        f"{_dollars(found.cost_usd_least, found.cost_usd_most)}"
    )
    for text in found.assumptions:
        say(f"  assumed: {text}")
    return Exit.ANSWER


def _range(least: int, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _dollars(least: float | None, most: float | None) -> str:
    if least is None or most is None:
        return "cost unknown"
    return f"${least:.4f}" if f"{least:.4f}" == f"{most:.4f}" else f"${least:.4f} to ${most:.4f}"
