"""The check of judges: let models judge pairs of answers, in both orders, whose better answer is known.

On ordinary pairs a weak judge is hardly worse than a strong one. It is told apart by pairs whose worse answer looks better
(LLMBar, arXiv:2310.07641): there a judge that goes by length or tone is wrong more often than a coin.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from prefect import flow
from prefect.artifacts import acreate_table_artifact
from prefect.logging import get_logger
from prefect.runtime import flow_run
from pydantic import BaseModel, Field

from consensus_flows.blocks.check_judges import ADVERSARIAL, CheckJudgesConfig, JudgesConfig, LabelledPair
from consensus_flows.blocks.member import Member, ModelName
from consensus_flows.flows.run import begin
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.counting.judges import JudgedPair, PairFigures, Side, longer, pair_figures
from consensus_flows.tasks.errors import QuorumError
from consensus_flows.tasks.judging.judge import JudgeRequest
from consensus_flows.tasks.judging.pairwise import compare
from consensus_flows.tasks.labelled_pairs import shipped_pairs
from consensus_flows.tasks.record import Comparison, Record, Response
from consensus_flows.tasks.reports.recorded import Recorded
from consensus_flows.tasks.reports.verdict import Verdict, concluded, listed
from consensus_flows.tasks.watch import emit

LEAST = 0.6
"""The share of the adversarial pairs, ties half, below which a model is refused as a judge."""
PAIRS_AT_ONCE = 8
"""Pairs that are judged at once."""
_SIDES: dict[str, Side] = {"a": "first", "b": "second"}


class JudgeCheck(BaseModel):
    """What came of one candidate."""

    judge: str
    kinds: dict[str, PairFigures]
    """By kind of pair, in the order in which the kinds first appear."""

    @property
    def refused(self) -> bool:
        """Whether it falls for answers that only look better."""
        return self.kinds[ADVERSARIAL].accuracy < LEAST


class JudgeReport(BaseModel):
    """What came of all candidates."""

    flow_run_id: str | None = None
    judges: list[JudgeCheck] = Field(default_factory=list)
    refused: list[str] = Field(default_factory=list)
    """The candidates that are right on fewer than 60 % of the adversarial pairs; nobody is refused where the budget ended."""
    calls: int = 0
    cached_calls: int = 0
    cost_usd: float | None = None
    possibly_billed: int = 0
    known_cost_usd: float = 0.0
    unpriced_calls: int = 0
    budget_ended: bool = False
    """Whether the budget refused a call."""
    duration_s: float = 0.0


async def run_check_judges(config: CheckJudgesConfig, call: Call | None = None) -> JudgeReport:
    """Let every candidate judge every pair in both orders.

    Args:
        config: Who is tried out, and on which pairs.
        call: Makes the calls; by default the `ask` task.

    Raises:
        ConfigurationError: Before any call, if a model cannot be asked.
        QuorumError: If no candidate could be read on any pair.
    """
    pairs, judges = pairs_of(config), config.panel()
    at_once = asyncio.Semaphore(PAIRS_AT_ONCE)
    async with (
        begin("check-judges", f"{len(pairs)} labeled pairs", config, call, conversation=()) as run,
        run.iteration() as iteration,
    ):

        async def judged(judge: Member, pair: LabelledPair) -> Comparison:
            async with at_once:
                comparison, calls = await judge_pair(pair.question, (pair.a, pair.b), judge.name, config, run.call)
            iteration.judgements += calls
            return comparison

        said = await asyncio.gather(*(judged(judge, pair) for judge in judges for pair in pairs))
    report = _report(run.record, judges, pairs, said)
    if not any(call.answered for call in iteration.judgements):
        causes = dict.fromkeys(call.error.message for call in iteration.judgements if call.error)
        raise QuorumError("no candidate could be read. " + "; ".join(list(causes)[:5]))
    return report


def pairs_of(config: CheckJudgesConfig) -> list[LabelledPair]:
    """Return the pairs that are judged: the person's own or else the natural ones, and always the adversarial ones."""
    shipped = shipped_pairs()
    return [
        *(config.pairs or [pair for pair in shipped if pair.kind != ADVERSARIAL]),
        *(pair for pair in shipped if pair.kind == ADVERSARIAL),
    ]


async def judge_pair(
    question: str, pair: tuple[str, str], judge: ModelName, config: JudgesConfig, call: Call
) -> tuple[Comparison, list[Response]]:
    """Let a model judge two answers in both orders, as a pairwise judge of the vote does."""
    one, other = Recorded(answers={"a": pair[0], "b": pair[1]}).responses()
    asked = JudgeRequest(
        question=question,
        system=config.system,
        sampling=config.settings_of(Member(judge, 1)),
        timeout=config.timeout_s(),
        seed=str(config.order_seed),
    )
    return await compare(one, other, asked, judge, call)


def _report(
    record: Record, judges: Sequence[Member], pairs: Sequence[LabelledPair], said: Sequence[Comparison]
) -> JudgeReport:
    names = set(JudgeReport.model_fields) & set(Record.model_fields)
    report = JudgeReport(**{name: getattr(record, name) for name in names})
    report.budget_ended = record.status == "budget"
    for place, judge in enumerate(judges):
        kinds: dict[str, list[JudgedPair]] = {}
        for pair, comparison in zip(pairs, said[place * len(pairs) :], strict=False):
            judged = JudgedPair(_SIDES[pair.better], longer(pair.a, pair.b), comparison.said)
            kinds.setdefault(pair.kind, []).append(judged)
        check = JudgeCheck(judge=str(judge.name), kinds={kind: pair_figures(own) for kind, own in kinds.items()})
        report.judges.append(check)
        if check.refused and not report.budget_ended:
            report.refused.append(check.judge)
    return report


def _concluded(report: JudgeReport) -> Verdict:
    """Judge a check for the state of its run."""
    if report.budget_ended:
        return Verdict("BudgetEnded", "the budget ended before all pairs were judged")
    if report.refused:
        return Verdict(
            "JudgeRefused", f"right on fewer than {LEAST:.0%} of the adversarial pairs: {listed(report.refused)}"
        )
    return Verdict("Completed", f"accepted: {listed(check.judge for check in report.judges)}")


def run_name() -> str:
    """Name a flow run after the candidates."""
    config = flow_run.parameters.get("config") or {}
    values = config if isinstance(config, dict) else config.model_dump()
    return f"judges: {', '.join(values.get('members', []))}"[:100]


@flow(
    name="check-judges",
    flow_run_name=run_name,
    persist_result=True,
    result_serializer="json",
    validate_parameters=True,
)
@concluded(_concluded)
async def check_judges(config: CheckJudgesConfig) -> JudgeReport:
    """Try models out as judges of pairs of answers whose better one is known.

    Args:
        config: Who is tried out, and on which pairs.
    """
    report = await run_check_judges(config)
    await emit("done", report)
    try:
        await acreate_table_artifact(rows(report), "check-judges", "Candidates as judges")
    except Exception as error:  # a run that is paid for does not end because its table cannot be shown
        get_logger("consensus").warning("An artifact could not be written: %r", error)
    return report


def rows(report: JudgeReport) -> list[dict[str, Any]]:
    """List the figures of each candidate on each kind of pair, in percent."""
    return [
        {
            "judge": check.judge,
            "pairs": kind,
            "n": one.n,
            "longer is better": _percent(one.label_is_the_longer, one.n),
            "right in both orders, ties half": _percent(one.right_ties_half, one.n),
            "right in the first order": _percent(one.right_in_the_first_order, one.n),
            "consistent": _percent(one.consistent, one.n),
            "right if consistent": _percent(one.right_if_consistent, one.consistent),
            "flips": one.flips,
            "flips to the one shown first": one.flips_to_the_one_shown_first,
            "right where the longer is better": _percent(one.right_where_longer, one.label_is_the_longer),
            "right where the shorter is better": _percent(
                one.right_ties_half - one.right_where_longer, one.n - one.label_is_the_longer
            ),
            "unread": one.unread,
        }
        for check in report.judges
        for kind, one in check.kinds.items()
    ]


def _percent(part: float, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"
