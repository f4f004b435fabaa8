"""`consensus evaluate --judge`: what a panel's free text is worth, where no right answer can be compared."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, validators
from pydantic import ValidationError

from consensus_flows.blocks.check_judges import FreeTextConfig
from consensus_flows.deployments.algorithm_commands import Flow, Given, Name, choose
from consensus_flows.deployments.batch_view import BatchLines, BatchTable
from consensus_flows.deployments.commands.algorithms.batch import BUDGET_OPTIONS, FROM_1
from consensus_flows.deployments.commands.preferences.preference_view import console, table
from consensus_flows.deployments.last_word import LastWord
from consensus_flows.deployments.options import JUDGING, OUTPUT, SENTENCE, options, options_type
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, Stop, explain, put_json, say
from consensus_flows.flows.algorithms import MAIN, algorithm
from consensus_flows.flows.check_judges import LEAST
from consensus_flows.flows.free_text import evaluate_text
from consensus_flows.tasks.calls.providers import close_clients, warm_up
from consensus_flows.tasks.errors import BudgetError, ConfigurationError
from consensus_flows.tasks.evaluation.free_text import FreeTextEvaluation, Interval, JudgeOfText
from consensus_flows.tasks.record import bill_of
from consensus_flows.tasks.watch import watched_by

if TYPE_CHECKING:
    from rich.console import Console

OF_JUDGES = ("budget", "fresh", "service_tier", "system", "timeout")
"""Settings of a run that hold for its judges."""


@Parameter(name="*")
@dataclass(kw_only=True)
class TextOptions:
    """Who judges what, and what is printed."""

    judge: Annotated[list[str], Parameter(group=JUDGING, metavar="MODEL", negative="")]
    """Model that judges the panel's answer beside each member's, in both orders; none of the panel. May be repeated."""
    strong_judge: Annotated[str | None, Parameter(group=JUDGING, metavar="MODEL")] = None
    """Model that decides where the other judges differ, or their verdicts depend on the order."""
    anyway: Annotated[bool, Parameter(group=JUDGING, negative="")] = False
    """Judge even if the judges are right on fewer than 60 % of the adversarial pairs."""
    recorded: Annotated[str | None, Parameter(name="--from", group=OUTPUT, metavar="FILE")] = None
    """Output of a batch, whose recorded answers are judged; the panel is not asked."""
    prompt_column: Annotated[str | None, Parameter(group=OUTPUT, metavar="COLUMN")] = None
    """Column of the prompt; default: prompt, question, or the only one."""
    prompt_template: Annotated[str | None, Parameter(group=OUTPUT, metavar="TEMPLATE")] = None
    """Template of the prompt with {column} placeholders, instead of a column."""
    id_column: Annotated[str | None, Parameter(group=OUTPUT, metavar="COLUMN")] = None
    """Column that identifies a row; default: id if there is one, else the row number."""
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
    json: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False
    """Print the evaluation as JSON on stdout, and nothing else."""


def command(flow: str | None) -> Callable[..., Exit]:
    """Make the command for the panels of one algorithm, with its options."""

    def run(
        input: Annotated[str | None, SENTENCE] = None,
        *,
        flow: Flow = flow,
        name: Name = None,
        text: TextOptions,
        given: Given | None = None,
    ) -> Exit:
        """Measure what a panel's free text is worth: judges compare its answer with that of each member, in both orders.

        Win rates are given as they are, and for answers of equal length. Judges that are right on fewer than 60 % of the built-in
        adversarial pairs are refused; the exit code is then 6.

        Args:
            input: File of prompts (.csv, .tsv, .jsonl, .json, .parquet) or fsspec URL.
            flow: Algorithm of the panel; default: consortium, or that of --name.
            name: Name of a saved configuration; options override it.
            text: Who judges what, and what is printed.
            given: The settings.
        """
        if (input is None) == (text.recorded is None):
            raise Stop("input: give a file of prompts, or --from FILE with the output of a batch")
        return _run(input, text, {**(given or {})}, flow, name)

    run.__annotations__["given"] = options_type(algorithm(flow or MAIN).config_class())
    return run


def _run(source: str | None, text: TextOptions, given: Given, flow: str | None, name: str | None) -> Exit:
    of_judges = {"members": text.judge, "strong_judge": text.strong_judge}
    of_judges |= {field: given[field] for field in OF_JUDGES if field in given}
    try:
        judges = FreeTextConfig.model_validate(of_judges)
    except ValidationError as error:
        names = BUDGET_OPTIONS | {"members": "--judge", "strong_judge": "--strong-judge"}
        raise Stop(explain(error, names)) from None
    asked: dict[str, Any] = {}
    models = judges.models()
    if source is None:
        named = {option.path[0]: option.name for option in options(algorithm(flow or MAIN).config_class())}
        useless = [named.get(field, f"--{field}") for field in given if field not in OF_JUDGES]
        useless += ["--name"] * (name is not None) + ["--sample"] * (text.sample is not None)
        if useless:
            raise Stop(f"--from: the panel is not asked, so {', '.join(useless)} would have no effect")
    else:
        one, config = choose(name, given, flow or (None if name else MAIN))
        models += config.models()
        asked = {
            "flow": one.name,
            "config": config.model_dump(mode="json", exclude_defaults=True, exclude={"budget"}),
            "sample": text.sample,
            "sample_seed": text.sample_seed,
            "prompt_template": text.prompt_template,
            "id_column": text.id_column,
            "concurrency": text.concurrency,
            "probe": text.probe,
        }
    warm_up(model.provider for model in models)
    info = connect()
    view = None if text.json else BatchTable() if sys.stderr.isatty() else BatchLines()
    last = LastWord(info.api_url, "evaluated", lambda made: _told(made, text, info.ui_url))

    async def work() -> FreeTextEvaluation:
        with watched_by(*([view] if view else []), last):
            try:
                made: FreeTextEvaluation = await evaluate_text(
                    source or text.recorded or "",
                    judges,
                    prompt_column=text.prompt_column,
                    limit=text.limit,
                    anyway=text.anyway,
                    **asked,
                )
            finally:
                await close_clients()
        return made

    try:
        return last.run(work())
    except BudgetError as error:
        raise Stop(error.message, Exit.BUDGET) from None
    except ConfigurationError as error:
        raise Stop(f"--{error.field.replace('_', '-')}: {error.reason}" if error.field else error.message) from None
    finally:
        if view is not None:
            view.close()


def _told(made: FreeTextEvaluation, text: TextOptions, ui_url: str) -> Exit:
    """Print the figures and return the exit code."""
    if text.json:
        put_json(made.model_dump(mode="json"))
    else:
        _show(made, console())
        if made.flow_run_id:
            say(f"The run in the UI: {ui_url}/runs/flow-run/{made.flow_run_id}")
    if made.budget_ended:
        say("consensus: the budget ended before all pairs were judged; the answers are cached")
        return Exit.BUDGET
    if made.refused:
        say(
            f"consensus: the judges are refused: together they are right on {made.adversarial:.0%} of the adversarial pairs, and "
            f"{LEAST:.0%} are needed; name others (`consensus judges check` tests them), add --strong-judge, or --anyway"
        )
        return Exit.JUDGE_REFUSED
    return Exit.ANSWER


def _show(made: FreeTextEvaluation, screen: "Console") -> None:
    lines = [
        f"{made.rows} questions, {made.left_out} left out; the judges are right on {made.adversarial:.0%} of the adversarial pairs"
    ]
    if made.unread:
        lines.append(f"{made.unread} pairs are left out, because no verdict could be read")
    if made.strong_judge and made.judges:
        lines.append(f"{made.strong_judge} decided {made.decided_by_strong_judge} pairs")
    for line in lines:
        screen.print(line, markup=False, highlight=False)
    if made.members:
        header = ["panel against", "questions", "won", "tied", "lost", "win rate", "at equal length", "longer"]
        screen.print(
            table(
                "The panel's answer beside each member's",
                header,
                [
                    [
                        one.member,
                        *map(str, (one.n, one.wins, one.ties, one.losses)),
                        _share(one.win_rate, one.interval),
                        _share(one.length_controlled, one.length_controlled_interval),
                        f"{one.longer:.0%}",
                    ]
                    for one in made.members
                ],
            )
        )
    if made.judges:
        header = ["judge", "pairs", "consistent", "flips", "to the first shown", "unread"]
        screen.print(table("Judges", header, [_steadiness(one) for one in made.judges]))
    screen.print(f"{bill_of(made)} for {made.calls} calls of judges", markup=False, highlight=False)


def _share(value: float, interval: Interval) -> str:
    return f"{value:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"


def _steadiness(judge: JudgeOfText) -> list[str]:
    figures = judge.n, judge.consistent, judge.flips, judge.flips_to_the_one_shown_first, judge.unread
    return [judge.judge, *map(str, figures)]
