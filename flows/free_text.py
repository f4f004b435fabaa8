"""The evaluation of free text: a panel's answers beside those of each of its members, judged in pairs.

Free text has no right answer that could be compared. So judges that are no members look at the panel's answer and a member's in both
orders; where they differ, or a verdict depends on the order, a stronger judge decides. Judges that fall for answers that only look
better are refused first: what they say of a panel's long answers would be worth nothing.
"""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from prefect import flow as prefect_flow
from prefect.artifacts import acreate_table_artifact
from prefect.logging import get_logger
from prefect.runtime import flow_run
from pydantic import Field

from consensus_flows.blocks.check_judges import ADVERSARIAL, FreeTextConfig
from consensus_flows.blocks.member import ModelName, named
from consensus_flows.blocks.settings import Budget
from consensus_flows.flows.algorithms import FlowName
from consensus_flows.flows.ask_rows import check_whole
from consensus_flows.flows.batching import Batch, check_answering, run_batch
from consensus_flows.flows.check_judges import LEAST, PAIRS_AT_ONCE, judge_pair
from consensus_flows.flows.run import Attachments, Run, begin
from consensus_flows.flows.text_plan import planned_text, read_text_baseline, refuse_own_judges
from consensus_flows.tasks.addresses import input_address
from consensus_flows.tasks.batches.output import record_name
from consensus_flows.tasks.batches.results import member_key
from consensus_flows.tasks.batches.rows import Row
from consensus_flows.tasks.calls.budget import spending
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.calls.providers import check_models
from consensus_flows.tasks.counting.judges import consistency
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.evaluation.free_text import (
    PANEL_WINS,
    Bout,
    FreeTextEvaluation,
    FreeTextRow,
    JudgedRow,
    JudgeOfText,
    WinRate,
    drift,
    majority,
    outcome,
    settled,
    usd_per_1000,
    win_rate,
)
from consensus_flows.tasks.evaluation.rows import known_sum
from consensus_flows.tasks.files import place
from consensus_flows.tasks.labelled_pairs import shipped_pairs
from consensus_flows.tasks.record import Comparison, Iteration, Outcome, Record, Response
from consensus_flows.tasks.recording import record_runs
from consensus_flows.tasks.reports.batch_report import BatchReport
from consensus_flows.tasks.reports.markdown import cell
from consensus_flows.tasks.reports.page import write_report
from consensus_flows.tasks.reports.text_page import write_text_evaluation
from consensus_flows.tasks.reports.text_report import HEADER, of_free_text, sentence, table
from consensus_flows.tasks.reports.verdict import concluded
from consensus_flows.tasks.watch import emit


async def compare_free_text(
    rows: Sequence[FreeTextRow],
    config: FreeTextConfig,
    call: Call | None = None,
    *,
    anyway: bool = False,
) -> FreeTextEvaluation:
    """Judge a panel's answers beside each of its members'.

    Args:
        rows: Questions with the answers.
        config: Who judges.
        call: Makes the calls; by default the `ask` task.
        anyway: Whether to judge although the judges fail the adversarial pairs.

    Returns:
        The win rates; none where the judges are refused, or the budget has ended.

    Raises:
        ConfigurationError: Before any call, if there is nothing to compare, or a judge is a member.
    """
    given, rows = rows, [row for row in rows if row.panel and row.members]
    members = list(dict.fromkeys(chain.from_iterable(row.members for row in rows)))
    if not members:
        raise ConfigurationError("no row has an answer of the panel and one of a member", field="input")
    refuse_own_judges(config, [member.partition("#")[0] for member in members])
    pairs = [(row, member) for row in rows for member in row.members]
    async with (
        begin("free-text", f"{len(pairs)} pairs", config, call, conversation=()) as run,
        run.iteration() as iteration,
    ):
        court = _Judges(run, iteration)
        adversarial = await court.adversarial()
        refused = adversarial < LEAST and not anyway
        court.said.clear()
        court.decided = 0
        found = (
            []
            if refused
            else await asyncio.gather(
                *(court.decide(row.question, row.panel, row.members[member]) for row, member in pairs)
            )
        )
    record = run.record
    names = set(FreeTextEvaluation.model_fields) & set(Record.model_fields)
    made = FreeTextEvaluation(
        rows=len(rows),
        left_out=len(given) - len(rows),
        refused=refused,
        adversarial=adversarial,
        budget_ended=record.status == "budget",
        strong_judge=config.strong_judge,
        decided_by_strong_judge=court.decided,
        judges=[
            JudgeOfText(judge=str(judge), **consistency([one.said for one in said]).model_dump())
            for judge, said in court.said.items()
        ],
        **{name: getattr(record, name) for name in names},
    )
    if not (refused or made.budget_ended):
        made.unread = found.count(None)
        made.usd_per_1000 = usd_per_1000(row.panel_usd for row in rows)
        made.members = list(_win_rates(members, pairs, found))
        results = dict(zip(((row.id, member) for row, member in pairs), found, strict=True))
        made.row_results = [
            JudgedRow(
                id=row.id,
                question=row.question,
                panel=row.panel,
                members=row.members,
                results={member: results[row.id, member] for member in row.members},
            )
            for row in rows
        ]
    return made


def _win_rates(
    members: Sequence[str], pairs: Sequence[tuple[FreeTextRow, str]], found: Sequence[Outcome | None]
) -> Iterator[WinRate]:
    for name in members:
        bouts = [
            Bout(PANEL_WINS[result], len(row.panel), len(row.members[member]))
            for (row, member), result in zip(pairs, found, strict=True)
            if member == name and result is not None
        ]
        if bouts:
            made = win_rate(name, bouts)
            made.usd_per_1000 = usd_per_1000(row.members_usd.get(name) for row, member in pairs if member == name)
            yield made


class _Judges:
    """The judges of a comparison, and what each has said."""

    def __init__(self, run: Run[FreeTextConfig], iteration: Iteration) -> None:
        self._run = run
        self._iteration = iteration
        self._at_once = asyncio.Semaphore(PAIRS_AT_ONCE)
        self._first = [member.name for member in run.config.panel()]
        self._strong = named(run.config.strong_judge)
        self.said: dict[ModelName, list[Comparison]] = {}
        self.decided = 0

    async def adversarial(self) -> float:
        """Return the share of the adversarial pairs that they get right together, ties half."""
        pairs = [pair for pair in shipped_pairs() if pair.kind == ADVERSARIAL]
        found = await asyncio.gather(*(self.decide(pair.question, pair.a, pair.b) for pair in pairs))
        right = [
            0.5 if result in {None, "tie"} else float((result == "first") == (pair.better == "a"))
            for pair, result in zip(pairs, found, strict=True)
        ]
        return sum(right) / len(right)

    async def decide(self, question: str, one: str, other: str) -> Outcome | None:
        """Return which of two answers is better; None if no judge whose word counts could be read."""
        if one == other:
            return "tie"
        async with self._at_once:
            said = await asyncio.gather(*(self._ask(question, (one, other), judge) for judge in self._first))
            found = [outcome(comparison) for comparison in said]
            if settled(found):
                return found[0]
            for judge in self._strong:
                self.decided += 1
                said = [await self._ask(question, (one, other), judge)]
            return majority(map(outcome, said)) if any(None not in one.said for one in said) else None

    async def _ask(self, question: str, pair: tuple[str, str], judge: ModelName) -> Comparison:
        comparison, calls = await judge_pair(question, pair, judge, self._run.config, self._run.call)
        self._iteration.judgements += calls
        self.said.setdefault(judge, []).append(comparison)
        return comparison


async def asked_text(batch: Batch, folder: Path) -> list[FreeTextRow]:
    """Ask a panel every row of a batch, and return its answers and those that the members gave at first, before they saw others.

    Args:
        batch: What is asked.
        folder: Where its records are written.

    Raises:
        BudgetError: If the budget ends before all rows are done.
        QuorumError: If nobody answers.
    """
    async with record_runs(BatchReport(), in_conversation=False, many=True):
        summary = await run_batch(batch)
    check_whole(summary, batch.algorithm)
    rows = []
    for row in batch.source.rows():
        if isinstance(row, Row):
            record = Record.model_validate_json((folder / record_name(row.id)).read_bytes())
            first = record.iterations[0].answered() if record.iterations else []
            rows.append(
                FreeTextRow(
                    row.id,
                    row.prompt,
                    record.answer or "",
                    {member_key(one.member): one.text or "" for one in first},
                    paid(record.calls_made()),
                    {member_key(one.member): paid([one]) for one in first},
                )
            )
    return rows


def paid(calls: Sequence[Response]) -> float | None:
    """Return what calls cost when they were made; None where the price of one is not known."""
    return known_sum([call.stored_cost_usd if call.cached else call.cost_usd for call in calls])


def run_name() -> str:
    """Name a flow run after its input."""
    return f"free text of {PurePosixPath(str(flow_run.parameters.get('input') or '')).name}"


@prefect_flow(
    name="evaluate-text",
    flow_run_name=run_name,
    persist_result=True,
    result_serializer="json",
    validate_parameters=True,
)
@concluded(of_free_text)
async def evaluate_text(
    input: str,
    judges: FreeTextConfig,
    *,
    flow: FlowName | None = None,
    config: dict[str, Any] | str | None = None,
    prompt_column: str | None = None,
    prompt_template: str | None = None,
    id_column: str | None = None,
    attach_column: str | None = None,
    attachments: Attachments = None,
    limit: Annotated[int, Field(ge=1)] | None = None,
    sample: Annotated[int, Field(ge=1)] | None = None,
    sample_seed: int = 0,
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 8,
    report: str | None = None,
    baseline: str | None = None,
    anyway: bool = False,
    probe: bool = True,
) -> FreeTextEvaluation:
    """Judge a panel's free text beside that of each member. Killed half-way, it is simply run again: answers are cached.

    Args:
        input: File of prompts, on the machine where the run is, or an fsspec address; without flow and config, the output of a
            batch, whose answers are judged.
        judges: Who judges, none of them a member; its budget is that of the whole evaluation.
        flow: The algorithm; empty: that of the saved configuration.
        config: Its settings, or the name of a saved configuration.
        prompt_column: The column that is the prompt; empty: prompt, question, or the only one.
        prompt_template: The prompt as a text with {column} in it, instead of a column.
        id_column: The column that tells rows apart; empty: id where there is one, else the row number.
        attach_column: The column of images, PDFs and text files that the prompt is about: a path or URL, a JSON list of
            them, or one a line. Paths begin at the folder of the input.
        attachments: Files that every prompt is about: paths or URLs.
        limit: Take only the first rows, at most this many.
        sample: Take only this many rows, drawn at random.
        sample_seed: Draws other rows.
        concurrency: Rows that are asked at once.
        report: Folder for evaluation.html, to read, and evaluation.json, which has every row.
        baseline: An evaluation.json of an earlier run; the run ends as WinRateFell if the panel wins less often now.
        anyway: Judge although the judges fall for answers that only look better.
        probe: Look for models that cannot answer before the first row.
    """
    plan = await planned_text(
        input_address(input),
        judges,
        flow,
        config,
        limit=limit,
        sample=sample,
        sample_seed=sample_seed,
        prompt_column=prompt_column,
        prompt_template=prompt_template,
        id_column=id_column,
        attach_column=attach_column,
        attachments=attachments or (),
    )
    before = None if baseline is None else read_text_baseline(place(baseline, "baseline"), plan)
    folder = None if report is None else place(report, "report")
    with spending(judges.budget), tempfile.TemporaryDirectory(prefix="consensus-evaluate-") as name:
        rows = plan.recorded
        if plan.source is not None and plan.config is not None:
            # Else one learns that nobody can judge when all rows are paid for.
            judging = await check_models(plan.judges.all_models())
            if probe:
                await check_answering(judging)
            records = Path(name, "records")
            batch = Batch(
                source=plan.source,
                output=str(Path(name, "rows.jsonl")),
                records=str(records),
                algorithm=plan.algorithm,
                config=plan.config.model_copy(update={"budget": Budget()}),
                concurrency=concurrency,
                probe=probe,
                attachments=plan.attachments,
            )
            rows = await asked_text(batch, records)
        made = await compare_free_text(rows, plan.judges, anyway=anyway)
    made.flow_run_id = flow_run.id
    if before is not None:
        made.baseline = drift(made.row_results, before.row_results)
    if folder is not None:
        title = PurePosixPath(input).name
        write_report(folder, "evaluation", made, lambda file: write_text_evaluation(file, made, title=title))
    await emit("evaluated", made)
    try:
        rows_of = [{name: cell(text) for name, text in zip(HEADER, row, strict=True)} for row in table(made)]
        await acreate_table_artifact(rows_of, "evaluate-text", sentence(made))
    except Exception as error:  # a run that is paid for does not end because its table cannot be shown
        get_logger("consensus").warning("An artifact could not be written: %r", error)
    return made
