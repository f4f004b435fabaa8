"""Evaluate a panel on labeled rows: each member is asked once for each row, and every way to ask them is replayed on that.

A panel whose later calls depend on earlier ones is really asked each row; its calls that a member has answered already
come from the cache.
"""

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple

from prefect import flow as prefect_flow
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.logging import get_logger
from prefect.runtime import flow_run
from pydantic import BaseModel, Field, ValidationError

from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.blocks.panel import PanelConfig, RunConfig
from consensus_flows.blocks.settings import Budget
from consensus_flows.blocks.vote import COUNTING, VoteConfig
from consensus_flows.flows.algorithms import FlowName, algorithm
from consensus_flows.flows.batching import Batch, run_batch
from consensus_flows.flows.run import validated
from consensus_flows.flows.saved_algorithm import load_saved, settings_of
from consensus_flows.tasks.batches.addresses import confined
from consensus_flows.tasks.batches.estimate import Estimate, estimate
from consensus_flows.tasks.batches.frames import output_rows
from consensus_flows.tasks.batches.output import record_name
from consensus_flows.tasks.batches.results import ANSWERS, MemberAnswer, member_key
from consensus_flows.tasks.batches.source import Selection, Source
from consensus_flows.tasks.batches.summary import BatchSummary
from consensus_flows.tasks.calls.budget import most_tokens, spending
from consensus_flows.tasks.errors import BudgetError, ConfigurationError, QuorumError
from consensus_flows.tasks.evaluation.evaluation import (
    Answered,
    Evaluation,
    PanelRun,
    Split,
    compared,
    evaluate_rows,
)
from consensus_flows.tasks.evaluation.labelled import (
    SHOWN,
    Labelled,
    Note,
    PanelAnswers,
    answer_in,
    ids_digest,
    normalized,
    read_answers,
    read_prices,
    read_questions,
    read_recorded,
)
from consensus_flows.tasks.files import atomic_write, place
from consensus_flows.tasks.prompting.prompt_sets import prompt_set
from consensus_flows.tasks.record import Record, Response
from consensus_flows.tasks.recording import record_runs
from consensus_flows.tasks.reports.batch_report import BatchReport
from consensus_flows.tasks.reports.evaluation_page import write_evaluation
from consensus_flows.tasks.reports.evaluation_report import HEADER, markdown, of_evaluation, sentence, table
from consensus_flows.tasks.reports.markdown import cell
from consensus_flows.tasks.reports.verdict import concluded
from consensus_flows.tasks.watch import emit

VOTE = "vote"
RESULT = "evaluation.json"
PAGE = "evaluation.html"


class Panel(NamedTuple):
    """A panel that is really asked each row."""

    name: str
    algorithm: str
    config: RunConfig


@dataclass(frozen=True)
class Plan:
    """What is asked, and of whom.

    Attributes:
        labelled: The rows.
        asking: Asks each member of the panel once.
        panels: What is really asked, beside that.
    """

    labelled: Labelled
    asking: VoteConfig
    panels: tuple[Panel, ...]

    def batches(self) -> list[Panel]:
        """Return all that is asked each row."""
        return [Panel("members", VOTE, self.asking), *self.panels]


async def planned(
    source: Source,
    label: str,
    config: RunConfig,
    one: str,
    names: Sequence[str] = (),
    *,
    extract: str | None = None,
    by: str | None = None,
    anyway: bool = False,
) -> Plan:
    """Read the labeled rows, and find out who is asked.

    Args:
        source: The rows.
        label: The column of the right answer.
        config: The panel.
        one: Its algorithm.
        names: Saved panels to compare.
        extract: How answers are read, where the panel's algorithm reads none.
        by: The column of the category.
        anyway: Whether rows are judged on which a panel was calibrated.

    Raises:
        ConfigurationError: Before any call, naming what cannot be used.
    """
    asking = _asking(config, extract)
    panels = [Panel(name, *await load_saved(name)) for name in names]
    if not any(panel.config == config for panel in panels) and (one != VOTE or _counts_otherwise(config)):
        panels.insert(0, Panel(one, one, config))
    labelled = read_questions(source, label, asking.extract, by)
    _refuse_examples(labelled, [asking, *(panel.config for panel in panels)])
    digest = ids_digest(question.id for question in labelled.questions)
    calibrated = [panel.name for panel in panels if _calibrated_on(panel.config) == digest]
    if calibrated and not anyway:
        raise ConfigurationError(
            f"input: {', '.join(calibrated)} was calibrated on these very rows, so that its figures would be too good; use "
            "other rows, or anyway"
        )
    if calibrated:
        labelled.notes.append(Note(kind="calibrated", members=calibrated))
    return Plan(labelled, asking, tuple(panels))


def _asking(config: RunConfig, extract: str | None) -> VoteConfig:
    """Return a vote that asks each member of a panel, and reads the answers."""
    members = config.panel() if isinstance(config, PanelConfig) else getattr(config, "members", list)()
    names = {str(member.name) for member in members}
    shared = config.model_dump(
        include={*RunConfig.model_fields} - {"quorum", "straggler_grace", "budget", "embedding_model"},
        exclude_defaults=True,
    )
    shared["prices"] = [price for price in config.prices if price.rpartition("=")[0].strip() in names]
    if isinstance(config, VoteConfig):
        reading: dict[str, Any] = {"extract": config.extract, "extractor": config.extractor}
        if config.extractor:
            reading |= {"judge_settings": config.judge_settings}
    else:
        reading = {"extract": extract or "text"}
    return validated(
        VoteConfig, {**shared, **reading, "members": [str(member.name) for member in members], "quorum": 1}
    )


def _counts_otherwise(config: RunConfig) -> bool:
    """Tell whether a vote is another one than the plain vote of all members, which is replayed."""
    others = {*COUNTING} - {"extract", "extractor"}
    return bool(others & config.model_dump(exclude_defaults=True).keys())


def _calibrated_on(config: RunConfig) -> str | None:
    calibration = getattr(config, "calibration", None)
    return None if calibration is None else calibration.ids_digest


def _refuse_examples(labelled: Labelled, configs: Sequence[RunConfig]) -> None:
    """Refuse rows whose answers the members are shown."""
    for name in dict.fromkeys(config.prompt_set for config in configs):
        shown = {normalized(example.user) for example in prompt_set(name).examples}
        if known := [one.id for one in labelled.questions if one.key() in shown]:
            raise ConfigurationError(
                f"input: the prompt set {name!r} shows the members the answers of {len(known)} of these rows: "
                f"{', '.join(known[:SHOWN])}; take them out of one of the two"
            )


async def estimates(plan: Plan) -> list[tuple[str, Estimate]]:
    """Estimate what it takes to ask, for the members once and for each panel that is really asked. No model is called."""
    size = sum(most_tokens(one.prompt or "") for one in plan.labelled.questions)
    return [
        (
            one.name,
            await estimate(one.config, algorithm(one.algorithm).plan(one.config), len(plan.labelled.questions), size),
        )
        for one in plan.batches()
    ]


async def run_plan(plan: Plan, *, concurrency: int = 8, probe: bool = True) -> tuple[PanelAnswers, list[PanelRun]]:
    """Ask each member, and each panel, every row.

    Args:
        plan: What is asked.
        concurrency: Rows that are worked on at once.
        probe: Whether to look for models that cannot answer before the first row.

    Returns:
        The members' answers, and those of the panels.

    Raises:
        BudgetError: If the budget ends before all rows are done.
        QuorumError: If nobody answers.
    """
    asked = plan.labelled.questions
    with tempfile.TemporaryDirectory(prefix="consensus-evaluate-") as name:
        folder = Path(name)
        rows = folder / "rows.jsonl"
        rows.write_text(
            "".join(json.dumps({"id": one.id, "prompt": one.prompt}) + "\n" for one in asked), encoding="utf-8"
        )
        for number, one in enumerate(plan.batches()):
            async with record_runs(BatchReport(), in_conversation=False, many=True):
                check_whole(
                    await run_batch(
                        Batch(
                            source=Source(str(rows)),
                            output=str(folder / f"{number}.jsonl"),
                            records=str(folder / str(number)),
                            algorithm=one.algorithm,
                            config=one.config.model_copy(update={"budget": Budget()}),
                            concurrency=concurrency,
                            probe=probe,
                        )
                    ),
                    one.name,
                )
        said = {
            str(row["id"]): {member: MemberAnswer.model_validate(one) for member, one in row[ANSWERS].items()}
            for row in output_rows(str(folder / "0.jsonl"))
            if row.get(ANSWERS)
        }
        extract = plan.asking.extract
        answered = read_answers(
            Labelled([one._replace(said=said.get(one.id, {})) for one in asked], plan.labelled.notes),
            [member_key(str(member)) for member in plan.asking.panel()],
            extract,
        )
        runs = [
            PanelRun(
                panel.name,
                {one.id: _ended(folder / str(number) / record_name(one.id), extract) for one in asked},
            )
            for number, panel in enumerate(plan.panels, 1)
        ]
        return answered, runs


def check_whole(summary: BatchSummary, name: str) -> None:
    """Refuse to judge a part of the rows, which are not as a whole is."""
    if summary.status == "budget":
        raise BudgetError(
            f"{name}: the budget ended after {summary.rows - summary.not_started} of {summary.rows} rows ({summary.error}); the "
            "answers are cached: run the same again with a larger budget"
        )
    if summary.status != "finished" or not summary.done:
        first = f"; the first one, {summary.failures[0]}" if summary.failures else ""
        raise QuorumError(summary.error or f"{name}: none of {summary.rows} rows has an answer{first}")


def _ended(file: Path, extract: str) -> Answered:
    """Read how a panel's run ended: what it answered, and what that costs where nothing is cached."""
    record = Record.model_validate_json(file.read_bytes())
    reading = answer_in(record.answer, parse_extraction(extract))
    calls = record.calls_made()
    return Answered(
        None if reading is None else reading.value,
        None if reading is None else reading.text,
        len(calls),
        cost_made(calls),
    )


def cost_made(calls: Sequence[Response]) -> float | None:
    """Return what calls cost when they were made; None where the price of one is not known."""
    costs = [call.stored_cost_usd if call.cached else call.cost_usd for call in calls]
    known = [cost for cost in costs if cost is not None]
    return math.fsum(known) if len(known) == len(costs) else None


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
        write_report(report, made, lambda page: write_evaluation(page, made, title=PurePosixPath(title).name))
    return made


def write_report(folder: Path, made: BaseModel, write: Callable[[Path], None]) -> None:
    """Write an evaluation with every row, and the page of it.

    Args:
        folder: Where to.
        made: The evaluation.
        write: Writes the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / RESULT) as file:
        file.write_text(made.model_dump_json() + "\n", encoding="utf-8")
    with atomic_write(folder / PAGE) as file:
        write(file)


def run_name() -> str:
    """Name a flow run after what is evaluated, and its input."""
    given = flow_run.parameters
    named = [one for one in (given.get("config"), *(given.get("names") or ())) if isinstance(one, str) and one]
    return f"{', '.join(dict.fromkeys(named)) or given.get('flow') or VOTE} · {PurePosixPath(str(given.get('input') or '')).name}"


@prefect_flow(
    name="evaluate",
    flow_run_name=run_name,
    persist_result=True,
    result_serializer="json",
    validate_parameters=True,
)
@concluded(of_evaluation)
async def evaluate(
    input: str,
    label: str,
    *,
    flow: FlowName | None = None,
    config: dict[str, Any] | str | None = None,
    names: list[str] | None = None,
    plans: list[str] | None = None,
    extract: str | None = None,
    prompt_column: str | None = None,
    prompt_template: str | None = None,
    id_column: str | None = None,
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
) -> Evaluation:
    """Evaluate a panel on labeled rows. Killed half-way, it is simply run again: answers that were paid for are cached.

    Args:
        input: File of labeled prompts (.csv, .tsv, .jsonl, .json, .parquet), on the machine where the run is, or an fsspec
            address.
        label: The column of the right answer. Rows without one are left out.
        flow: The algorithm; empty: that of the saved configuration, else vote.
        config: Its settings, or the name of a saved configuration. Empty: the one called default.
        names: Names of saved configurations to compare, of any algorithm.
        plans: Names of further ways to ask the members, for example cascade:openai/a,openai/b>openai/c.
        extract: How answers are read where the algorithm reads none: number, choice, json:FIELD, label:A,B, text, ...
        prompt_column: The column that is the prompt; empty: prompt, question, or the only one.
        prompt_template: The prompt as a text with {column} in it, instead of a column.
        id_column: The column that tells rows apart; empty: id where there is one, else the row number.
        by: The column of the category, for the report.
        limit: Take only the first rows, at most this many.
        sample: Take only this many rows, drawn at random.
        sample_seed: Draws other rows.
        split: On what plans are fitted: `folds` judges each fifth of the rows by plans that are fitted on the others, `half`
            one half by the other.
        seed: Draws other halves.
        concurrency: Rows that are worked on at once.
        budget: What the whole evaluation may spend.
        report: Folder for evaluation.html, to read, and evaluation.json, which has every row.
        baseline: An evaluation.json of an earlier run; the run ends as AccuracyFell if the panel is less accurate now.
        anyway: Judge rows on which a panel was calibrated, too.
        probe: Look for models that cannot answer before the first row.
    """
    one, settings = await settings_of(flow, config, VOTE)
    earlier = None if baseline is None else read_baseline(place(baseline, "baseline"))
    source = Source(
        confined(input, "input"),
        prompt_column=prompt_column,
        prompt_template=prompt_template,
        id_column=id_column,
        selection=Selection(limit, sample, sample_seed),
    )
    plan = await planned(source, label, settings, one, names or (), extract=extract, by=by, anyway=anyway)
    folder = None if report is None else place(report, "report")
    with spending(budget or settings.budget):
        answered, runs = await run_plan(plan, concurrency=concurrency, probe=probe)
    made = evaluate_rows(answered, extract=plan.asking.extract, panels=runs, split=split, seed=seed, named=plans or ())
    made.flow_run_id = flow_run.id
    finish(made, earlier, folder, input)
    await emit("evaluated", made)
    try:
        await acreate_markdown_artifact(markdown(made), "evaluation", sentence(made.verdict))
        rows = [{name: cell(text) for name, text in zip(HEADER, row, strict=True)} for row in table(made)]
        await acreate_table_artifact(rows, "evaluation-plans", "Every way to ask the members")
    except Exception as error:  # a run that is paid for does not end because its artifacts cannot be written
        get_logger("consensus").warning("An artifact could not be written: %r", error)
    return made
