"""Calibrate a panel on labeled rows: each member is asked once for each row, then a way to ask them is chosen and fitted."""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from prefect import flow as prefect_flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.logging import get_logger
from pydantic import BaseModel, Field, RootModel

from consensus_flows.blocks.member import parse_price
from consensus_flows.blocks.settings import Budget
from consensus_flows.blocks.vote import COUNTING, VoteConfig
from consensus_flows.flows.agreement import end_with_agreement
from consensus_flows.flows.ask_rows import VOTE, Plan, planned, run_plan
from consensus_flows.flows.evaluate import run_name
from consensus_flows.flows.run import Attachments
from consensus_flows.flows.saved_algorithm import settings_of, validated
from consensus_flows.tasks.addresses import input_address
from consensus_flows.tasks.batches.source import Selection, Source
from consensus_flows.tasks.calibration import prompts_digest
from consensus_flows.tasks.calls.budget import spending
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.evaluation.agreement import Agreement
from consensus_flows.tasks.evaluation.calibrating import MARGIN, Calibrated, Goal, by_group
from consensus_flows.tasks.evaluation.calibrating import calibrate as calibrate_rows
from consensus_flows.tasks.evaluation.labelled import (
    PanelAnswers,
    ids_digest,
    read_answers,
    read_prices,
    read_recorded,
    today,
)
from consensus_flows.tasks.evaluation.rows import LabelledRow
from consensus_flows.tasks.files import place
from consensus_flows.tasks.record import Attachment
from consensus_flows.tasks.reports.agreement_report import of_agreement
from consensus_flows.tasks.reports.calibration_page import write_calibrations
from consensus_flows.tasks.reports.calibration_report import findings, of_calibrations, sentence
from consensus_flows.tasks.reports.findings import markdown
from consensus_flows.tasks.reports.page import write_report
from consensus_flows.tasks.reports.verdict import Verdict, concluded
from consensus_flows.tasks.watch import emit

FITTED = COUNTING - {"extract", "extractor"}
"""Settings of a vote that a calibration decides anew."""


class CalibratedPanel(BaseModel):
    """A calibrated panel, to be saved."""

    category: str | None
    """The category that it is for; None for all rows."""
    found: Calibrated
    config: VoteConfig


def goal_of(text: str, margin: float) -> Goal:
    """Read a goal.

    Args:
        text: `accuracy`, `cost`, or `budget=USD`, which is US dollars a question.
        margin: How much accuracy may be lost for a lower cost.

    Raises:
        ConfigurationError: If it is none of these.
    """
    kind, _, usd = text.partition("=")
    if kind in {"accuracy", "cost"} and not usd:
        return Goal(kind, margin)  # type: ignore[arg-type]
    try:
        limit = float(usd)
    except ValueError:
        limit = 0.0
    if kind != "budget" or not 0 < limit < float("inf"):
        raise ConfigurationError(
            f"goal: {text!r} is not a goal; use accuracy, cost, or budget=USD for a question, for example budget=0.002"
        )
    return Goal("budget", margin, limit)


def fit(
    answered: PanelAnswers, config: VoteConfig, goal: Goal, *, prompts: str | None, by: bool
) -> list[CalibratedPanel]:
    """Calibrate a panel on all rows, and on those of each category of which there are enough.

    Args:
        answered: The members' answers.
        config: The panel.
        goal: What it should be good at.
        prompts: Digest of the prompts; None if not known.
        by: Whether the rows have categories.

    Raises:
        ConfigurationError: If there are too few rows.
    """
    groups: dict[str | None, Sequence[LabelledRow]] = {None: answered.rows}
    if by:
        groups |= {name: rows for name, rows in by_group(answered.rows).items() if name is not None}
    priced = next((note.date for note in answered.notes if note.kind == "prices"), None)
    panels = []
    for category, rows in groups.items():
        try:
            found = calibrate_rows(
                rows,
                answered.members,
                goal,
                extract=config.extract,
                ids_digest=ids_digest(row.id for row in rows),
                questions=base64.b64encode(b"".join(answered.hashes[row.id] for row in rows)).decode(),
                date=today(),
                prompts=prompts,
                prices_date=priced,
            )
        except ValueError as error:
            raise ConfigurationError(f"input: {error}") from None
        kept = config.model_dump(mode="json", exclude_defaults=True, exclude={"members", "quorum", "prices", *FITTED})
        kept["prices"] = [
            one for one in config.prices if parse_price(one)[0] in {*found.settings["members"], config.extractor}
        ]
        panels.append(
            CalibratedPanel(category=category, found=found, config=validated(VoteConfig, kept | found.settings))
        )
    return panels


def report_calibrations(panels: Sequence[CalibratedPanel], report: Path | None, title: str) -> None:
    """Write the report."""
    if report is not None:
        found = [(one.category, one.found) for one in panels]
        name = PurePosixPath(title).name
        write_report(report, "calibration", RootModel(found), lambda file: write_calibrations(file, found, title=name))


def names_of(name: str, categories: Iterable[str | None]) -> dict[str | None, str]:
    """Return the names under which the panels of categories are saved: a category without letters of its own gets a number."""
    plain = {one: re.sub("[^a-z0-9]+", "-", (one or "").lower()).strip("-") for one in categories}
    shared = Counter(plain.values())

    def suffix(category: str | None) -> str:
        if category is None:
            return ""
        own = plain[category] if shared[plain[category]] == 1 else ""
        return f"-{own or hashlib.sha256(category.encode()).hexdigest()[:8]}"

    return {one: name + suffix(one) for one in plain}


def from_recorded(
    address: str,
    label: str,
    goal: Goal,
    *,
    extract: str | None,
    members: Sequence[str] = (),
    prices: Path | None = None,
    id_column: str | None = None,
    by: str | None = None,
) -> list[CalibratedPanel]:
    """Calibrate on answers that were recorded. No call is made.

    Args:
        address: The rows, in the shape of a batch's output.
        label: The column of the right answer.
        goal: What the panel should be good at.
        extract: How answers are read, by the batch and from now on.
        members: Names of the members, in order; empty for all.
        prices: File of prices, for rows that have tokens and no cost.
        id_column: The column that tells rows apart.
        by: The column of the category.

    Raises:
        ConfigurationError: Naming what cannot be used.
    """
    if extract is None:
        raise ConfigurationError("extract: say how the panel is to read answers, for example number or choice")
    labelled = read_recorded(address, label, extract, id_column, by)
    answered = read_answers(labelled, members, extract, None if prices is None else read_prices(prices))
    models = [name.partition("#")[0] for name in answered.members]
    config = validated(VoteConfig, {"members": models, "extract": extract})
    return fit(answered, config, goal, prompts=None, by=by is not None)


async def planned_for(
    source: Source,
    label: str | None,
    config: VoteConfig,
    *,
    by: str | None = None,
    attachments: Sequence[str | Attachment] = (),
) -> Plan:
    """Read the rows, and find out who is asked; no panel, whatever its settings, but each member once.

    Raises:
        ConfigurationError: Before any call, naming what cannot be used.
    """
    if config.pairwise_judge is not None:
        raise ConfigurationError("votes are counted, so it would have no effect: remove it", field="pairwise_judge")
    plain = validated(VoteConfig, config.model_dump(mode="json", exclude_defaults=True, exclude={*FITTED}))
    return await planned(source, label, plain, VOTE, by=by, attachments=attachments)


def _state(made: list[CalibratedPanel] | Agreement) -> Verdict:
    return of_agreement(made) if isinstance(made, Agreement) else of_calibrations(made)


@prefect_flow(
    name="calibrate",
    flow_run_name=run_name,
    persist_result=True,
    result_serializer="json",
    validate_parameters=True,
)
@concluded(_state)
async def calibrate(
    input: str,
    label: str | None = None,
    *,
    config: dict[str, Any] | str | None = None,
    goal: str = "accuracy",
    margin: Annotated[float, Field(ge=0, lt=1)] = MARGIN,
    prompt_column: str | None = None,
    prompt_template: str | None = None,
    id_column: str | None = None,
    attach_column: str | None = None,
    attachments: Attachments = None,
    by: str | None = None,
    limit: Annotated[int, Field(ge=1)] | None = None,
    sample: Annotated[int, Field(ge=1)] | None = None,
    sample_seed: int = 0,
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 8,
    budget: Budget | None = None,
    report: str | None = None,
    probe: bool = True,
) -> list[CalibratedPanel] | Agreement:
    """Calibrate a panel on labeled rows. Killed half-way, it is simply run again: answers that were paid for are cached.

    Args:
        input: File of labeled prompts (.csv, .tsv, .jsonl, .json, .parquet), on the machine where the run is, or an fsspec
            address.
        label: The column of the right answer. Rows without one are left out. Empty: no row has one, so that nothing can be
            calibrated, and only the members' agreement is measured.
        config: The settings of a vote, or the name of a saved one. Empty: the one called default.
        goal: `accuracy`, `cost`, or `budget=USD`, which is US dollars a question.
        margin: How much accuracy may be lost for a lower cost.
        prompt_column: The column that is the prompt; empty: prompt, question, or the only one.
        prompt_template: The prompt as a text with {column} in it, instead of a column.
        id_column: The column that tells rows apart; empty: id where there is one, else the row number.
        attach_column: The column of images, PDFs and text files that the prompt is about: a path or URL, a JSON list of
            them, or one a line. Paths begin at the folder of the input.
        attachments: Files that every prompt is about: paths or URLs.
        by: The column of the category; each one with 100 rows gets a panel of its own.
        limit: Take only the first rows, at most this many.
        sample: Take only this many rows, drawn at random.
        sample_seed: Draws other rows.
        concurrency: Rows that are worked on at once.
        budget: What the whole calibration may spend.
        report: Folder for calibration.html, to read, and calibration.json; without labels agreement.html and agreement.json.
        probe: Look for models that cannot answer before the first row.
    """
    wanted = goal_of(goal, margin)
    _, given = await settings_of(VOTE, config)
    source = Source(
        input_address(input),
        prompt_column=prompt_column,
        prompt_template=prompt_template,
        id_column=id_column,
        attach_column=attach_column,
        selection=Selection(limit, sample, sample_seed),
    )
    plan = await planned_for(source, label, given, by=by, attachments=attachments or ())
    with spending(budget or given.budget):
        answered, _ = await run_plan(plan, concurrency=concurrency, probe=probe)
    folder = None if report is None else place(report, "report")
    if label is None:
        return await end_with_agreement(answered, given.extract, "calibrated", folder, input)
    panels = fit(answered, given, wanted, prompts=prompts_digest(given), by=by is not None)
    report_calibrations(panels, folder, input)
    await emit("calibrated", panels)
    try:
        text = "\n\n".join(markdown(findings(one.category, one.found)) for one in panels)
        await acreate_markdown_artifact(text, "calibration", sentence(panels[0].found))
    except Exception as error:  # a run that is paid for does not end because its artifact cannot be written
        get_logger("consensus").warning("An artifact could not be written: %r", error)
    return panels
