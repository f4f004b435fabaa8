"""`consensus evaluate --judge`: what a panel's free text is worth, where no right answer can be compared."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, validators
from pydantic import ValidationError

from consensus_flows.blocks.check_judges import FreeTextConfig
from consensus_flows.deployments.algorithm_commands import Flow, Given, Name, choose
from consensus_flows.deployments.commands.algorithms.batch import BUDGET_OPTIONS, FROM_1
from consensus_flows.deployments.commands.algorithms.questions import RowFileOptions
from consensus_flows.deployments.findings_view import show
from consensus_flows.deployments.labeled_rows import ask, say_where, show_estimates
from consensus_flows.deployments.options import JUDGING, OUTPUT, SENTENCE, options, options_type
from consensus_flows.deployments.terminal import Exit, Stop, explain, put_json, say
from consensus_flows.flows.algorithms import MAIN, algorithm
from consensus_flows.flows.check_judges import LEAST
from consensus_flows.flows.free_text import evaluate_text
from consensus_flows.flows.text_plan import planned_text, text_estimates
from consensus_flows.tasks.batches.estimate import Estimate
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.evaluation.free_text import FreeTextEvaluation
from consensus_flows.tasks.reports.text_report import findings

OF_JUDGES = ("budget", "fresh", "service_tier", "system", "timeout")
"""Settings of a run that hold for its judges."""
_PARTS = {
    "panel": "The panel is asked each row:",
    "adversarial": "The judges are tested on the built-in adversarial pairs, in both orders:",
    "judges": "They compare the panel's answer with that of each member, in both orders:",
}


@Parameter(name="*")
@dataclass(kw_only=True)
class TextOptions(RowFileOptions):
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
    report: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FOLDER")] = None
    """Folder for the report: evaluation.html, to read, and evaluation.json, which has every row."""
    baseline: Annotated[Path | None, Parameter(group=OUTPUT, metavar="FILE")] = None
    """evaluation.json of an earlier run; the exit code is 5 if the panel wins less often now, by more than chance."""
    dry_run: Annotated[bool, Parameter(group=OUTPUT, negative="")] = False
    """Print the number of calls and the estimated cost by model, of the panel and of the judges, and exit."""
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
    judges = _judges(text, given)
    asked: dict[str, Any] = {}
    models = judges.models()
    if source is None:
        named = {option.path[0]: option.name for option in options(algorithm(flow or MAIN).config_class())}
        useless = [named.get(field, f"--{field}") for field in given if field not in OF_JUDGES]
        useless += ["--name"] * (name is not None) + ["--sample"] * (text.sample is not None)
        useless += ["--attach"] * bool(text.attach) + ["--attach-column"] * (text.attach_column is not None)
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
            "attach_column": text.attach_column,
            "attachments": text.attachments(),
        }
    address = source or text.recorded or ""
    asked |= {"prompt_column": text.prompt_column, "limit": text.limit}
    try:
        if text.dry_run:
            return show_estimates(_estimated(address, judges, asked), json=text.json, titles=_PARTS)
        return ask(
            lambda: evaluate_text(
                address,
                judges,
                concurrency=text.concurrency,
                probe=text.probe,
                report=None if text.report is None else str(text.report),
                baseline=None if text.baseline is None else str(text.baseline),
                anyway=text.anyway,
                **asked,
            ),
            models,
            "evaluated",
            lambda made, ui_url: _told(made, text, ui_url),
            quiet=text.json,
        )
    except ConfigurationError as error:
        raise Stop(f"--{error.field.replace('_', '-')}: {error.reason}" if error.field else error.message) from None


def _judges(text: TextOptions, given: Given) -> FreeTextConfig:
    """Return who judges, and take out of the options what is meant for the judges alone."""
    of_judges = {"members": text.judge, "strong_judge": text.strong_judge}
    of_judges |= {field: given[field] for field in OF_JUDGES if field in given}
    names = {*text.judge, text.strong_judge}
    if priced := [one for one in given.get("prices", ()) if one.rpartition("=")[0].strip() in names]:
        of_judges["prices"] = priced
        given["prices"] = [one for one in given["prices"] if one not in priced]
        if not given["prices"]:
            del given["prices"]
    try:
        return FreeTextConfig.model_validate(of_judges)
    except ValidationError as error:
        options_of = BUDGET_OPTIONS | {"members": "--judge", "strong_judge": "--strong-judge"}
        raise Stop(explain(error, options_of)) from None


async def _estimated(address: str, judges: FreeTextConfig, asked: dict[str, Any]) -> list[tuple[str, Estimate]]:
    return await text_estimates(await planned_text(address, judges, **asked))


def _told(made: FreeTextEvaluation, text: TextOptions, ui_url: str | None) -> Exit:
    """Print the figures and return the exit code."""
    if text.json:
        put_json(made.model_dump(mode="json", exclude={"row_results"}))
    else:
        show(findings(made))
        say_where(text.report and text.report / "evaluation.html", ui_url, made.flow_run_id)
    if made.budget_ended:
        say("consensus: the budget ended before all pairs were judged; the answers are cached")
        return Exit.BUDGET
    if made.refused:
        say(
            f"consensus: the judges are refused: together they are right on {made.adversarial:.0%} of the adversarial pairs, and "
            f"{LEAST:.0%} are needed; name others (`consensus judges check` tests them), add --strong-judge, or --anyway"
        )
        return Exit.JUDGE_REFUSED
    return Exit.LESS_ACCURATE if made.baseline is not None and made.baseline.fell else Exit.ANSWER
