"""What `consensus evaluate` and `consensus calibrate` share: rows that are read, members that are asked each of them, and what is said."""

import asyncio
import sys
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from cyclopts import Parameter, validators
from pydantic import ValidationError

from consensus_flows.blocks.member import ModelName, counted, members_of
from consensus_flows.blocks.settings import Budget
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.deployments.algorithm_commands import Given, choose
from consensus_flows.deployments.batch_view import BatchLines, BatchTable
from consensus_flows.deployments.commands.algorithms.batch import BUDGET_OPTIONS, FROM_1, show_estimate
from consensus_flows.deployments.commands.algorithms.questions import RowFileOptions
from consensus_flows.deployments.findings_view import show
from consensus_flows.deployments.last_word import LastWord
from consensus_flows.deployments.options import COUNT, OUTPUT, options
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, Stop, explain, put, put_json, say
from consensus_flows.flows.agreement import agreement_of_recorded, report_agreement
from consensus_flows.flows.ask_rows import Plan, asking, estimates
from consensus_flows.tasks.batches.estimate import Estimate
from consensus_flows.tasks.batches.results import member_key
from consensus_flows.tasks.batches.source import Selection, Source
from consensus_flows.tasks.calls.providers import close_clients, warm_up
from consensus_flows.tasks.errors import BudgetError
from consensus_flows.tasks.evaluation.agreement import Agreement
from consensus_flows.tasks.reports.agreement_report import findings
from consensus_flows.tasks.watch import watched_by

RECORDED = {"members", COUNT, "extract"}
"""Settings that mean something where no call is made."""
NEED_LABELS = {"anyway", "baseline", "by", "goal", "margin", "plan", "save", "seed", "split"}
"""Options that mean nothing without labels."""
NEED_CALLS = {
    "attach",
    "attach_column",
    "concurrency",
    "limit",
    "probe",
    "prompt_column",
    "prompt_template",
    "sample",
    "sample_seed",
}
"""Options that mean nothing where no call is made."""


@Parameter(name="*")
@dataclass(kw_only=True)
class LabeledOptions(RowFileOptions):
    """What is read, and how it is asked."""

    label: Annotated[str | None, Parameter(group=OUTPUT, metavar="COLUMN")] = None
    """Column of the right answer. Rows without one are left out. Default: none; then only the members' agreement is reported."""
    recorded: Annotated[str | None, Parameter(name="--from", group=OUTPUT, metavar="FILE")] = None
    """Output of a batch, whose recorded answers are read. No call is made."""
    prices: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FILE")] = None
    """JSON file of prices for --from, {"MODEL": {"input": 0.15, "output": 0.6}} in US dollars per million tokens."""
    prompt_column: Annotated[str | None, Parameter(group=OUTPUT, metavar="COLUMN")] = None
    """Column of the prompt; default: prompt, question, or the only one."""
    prompt_template: Annotated[str | None, Parameter(group=OUTPUT, metavar="TEMPLATE")] = None
    """Template of the prompt with {column} placeholders, instead of a column."""
    id_column: Annotated[str | None, Parameter(group=OUTPUT, metavar="COLUMN")] = None
    """Column that identifies a row; default: id if there is one, else the row number."""
    by: Annotated[str | None, Parameter(group=OUTPUT, metavar="COLUMN")] = None
    """Column of the category."""
    limit: Annotated[int | None, Parameter(group=OUTPUT, validator=validators.Number(gte=1), metavar="N")] = None
    """Take only the first rows."""
    sample: Annotated[int | None, Parameter(group=OUTPUT, validator=validators.Number(gte=1), metavar="N")] = None
    """Take only this many random rows."""
    sample_seed: Annotated[int, Parameter(group=OUTPUT, metavar="N")] = 0
    """Seed of --sample."""
    concurrency: Annotated[int, Parameter(group=OUTPUT, validator=FROM_1, metavar="N")] = 8
    """Number of rows to work on concurrently."""
    probe: Annotated[bool, Parameter(group=OUTPUT)] = True
    """Check the models against the vendors' lists of models before the first row."""
    report: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FOLDER")] = None
    """Folder for the report: an .html page to read, and a .json file with everything."""
    dry_run: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False
    """Print the number of calls and the estimated cost by model, and exit."""
    json: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False
    """Print the result as JSON on stdout, and nothing else."""

    def __post_init__(self) -> None:
        """Refuse what would have no effect."""
        if self.label is None and (useless := self._set(NEED_LABELS)):
            raise Stop(f"{useless}: without --label nobody knows what is right, so it would have no effect")
        if self.recorded is None and self.prices is not None:
            raise Stop("--prices: for recorded answers, with --from; for a run, --price MODEL=IN/OUT")
        if self.recorded is not None and (useless := self._set(NEED_CALLS)):
            raise Stop(f"--from: all of its rows are read and no model is asked, so {useless} would have no effect")

    def _set(self, names: Collection[str]) -> str:
        found = [one.name for one in fields(self) if one.name in names and getattr(self, one.name) != one.default]
        return ", ".join(f"--{name.replace('_', '-')}" for name in found)

    def source(self, address: str) -> Source:
        """Return the rows of a file."""
        return Source(
            address,
            prompt_column=self.prompt_column,
            prompt_template=self.prompt_template,
            id_column=self.id_column,
            attach_column=self.attach_column,
            selection=Selection(self.limit, self.sample, self.sample_seed),
        )

    def given(self) -> dict[str, Any]:
        """Return what the flows take under the same names."""
        names = (
            "prompt_column",
            "prompt_template",
            "id_column",
            "attach_column",
            "by",
            "limit",
            "sample",
            "sample_seed",
            "concurrency",
            "probe",
        )
        return {name: getattr(self, name) for name in names} | {"attachments": self.attachments() or None}


def recorded_panel(source: str | None, given: Given, names: Sequence[str]) -> tuple[list[str], str | None]:
    """Return the members whose recorded answers are read, as a batch's output names them, and how they are read.

    Args:
        source: The input that was given beside `--from`.
        given: The settings that were given.
        names: The saved panel that was named, in place of its members.

    Raises:
        Stop: If something is given that would have no effect.
    """
    if source is not None:
        raise Stop("--from: the rows of that file are read; give no other input")
    named = {option.path[0]: option.name for option in options(VoteConfig)}
    if useless := [named.get(name, f"--{name}") for name in given if name not in RECORDED]:
        raise Stop(f"--from: no model is asked, so {', '.join(useless)} would have no effect")
    extract: str | None = given.get("extract")
    if names:
        if len(names) > 1 or "members" in given:
            raise Stop("--name: with --from no model is asked: give one panel, or its members with -m")
        _, config = choose(names[0], {})
        voting = asking(config, extract)
        read = extract or (config.extract if isinstance(config, VoteConfig) else None)
        return [member_key(str(member)) for member in voting.panel()], read
    try:
        members = members_of([counted(one, given.get(COUNT, 1)) for one in given.get("members", [])])
    except ValueError as error:
        raise Stop(f"-m: {error}") from None
    return [member_key(str(member)) for member in members], extract


def no_calls(*, json: bool) -> Exit:
    """Print the estimate of a command that makes no call."""
    put_json({}) if json else put("No call is made: the answers are recorded.")
    return Exit.ANSWER


def replayed_agreement(wanted: LabeledOptions, members: list[str], extract: str | None) -> Agreement:
    """Measure the agreement on recorded answers, and write the report."""
    file = wanted.recorded or ""
    made = agreement_of_recorded(
        file, members=members, extract=extract, prices=wanted.prices, id_column=wanted.id_column
    )
    return report_agreement(made, wanted.report, file)


def budget_of(given: Given) -> Budget:
    """Take the budget out of what was given."""
    try:
        return Budget.model_validate(given.pop("budget", {}))
    except ValidationError as error:
        raise Stop(explain(error, BUDGET_OPTIONS)) from None


def ask(
    flow: Callable[[], Coroutine[Any, Any, Any]],
    models: Iterable[ModelName],
    event: str,
    told: Callable[[Any, str], Exit],
    *,
    quiet: bool,
) -> Exit:
    """Run a flow that asks the members about each row, show its progress, and print what came of it.

    Args:
        flow: Starts the flow.
        models: Who is asked.
        event: The event with which the work ends.
        told: Prints what came of it, given the event's value and the address of the UI, and returns the exit code.
        quiet: Whether no progress is shown.
    """
    warm_up(model.provider for model in models)
    info = connect()
    view = None if quiet else BatchTable() if sys.stderr.isatty() else BatchLines()
    last = LastWord(info.api_url, event, lambda made: told(made, info.ui_url))

    async def work() -> Any:
        with watched_by(*([view] if view else []), last):
            try:
                return await flow()
            finally:
                await close_clients()

    try:
        return last.run(work())
    except BudgetError as error:
        raise Stop(error.message, Exit.BUDGET) from None
    finally:
        if view is not None:
            view.close()


async def estimated(plan: Coroutine[Any, Any, Plan]) -> list[tuple[str, Estimate]]:
    """Estimate what it takes to ask."""
    return await estimates(await plan)


_MEMBERS = "Each member is asked once for each row; votes, stops and cascades are replayed on that:"
_REALLY = "{} is really asked each row; what its members have answered already is cached:"


def show_estimates(
    work: Coroutine[Any, Any, list[tuple[str, Estimate]]],
    *,
    json: bool,
    titles: Mapping[str, str] = MappingProxyType({"members": _MEMBERS}),
) -> Exit:
    """Print what it would take to ask, and call no model.

    Args:
        work: Estimates it, in parts with a name each.
        json: Whether it is printed as JSON.
        titles: What a part is; of one that is not in it, that a panel of this name is really asked.
    """
    connect()
    found = asyncio.run(work)
    if json:
        put_json({name: each.model_dump(mode="json") for name, each in found})
        return Exit.ANSWER
    for number, (name, each) in enumerate(found):
        put("\n" * (number > 0) + titles.get(name, _REALLY.format(name)))
        show_estimate(each)
    return Exit.ANSWER


def told_agreement(made: Agreement, wanted: LabeledOptions, ui_url: str | None = None) -> Exit:
    """Print the agreement of the members."""
    if wanted.json:
        put_json(made.model_dump(mode="json"))
    else:
        show(findings(made))
        say_where(wanted.report and wanted.report / "agreement.html", ui_url, made.flow_run_id)
    return Exit.ANSWER


def say_where(page: Path | None, ui_url: str | None, flow_run_id: str | None) -> None:
    """Say where more is to be seen."""
    if page is not None:
        say(f"Report: {page}")
    if ui_url and flow_run_id:
        say(f"The run in the UI: {ui_url}/runs/flow-run/{flow_run_id}")
