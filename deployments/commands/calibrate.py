"""`consensus calibrate`: the best way to ask a panel, fitted on labeled rows and saved."""

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter, validators

from consensus_flows.blocks.vote import Vote, VoteConfig
from consensus_flows.deployments.algorithm_commands import Given, choose
from consensus_flows.deployments.commands.algorithms.batch import as_options
from consensus_flows.deployments.commands.settings.saved import check_name, save_block
from consensus_flows.deployments.findings_view import show
from consensus_flows.deployments.labeled_rows import (
    LabeledOptions,
    ask,
    budget_of,
    estimated,
    no_calls,
    recorded_panel,
    replayed_agreement,
    say_where,
    show_estimates,
    told_agreement,
)
from consensus_flows.deployments.options import OUTPUT, SENTENCE, options_type
from consensus_flows.deployments.terminal import Exit, Stop, put_json
from consensus_flows.flows.ask_rows import VOTE
from consensus_flows.flows.calibrate import (
    CalibratedPanel,
    calibrate,
    from_recorded,
    goal_of,
    names_of,
    planned_for,
    report_calibrations,
)
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.evaluation.agreement import Agreement
from consensus_flows.tasks.evaluation.calibrating import MARGIN, Goal
from consensus_flows.tasks.reports.calibration_report import findings


@Parameter(name="*")
@dataclass(kw_only=True)
class CalibrateOptions(LabeledOptions):
    """What is read, what the panel should be good at, and where it is saved."""

    save: Annotated[str | None, Parameter(group=OUTPUT, metavar="NAME")] = None
    """Name to save the calibrated panel under; with --by, that of a category is saved as NAME-CATEGORY."""
    name: Annotated[str | None, Parameter(group=OUTPUT, metavar="NAME")] = None
    """Saved vote to calibrate; with --from, only its members and extraction are used."""
    goal: Annotated[str, Parameter(group=OUTPUT, metavar="GOAL")] = "accuracy"
    """accuracy; cost, the cheapest that loses no more than --margin; or budget=USD, the best within so much a question."""
    margin: Annotated[float, Parameter(group=OUTPUT, validator=validators.Number(gte=0, lt=1), metavar="SHARE")] = (
        MARGIN
    )
    """Accuracy that may be lost with --goal cost, for example 0.01 for a point."""


def run(
    input: Annotated[str | None, SENTENCE] = None,
    *,
    calibrate: CalibrateOptions | None = None,
    given: Given | None = None,
) -> Exit:
    """Find the best way to ask a panel on rows whose right answers you know, and save it.

    Each member is asked once for each row. With fewer than 50 labels votes are weighted; up to 199 another plan is taken only
    where it clearly gains; from 200 a learned vote and a plan by the goal are fitted. Members that add nothing are dropped.
    Without --label only the members' agreement is reported.

    Args:
        input: File of labeled prompts (.csv, .tsv, .jsonl, .json, .parquet) or fsspec URL.
        calibrate: What is read, and what the panel should be good at.
        given: The settings.
    """
    try:
        return _run(input, calibrate or CalibrateOptions(), {**(given or {})})
    except ConfigurationError as error:
        raise Stop(as_options(error.message, CalibrateOptions)) from None


run.__annotations__["given"] = options_type(VoteConfig)


def _run(source: str | None, wanted: CalibrateOptions, given: Given) -> Exit:
    goal = goal_of(wanted.goal, wanted.margin)
    if wanted.save is not None:
        check_name(wanted.save, Vote.get_block_type_slug())
    if wanted.recorded is not None:
        return _replay(source, wanted, given, goal)
    if source is None:
        raise Stop("input: give a file of labeled rows, or --from FILE with recorded answers")
    budget = budget_of(given)
    _, config = choose(wanted.name, given, VOTE)
    if wanted.dry_run:
        plan = planned_for(wanted.source(source), wanted.label, config, by=wanted.by, attachments=wanted.attachments())
        return show_estimates(estimated(plan), json=wanted.json)
    made: list[CalibratedPanel] = []

    def told(found: list[CalibratedPanel] | Agreement, ui_url: str) -> Exit:
        if isinstance(found, Agreement):
            return told_agreement(found, wanted, ui_url)
        made.extend(found)
        return _told(found, wanted)

    code = ask(
        lambda: calibrate(
            source,
            wanted.label,
            config=config.model_dump(mode="json", exclude_defaults=True),
            goal=wanted.goal,
            margin=wanted.margin,
            budget=budget,
            report=None if wanted.report is None else str(wanted.report),
            **wanted.given(),
        ),
        config.models(),
        "calibrated",
        told,
        quiet=wanted.json,
    )
    _save(made, wanted)
    return code


def _replay(source: str | None, wanted: CalibrateOptions, given: Given, goal: Goal) -> Exit:
    """Calibrate on recorded answers."""
    members, extract = recorded_panel(source, given, [wanted.name] if wanted.name else [])
    if wanted.dry_run:
        return no_calls(json=wanted.json)
    if wanted.label is None:
        return told_agreement(replayed_agreement(wanted, members, extract), wanted)
    file = wanted.recorded or ""
    panels = from_recorded(
        file,
        wanted.label,
        goal,
        extract=extract,
        members=members,
        prices=wanted.prices,
        id_column=wanted.id_column,
        by=wanted.by,
    )
    report_calibrations(panels, wanted.report, file)
    code = _told(panels, wanted)
    _save(panels, wanted)
    return code


def _told(panels: list[CalibratedPanel], wanted: CalibrateOptions) -> Exit:
    """Print what came of it."""
    if wanted.json:
        put_json([one.model_dump(mode="json", exclude={"config"}) for one in panels])
        return Exit.ANSWER
    for one in panels:
        show(findings(one.category, one.found))
    say_where(wanted.report and wanted.report / "calibration.html", None, None)
    return Exit.ANSWER


def _save(panels: list[CalibratedPanel], wanted: CalibrateOptions) -> None:
    """Save the panels."""
    if wanted.save is not None:
        names = names_of(wanted.save, [one.category for one in panels])
        for one in panels:
            save_block(names[one.category], Vote(config=one.config), one.config.models())
