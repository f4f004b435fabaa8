"""`consensus evaluate`: what a panel is worth on labeled rows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from consensus_flows.deployments.algorithm_commands import Flow, Given, choose
from consensus_flows.deployments.commands.algorithms.batch import as_options
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
from consensus_flows.flows.algorithms import algorithm
from consensus_flows.flows.ask_rows import VOTE, planned
from consensus_flows.flows.evaluate import evaluate, finish, from_recorded, read_baseline
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.evaluation.agreement import Agreement
from consensus_flows.tasks.evaluation.evaluation import Evaluation, Split
from consensus_flows.tasks.reports.evaluation_report import findings


@Parameter(name="*")
@dataclass(kw_only=True)
class EvaluateOptions(LabeledOptions):
    """What is read, how it is judged, and what is written."""

    name: Annotated[list[str] | None, Parameter(group=OUTPUT, metavar="NAME", negative="")] = None
    """Saved configuration of any algorithm to compare; without -m, its members are the panel. May be repeated. With --from, one
    whose members and extraction are used."""
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


def _replay(source: str | None, wanted: EvaluateOptions, given: Given) -> Exit:
    """Evaluate recorded answers."""
    members, extract = recorded_panel(source, given, wanted.name or [])
    if wanted.dry_run:
        return no_calls(json=wanted.json)
    file = wanted.recorded or ""
    if wanted.label is None:
        return told_agreement(replayed_agreement(wanted, members, extract), wanted)
    earlier = None if wanted.baseline is None else read_baseline(wanted.baseline)
    made = from_recorded(
        file,
        wanted.label,
        members=members,
        extract=extract,
        prices=wanted.prices,
        id_column=wanted.id_column,
        by=wanted.by,
        split=wanted.split,
        seed=wanted.seed,
        named=wanted.plan or [],
    )
    return _told(finish(made, earlier, wanted.report, file), wanted)


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
                    attachments=wanted.attachments(),
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
