"""Asks the members of a panel each row of a file once; and panels whose later calls depend on earlier ones, as they are.

Calls of such a panel that a member has answered already come from the cache.
"""

import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.blocks.panel import PanelConfig, RunConfig
from consensus_flows.blocks.settings import Budget
from consensus_flows.blocks.vote import COUNTING, VoteConfig
from consensus_flows.flows.algorithms import algorithm
from consensus_flows.flows.batching import Batch, check_files, run_batch
from consensus_flows.flows.saved_algorithm import load_saved, validated, with_panels
from consensus_flows.tasks.attachments import attach
from consensus_flows.tasks.batches.estimate import Estimate, estimate
from consensus_flows.tasks.batches.frames import output_rows
from consensus_flows.tasks.batches.output import record_name
from consensus_flows.tasks.batches.results import ANSWERS, MemberAnswer, member_key
from consensus_flows.tasks.batches.rows import Files, files_of
from consensus_flows.tasks.batches.source import Source
from consensus_flows.tasks.batches.summary import BatchSummary
from consensus_flows.tasks.calls.budget import most_tokens
from consensus_flows.tasks.errors import BudgetError, ConfigurationError, QuorumError
from consensus_flows.tasks.evaluation.evaluation import Answered, PanelRun
from consensus_flows.tasks.evaluation.labelled import (
    SHOWN,
    Labelled,
    Note,
    PanelAnswers,
    answer_in,
    calibrated_on,
    normalized,
    read_answers,
    read_questions,
)
from consensus_flows.tasks.evaluation.rows import known_sum
from consensus_flows.tasks.prompting.prompt_sets import prompt_set
from consensus_flows.tasks.record import Attachment, Record
from consensus_flows.tasks.recording import record_runs
from consensus_flows.tasks.reports.batch_report import BatchReport

VOTE = "vote"
FILES = "files"
"""The column of the files that a question is about, in the rows that are asked."""


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
        source: Where the rows were read.
        attachments: Files that every row is about, beside its own.
    """

    labelled: Labelled
    asking: VoteConfig
    panels: tuple[Panel, ...]
    source: Source
    attachments: tuple[Attachment, ...] = ()

    def batches(self) -> list[Panel]:
        """Return all that is asked each row."""
        return [Panel("members", VOTE, self.asking), *self.panels]


async def planned(
    source: Source,
    label: str | None,
    config: RunConfig,
    one: str,
    names: Sequence[str] = (),
    *,
    extract: str | None = None,
    by: str | None = None,
    anyway: bool = False,
    attachments: Sequence[str | Attachment] = (),
) -> Plan:
    """Read the rows, and find out who is asked.

    Args:
        source: The rows.
        label: The column of the right answer; None without labels: then only the members are asked.
        config: The panel.
        one: Its algorithm.
        names: Saved panels to compare.
        extract: How answers are read, where the panel's algorithm reads none.
        by: The column of the category.
        anyway: Whether rows are judged on which a panel was calibrated.
        attachments: Files that every row is about, beside its own.

    Raises:
        ConfigurationError: Before any call, naming what cannot be used.
    """
    config = await with_panels(config)
    voting = asking(config, extract)
    panels = []
    for name in names:
        kind, found = await load_saved(name)
        panels.append(Panel(name, kind, await with_panels(found)))
    if (
        label is not None
        and not any(panel.config == config for panel in panels)
        and (one != VOTE or _counts_otherwise(config))
    ):
        panels.insert(0, Panel(one, one, config))
    labelled = read_questions(source, label, voting.extract, by)
    _refuse_examples(labelled, [voting, *(panel.config for panel in panels)])
    for panel in panels:
        calibration = panel.config.calibrated_on()
        if calibration is None or not (known := calibrated_on(calibration, labelled.questions)):
            continue
        if not anyway:
            raise ConfigurationError(
                f"input: {panel.name} was calibrated on {len(known)} of these {len(labelled.questions)} rows, so that its figures would "
                f"be too good: {', '.join(known[:SHOWN])}{', ...' * (len(known) > SHOWN)}; use other rows, or anyway"
            )
        labelled.notes.append(Note(kind="calibrated", count=len(known), ids=known[:SHOWN], members=[panel.name]))
    return Plan(labelled, voting, tuple(panels), source, await asyncio.to_thread(attach, attachments))


def asking(config: RunConfig, extract: str | None) -> VoteConfig:
    """Return a vote that asks each member of a panel, and reads the answers."""
    members = config.panel() if isinstance(config, PanelConfig) else getattr(config, "members", list)()
    names = {str(member.name) for member in members}
    shared = config.model_dump(
        include={*RunConfig.model_fields} - {"quorum", "straggler_grace", "budget", "embedding_model", "grading"},
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
    questions, files = plan.labelled.questions, Files()
    size = sum(most_tokens(one.prompt or "") for one in questions)
    for question in questions:
        files = files.and_also(plan.source.look_at(question.id, question.files))
    check_files(files)
    files = files.and_also(files_of(*plan.attachments), times=len(questions))
    return [
        (
            one.name,
            await estimate(one.config, algorithm(one.algorithm).plan(one.config), len(questions), size, files),
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
    asked, whole = plan.labelled.questions, plan.source.whole
    attach_column = plan.source.attach_column and FILES
    with tempfile.TemporaryDirectory(prefix="consensus-evaluate-") as name:
        folder = Path(name)
        rows = folder / "rows.jsonl"
        written = [{"id": one.id, "prompt": one.prompt, FILES: [whole(file) for file in one.files]} for one in asked]
        rows.write_text("".join(json.dumps(row) + "\n" for row in written), encoding="utf-8")
        for number, one in enumerate(plan.batches()):
            async with record_runs(BatchReport(), in_conversation=False, many=True):
                check_whole(
                    await run_batch(
                        Batch(
                            source=Source(str(rows), attach_column=attach_column),
                            output=str(folder / f"{number}.jsonl"),
                            records=str(folder / str(number)),
                            algorithm=one.algorithm,
                            config=one.config.model_copy(update={"budget": Budget()}),
                            concurrency=concurrency,
                            probe=probe,
                            attachments=plan.attachments,
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
    costs = [call.stored_cost_usd if call.cached else call.cost_usd for call in calls]
    return Answered(
        None if reading is None else reading.value,
        None if reading is None else reading.text,
        len(calls),
        known_sum(costs),
    )
