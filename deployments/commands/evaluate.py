"""`consensus evaluate`: what a panel is worth on labeled rows."""

import asyncio
import sys
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from cyclopts import Parameter, validators
from pydantic import ValidationError

from consensus_flows.blocks.member import ModelName, counted, members_of
from consensus_flows.blocks.settings import Budget
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.deployments.algorithm_commands import Flow, Given, choose
from consensus_flows.deployments.batch_view import BatchLines, BatchTable
from consensus_flows.deployments.commands.algorithms.batch import BUDGET_OPTIONS, FROM_1, as_options, show_estimate
from consensus_flows.deployments.findings_view import show
from consensus_flows.deployments.last_word import LastWord
from consensus_flows.deployments.options import COUNT, OUTPUT, SENTENCE, options, options_type
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, Stop, explain, put, put_json, say
from consensus_flows.flows.agreement import agreement_of_recorded, report_agreement
from consensus_flows.flows.algorithms import algorithm
from consensus_flows.flows.ask_rows import VOTE, Plan, estimates, planned
from consensus_flows.flows.evaluate import evaluate, finish, from_recorded, read_baseline
from consensus_flows.tasks.batches.estimate import Estimate
from consensus_flows.tasks.batches.results import member_key
from consensus_flows.tasks.batches.source import Selection, Source
from consensus_flows.tasks.calls.providers import close_clients, warm_up
from consensus_flows.tasks.errors import BudgetError, ConfigurationError
from consensus_flows.tasks.evaluation.agreement import Agreement
from consensus_flows.tasks.evaluation.evaluation import Evaluation, Split
from consensus_flows.tasks.reports.agreement_report import findings as agreement_findings
from consensus_flows.tasks.reports.evaluation_report import findings
from consensus_flows.tasks.watch import watched_by

RECORDED = {"members", COUNT, "extract"}
"""Settings that mean something where no call is made."""
NEED_LABELS = {"anyway", "baseline", "by", "goal", "margin", "plan", "save", "seed", "split"}
"""Options that mean nothing without labels."""
NEED_CALLS = {"concurrency", "limit", "probe", "prompt_column", "prompt_template", "sample", "sample_seed"}
"""Options that mean nothing where no call is made."""


@Parameter(name="*")
@dataclass(kw_only=True)
class LabeledOptions:
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
            selection=Selection(self.limit, self.sample, self.sample_seed),
        )

    def given(self) -> dict[str, Any]:
        """Return what the flows take under the same names."""
        names = (
            "prompt_column",
            "prompt_template",
            "id_column",
            "by",
            "limit",
            "sample",
            "sample_seed",
            "concurrency",
            "probe",
        )
        return {name: getattr(self, name) for name in names}


@Parameter(name="*")
@dataclass(kw_only=True)
class EvaluateOptions(LabeledOptions):
    """What is read, how it is judged, and what is written."""

    name: Annotated[list[str] | None, Parameter(group=OUTPUT, metavar="NAME", negative="")] = None
    """Saved configuration of any algorithm to compare; without -m, its members are the panel. May be repeated."""
    plan: Annotated[list[str] | None, Parameter(group=OUTPUT, metavar="PLAN", negative="")] = None
    """A further way to ask: cascade:A,B>C, cascade-vote:A,B,C, stop-4, ... May be repeated."""
    split: Annotated[Split, Parameter(group=OUTPUT)] = "folds"
    """folds: judge each fifth of the rows by plans fitted on the others; half: fit on one half, judge the other."""
    seed: Annotated[int, Parameter(group=OUTPUT, metavar="N")] = 0
    """Seed of --split half."""
    baseline: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FILE")] = None
    """evaluation.json of an earlier run; the exit code is 5 if the panel is less accurate now, by more than chance."""
    anyway: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False
    """Judge rows on which a saved panel was calibrated, too."""


@Parameter(name="*")
@dataclass(kw_only=True)
class ReadingOptions(EvaluateOptions):
    """Those of an algorithm that reads no answers itself."""

    extract: Annotated[str, Parameter(group=OUTPUT, metavar="TEXT")] = "text"
    """How to read the answer: number, choice, choice:A-D, json:FIELD, label:A,B, text, text:FIELD, exact or exact:FIELD."""


def command(flow: str | None) -> Callable[..., Exit]:
    """Make the command for the panels of one algorithm, with its options."""
    config = algorithm(flow or VOTE).config_class()
    options_class = EvaluateOptions if "extract" in config.model_fields else ReadingOptions

    def run(
        input: Annotated[str | None, SENTENCE] = None,
        *,
        flow: Flow = flow,
        evaluate: EvaluateOptions | None = None,
        given: Given | None = None,
    ) -> Exit:
        """Measure what a panel is worth on rows whose right answers you know.

        For free text, which has no right answer, give --judge: `consensus evaluate --judge provider/model --help`.

        Each member is asked once for each row. Every way to ask them (the best one alone, votes, stops, cascades, learned
        votes) is replayed on these answers, and judged on rows that it was not fitted on. A panel of another algorithm, or a
        saved one, is really asked. If it is killed, run the same command again: answers that were paid for are cached.

        Without --label only the members' agreement is reported: who gives the same answer as whom, and what that costs.

        Args:
            input: File of labeled prompts (.csv, .tsv, .jsonl, .json, .parquet) or fsspec URL.
            flow: Algorithm; default: vote, or that of --name. `consensus evaluate --flow consortium --help` shows its options.
            evaluate: What is read, and how it is judged.
            given: The settings.
        """
        try:
            wanted = evaluate or options_class()
            if wanted.recorded is not None:
                return _replay(input, wanted, given or {})
            if input is None:
                raise Stop("input: give a file of labeled rows, or --from FILE with recorded answers")
            return _run(input, wanted, {**(given or {})}, flow)
        except ConfigurationError as error:
            raise Stop(as_options(error.message, EvaluateOptions)) from None

    run.__annotations__ |= {"given": options_type(config), "evaluate": options_class | None}
    return run


def recorded_members(source: str | None, given: Given) -> list[str]:
    """Return the members whose recorded answers are read, as a batch's output names them; without a server.

    Raises:
        Stop: If something is given that would have no effect.
    """
    if source is not None:
        raise Stop("--from: the rows of that file are read; give no other input")
    named = {option.path[0]: option.name for option in options(VoteConfig)}
    if useless := [named.get(name, f"--{name}") for name in given if name not in RECORDED]:
        raise Stop(f"--from: no model is asked, so {', '.join(useless)} would have no effect")
    try:
        members = members_of([counted(one, given.get(COUNT, 1)) for one in given.get("members", [])])
    except ValueError as error:
        raise Stop(f"-m: {error}") from None
    return [member_key(str(member)) for member in members]


def _replay(source: str | None, wanted: EvaluateOptions, given: Given) -> Exit:
    """Evaluate recorded answers."""
    members = recorded_members(source, given)
    if wanted.name:
        raise Stop("--name: with --from no model is asked; give the members with -m")
    if wanted.dry_run:
        return no_calls(json=wanted.json)
    file = wanted.recorded or ""
    if wanted.label is None:
        return told_agreement(replayed_agreement(wanted, members, given), wanted)
    earlier = None if wanted.baseline is None else read_baseline(wanted.baseline)
    made = from_recorded(
        file,
        wanted.label,
        members=members,
        extract=given.get("extract"),
        prices=wanted.prices,
        id_column=wanted.id_column,
        by=wanted.by,
        split=wanted.split,
        seed=wanted.seed,
        named=wanted.plan or [],
    )
    return _told(finish(made, earlier, wanted.report, file), wanted)


def no_calls(*, json: bool) -> Exit:
    """Print the estimate of a command that makes no call."""
    put_json({}) if json else put("No call is made: the answers are recorded.")
    return Exit.ANSWER


def replayed_agreement(wanted: LabeledOptions, members: list[str], given: Given) -> Agreement:
    """Measure the agreement on recorded answers, and write the report."""
    file = wanted.recorded or ""
    made = agreement_of_recorded(
        file, members=members, extract=given.get("extract"), prices=wanted.prices, id_column=wanted.id_column
    )
    return report_agreement(made, wanted.report, file)


def _run(source: str, wanted: EvaluateOptions, given: Given, flow: str | None) -> Exit:
    budget = budget_of(given)
    names = wanted.name or []
    if wanted.label is None and len(names) > ("members" not in given):
        raise Stop("--name: without --label panels cannot be compared: give the members of one")
    # Without members of its own the panel is the first saved one.
    base = names[0] if names and "members" not in given else None
    one, config = choose(base, given, flow or (None if base else VOTE))
    if wanted.label is None:
        names = []
    reading = getattr(wanted, "extract", None)
    if wanted.baseline is not None:
        read_baseline(wanted.baseline)  # before the first call, and for an estimate too
    if wanted.dry_run:
        return show_estimates(
            estimated(
                planned(
                    wanted.source(source),
                    wanted.label,
                    config,
                    one.name,
                    names,
                    extract=reading,
                    by=wanted.by,
                    anyway=wanted.anyway,
                )
            ),
            json=wanted.json,
        )
    return ask(
        lambda: evaluate(
            source,
            wanted.label,
            flow=one.name,
            config=config.model_dump(mode="json", exclude_defaults=True),
            names=names,
            extract=reading,
            plans=wanted.plan or [],
            budget=budget,
            report=None if wanted.report is None else str(wanted.report),
            baseline=None if wanted.baseline is None else str(wanted.baseline),
            split=wanted.split,
            seed=wanted.seed,
            anyway=wanted.anyway,
            **wanted.given(),
        ),
        config.models(),
        "evaluated",
        lambda made, ui_url: _told(made, wanted, ui_url),
        quiet=wanted.json,
    )


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
        show(agreement_findings(made))
        say_where(wanted.report and wanted.report / "agreement.html", ui_url, made.flow_run_id)
    return Exit.ANSWER


def say_where(page: Path | None, ui_url: str | None, flow_run_id: str | None) -> None:
    """Say where more is to be seen."""
    if page is not None:
        say(f"Report: {page}")
    if ui_url and flow_run_id:
        say(f"The run in the UI: {ui_url}/runs/flow-run/{flow_run_id}")


def _told(made: Evaluation | Agreement, wanted: EvaluateOptions, ui_url: str | None = None) -> Exit:
    """Print the figures and return the exit code."""
    if isinstance(made, Agreement):
        return told_agreement(made, wanted, ui_url)
    if wanted.json:
        put_json(made.model_dump(mode="json", exclude={"row_results"}))
    else:
        show(findings(made))
        say_where(wanted.report and wanted.report / "evaluation.html", ui_url, made.flow_run_id)
    return Exit.LESS_ACCURATE if made.baseline is not None and made.baseline.fell else Exit.ANSWER
