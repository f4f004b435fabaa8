"""`consensus calibrate`: the best way to ask a panel, fitted on labeled rows and saved."""

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter, validators
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consensus_flows.blocks.vote import Vote, VoteConfig
from consensus_flows.deployments.algorithm_commands import Given, choose
from consensus_flows.deployments.commands.algorithms.batch import as_options
from consensus_flows.deployments.commands.evaluate import (
    LabeledOptions,
    ask,
    budget_of,
    estimated,
    recorded_members,
    show_estimates,
)
from consensus_flows.deployments.commands.settings.saved import check_name, save_block
from consensus_flows.deployments.options import OUTPUT, SENTENCE, options_type
from consensus_flows.deployments.terminal import Exit, Stop, put, put_json
from consensus_flows.flows.calibrate import (
    VOTE,
    CalibratedPanel,
    calibrate,
    from_recorded,
    goal_of,
    name_of,
    planned_for,
)
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.evaluation.calibrating import MARGIN
from consensus_flows.tasks.reports.calibration_report import HEADER, facts, more, sentence, table


@Parameter(name="*")
@dataclass(kw_only=True)
class CalibrateOptions(LabeledOptions):
    """What is read, what the panel should be good at, and where it is saved."""

    save: Annotated[str | None, Parameter(group=OUTPUT, metavar="NAME")] = None
    """Name to save the calibrated panel under; with --by, that of a category is saved as NAME-CATEGORY."""
    name: Annotated[str | None, Parameter(group=OUTPUT, metavar="NAME")] = None
    """Saved vote to calibrate."""
    goal: Annotated[str, Parameter(group=OUTPUT, metavar="GOAL")] = "accuracy"
    """accuracy; cost, the cheapest that loses no more than --margin; or budget=USD, the best within so much a question."""
    margin: Annotated[float, Parameter(group=OUTPUT, validator=validators.Number(gte=0, lt=1), metavar="SHARE")] = (
        MARGIN
    )
    """Accuracy that may be lost with --goal cost, for example 0.01 for a point."""


def run(
    input: Annotated[str | None, SENTENCE] = None,
    *,
    calibrate: CalibrateOptions,
    given: Given | None = None,
) -> Exit:
    """Find the best way to ask a panel on rows whose right answers you know, and save it.

    Each member is asked once for each row. With fewer than 50 labels votes are weighted; up to 199 another plan is taken only
    where it clearly gains; from 200 a learned vote and a plan by the goal are fitted. Members that add nothing are dropped.

    Args:
        input: File of labeled prompts (.csv, .tsv, .jsonl, .json, .parquet) or fsspec URL.
        calibrate: What is read, and what the panel should be good at.
        given: The settings.
    """
    try:
        return _run(input, calibrate, {**(given or {})})
    except ConfigurationError as error:
        raise Stop(as_options(error.message, CalibrateOptions)) from None


run.__annotations__["given"] = options_type(VoteConfig)


def _run(source: str | None, wanted: CalibrateOptions, given: Given) -> Exit:
    goal = goal_of(wanted.goal, wanted.margin)
    if wanted.save is not None:
        check_name(wanted.save, Vote.get_block_type_slug())
    if wanted.recorded is not None:
        if wanted.name is not None:
            raise Stop("--name: with --from no model is asked; give the members with -m")
        panels = from_recorded(
            wanted.recorded,
            wanted.label,
            goal,
            extract=given.get("extract"),
            members=recorded_members(source, given),
            prices=wanted.prices,
            id_column=wanted.id_column,
            by=wanted.by,
        )
        code = _told(panels, wanted)
        _save(panels, wanted)
        return code
    if source is None:
        raise Stop("input: give a file of labeled rows, or --from FILE with recorded answers")
    if wanted.prices is not None:
        raise Stop("--prices: for recorded answers, with --from; for a run, --price MODEL=IN/OUT")
    budget = budget_of(given)
    _, config = choose(wanted.name, given, VOTE)
    if wanted.dry_run:
        plan = planned_for(wanted.source(source), wanted.label, config, by=wanted.by)
        return show_estimates(estimated(plan), json=wanted.json)
    made: list[CalibratedPanel] = []

    def told(panels: list[CalibratedPanel], _: str) -> Exit:
        made.extend(panels)
        return _told(panels, wanted)

    code = ask(
        lambda: calibrate(
            source,
            wanted.label,
            config=config.model_dump(mode="json", exclude_defaults=True),
            goal=wanted.goal,
            margin=wanted.margin,
            budget=budget,
            **wanted.given(),
        ),
        config.models(),
        "calibrated",
        told,
        quiet=wanted.json,
    )
    _save(made, wanted)
    return code


def _told(panels: list[CalibratedPanel], wanted: CalibrateOptions) -> Exit:
    """Print what came of it."""
    if wanted.json:
        put_json([one.model_dump(mode="json", exclude={"config"}) for one in panels])
        return Exit.ANSWER
    console = Console()
    for one in panels:
        put(f"{one.category + ': ' if one.category else ''}{sentence(one.found)}.\n")
        first = Table(box=None, show_header=False, pad_edge=False)
        for name, text in facts(one.found):
            first.add_row(Text(name, style="dim"), Text(text))
        console.print(first)
        put("")
        if one.found.tried:
            plans = Table(box=None, header_style="dim", pad_edge=False)
            for name in HEADER:
                plans.add_column(name, justify="left" if name == "plan" else "right", overflow="fold")
            for row in table(one.found):
                plans.add_row(*map(Text, row))
            console.print(plans)
            put("")
        for text in more(one.found):
            put(text)
    return Exit.ANSWER


def _save(panels: list[CalibratedPanel], wanted: CalibrateOptions) -> None:
    """Save the panels."""
    if wanted.save is not None:
        for one in panels:
            save_block(name_of(wanted.save, one.category), Vote(config=one.config), one.config.models())
