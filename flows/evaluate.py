"""Evaluate a panel on labeled rows: each member is asked once for each row, and every way to ask them is replayed on that.

A panel whose later calls depend on earlier ones is really asked each row. Without labels, the members' agreement is measured.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from prefect import flow as prefect_flow
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.logging import get_logger
from prefect.runtime import flow_run
from pydantic import Field, ValidationError

from consensus_flows.blocks.settings import Budget
from consensus_flows.flows.agreement import end_with_agreement
from consensus_flows.flows.algorithms import FlowName
from consensus_flows.flows.ask_rows import VOTE, planned, run_plan
from consensus_flows.flows.run import Attachments
from consensus_flows.flows.saved_algorithm import settings_of
from consensus_flows.tasks.addresses import input_address
from consensus_flows.tasks.batches.source import Selection, Source
from consensus_flows.tasks.calls.budget import spending
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.evaluation.agreement import Agreement
from consensus_flows.tasks.evaluation.evaluation import Evaluation, Split, compared, evaluate_rows
from consensus_flows.tasks.evaluation.labelled import read_answers, read_prices, read_recorded
from consensus_flows.tasks.files import place
from consensus_flows.tasks.reports.agreement_report import of_agreement
from consensus_flows.tasks.reports.evaluation_page import write_evaluation
from consensus_flows.tasks.reports.evaluation_report import findings, of_evaluation
from consensus_flows.tasks.reports.findings import markdown
from consensus_flows.tasks.reports.markdown import cell
from consensus_flows.tasks.reports.page import write_report
from consensus_flows.tasks.reports.verdict import Verdict, concluded
from consensus_flows.tasks.watch import emit

RESULT = "evaluation.json"


def from_recorded(
    address: str,
    label: str,
    *,
    members: Sequence[str] = (),
    extract: str | None = None,
    prices: Path | None = None,
    id_column: str | None = None,
    by: str | None = None,
    **judging: Any,
) -> Evaluation:
    """Judge every way to ask the members on answers that were recorded. No call is made.

    Args:
        address: The rows, in the shape of a batch's output.
        label: The column of the right answer.
        members: Names of the members, in order; empty for all.
        extract: How answers are read out of the texts; None to take them as they were read.
        prices: File of prices, for rows that have tokens and no cost.
        id_column: The column that tells rows apart.
        by: The column of the category.
        judging: Further arguments of `evaluate_rows`.

    Raises:
        ConfigurationError: Naming what cannot be used.
    """
    labelled = read_recorded(address, label, extract, id_column, by)
    answered = read_answers(labelled, members, extract, None if prices is None else read_prices(prices))
    return evaluate_rows(answered, extract=extract, **judging)


def read_baseline(path: Path) -> Evaluation:
    """Read an earlier evaluation.

    Raises:
        ConfigurationError: If it cannot be read.
    """
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"baseline: {path} cannot be read: {error.strerror}") from None
    except ValidationError:
        raise ConfigurationError(f"baseline: {path} is not an {RESULT} written by --report") from None


def finish(made: Evaluation, baseline: Evaluation | None, report: Path | None, title: str = "") -> Evaluation:
    """Compare with an earlier evaluation, and write the report."""
    if baseline is not None:
        made.baseline = compared(made, baseline)
    if report is not None:
        write_report(report, "evaluation", made, lambda file: write_evaluation(file, made, title=_name(title)))
    return made


def _name(address: str) -> str:
    return PurePosixPath(address).name


def _state(made: Evaluation | Agreement) -> Verdict:
    return of_agreement(made) if isinstance(made, Agreement) else of_evaluation(made)


def run_name() -> str:
    """Name a flow run after what is evaluated, and its input."""
    given = flow_run.parameters
    named = [one for one in (given.get("config"), *(given.get("names") or ())) if isinstance(one, str) and one]
    return f"{', '.join(dict.fromkeys(named)) or given.get('flow') or VOTE} · {_name(str(given.get('input') or ''))}"


@prefect_flow(
    name="evaluate",
    flow_run_name=run_name,
    persist_result=True,
    result_serializer="json",
    validate_parameters=True,
)
@concluded(_state)
async def evaluate(
    input: str,
    label: str | None = None,
    *,
    flow: FlowName | None = None,
    config: dict[str, Any] | str | None = None,
    names: list[str] | None = None,
    plans: list[str] | None = None,
    extract: str | None = None,
    prompt_column: str | None = None,
    prompt_template: str | None = None,
    id_column: str | None = None,
    attach_column: str | None = None,
    attachments: Attachments = None,
    by: str | None = None,
    limit: Annotated[int, Field(ge=1)] | None = None,
    sample: Annotated[int, Field(ge=1)] | None = None,
    sample_seed: int = 0,
    split: Split = "folds",
    seed: int = 0,
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 8,
    budget: Budget | None = None,
    report: str | None = None,
    baseline: str | None = None,
    anyway: bool = False,
    probe: bool = True,
) -> Evaluation | Agreement:
    """Evaluate a panel on labeled rows. Killed half-way, it is simply run again: answers that were paid for are cached.

    Args:
        input: File of labeled prompts (.csv, .tsv, .jsonl, .json, .parquet), on the machine where the run is, or an fsspec
            address.
        label: The column of the right answer. Rows without one are left out. Empty: no row has one, and only the members'
            agreement is measured.
        flow: The algorithm; empty: that of the saved configuration, else vote.
        config: Its settings, or the name of a saved configuration. Empty: the one called default.
        names: Names of saved configurations to compare, of any algorithm.
        plans: Names of further ways to ask the members, for example cascade:openai/a,openai/b>openai/c.
        extract: How answers are read where the algorithm reads none: number, choice, json:FIELD, label:A,B, text, ...
        prompt_column: The column that is the prompt; empty: prompt, question, or the only one.
        prompt_template: The prompt as a text with {column} in it, instead of a column.
        id_column: The column that tells rows apart; empty: id where there is one, else the row number.
        attach_column: The column of images, PDFs and text files that the prompt is about: a path or URL, a JSON list of
            them, or one a line. Paths begin at the folder of the input.
        attachments: Files that every prompt is about: paths or URLs.
        by: The column of the category, for the report.
        limit: Take only the first rows, at most this many.
        sample: Take only this many rows, drawn at random.
        sample_seed: Draws other rows.
        split: On what plans are fitted: `folds` judges each fifth of the rows by plans that are fitted on the others, `half`
            one half by the other.
        seed: Draws other halves.
        concurrency: Rows that are worked on at once.
        budget: What the whole evaluation may spend.
        report: Folder for evaluation.html, to read, and evaluation.json, which has every row; without labels agreement.html and
            agreement.json.
        baseline: An evaluation.json of an earlier run; the run ends as AccuracyFell if the panel is less accurate now.
        anyway: Judge rows on which a panel was calibrated, too.
        probe: Look for models that cannot answer before the first row.
    """
    if label is None and (names or plans or baseline):
        raise ConfigurationError(
            "names, plans and baseline are compared by what is right: name the column of labels", field="label"
        )
    one, settings = await settings_of(flow, config, VOTE)
    earlier = None if baseline is None else read_baseline(place(baseline, "baseline"))
    source = Source(
        input_address(input),
        prompt_column=prompt_column,
        prompt_template=prompt_template,
        id_column=id_column,
        attach_column=attach_column,
        selection=Selection(limit, sample, sample_seed),
    )
    plan = await planned(
        source,
        label,
        settings,
        one,
        names or (),
        extract=extract,
        by=by,
        anyway=anyway,
        attachments=attachments or (),
    )
    folder = None if report is None else place(report, "report")
    with spending(budget or settings.budget):
        answered, runs = await run_plan(plan, concurrency=concurrency, probe=probe)
    if label is None:
        return await end_with_agreement(answered, plan.asking.extract, "evaluated", folder, input)
    made = evaluate_rows(answered, extract=plan.asking.extract, panels=runs, split=split, seed=seed, named=plans or ())
    made.flow_run_id = flow_run.id
    finish(made, earlier, folder, input)
    await emit("evaluated", made)
    found = findings(made)
    try:
        await acreate_markdown_artifact(markdown(found), "evaluation", found.sentence)
        rows = [{name: cell(text) for name, text in zip(found.header, row, strict=True)} for row in found.rows]
        await acreate_table_artifact(rows, "evaluation-plans", "Every way to ask the members")
    except Exception as error:  # a run that is paid for does not end because its artifacts cannot be written
        get_logger("consensus").warning("An artifact could not be written: %r", error)
    return made
