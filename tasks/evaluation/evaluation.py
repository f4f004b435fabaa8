"""What a panel is worth: every way to ask it, judged on labeled rows that it was not fitted on, beside its best member alone."""

import datetime as dt
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pydantic import BaseModel

from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.evaluation.agreement import Ties, Unanimous, shares_of_pairs, unanimous_and_ties
from consensus_flows.tasks.evaluation.labelled import Note, PanelAnswers, today
from consensus_flows.tasks.evaluation.plans import Outcome, can_be_asked, fit_plans, plan_names
from consensus_flows.tasks.evaluation.rows import LabelledRow, known_sum
from consensus_flows.tasks.evaluation.split import fold_of, halves
from consensus_flows.tasks.evaluation.statistics import (
    ALPHA,
    Interval,
    bootstrap,
    clopper_pearson,
    holm,
    least_difference,
    mcnemar,
    rows_needed,
)

Split = Literal["folds", "half"]
SINGLE = "single"
"""The plan that asks the best member alone, as the rows that are not judged have it."""
SINGLE_AT_PRICE = "single-at-panel-price"
"""The plan that asks the best member that costs no more than the panel."""
VOTE = "majority-listed"
"""The plan that is a vote of the members as they are listed."""
MARGIN = 0.01
"""A loss of accuracy that is none to speak of."""
WORTHWHILE = 0.02
"""A gain of accuracy for which it is said how many rows it takes to show it."""


class PlanResult(BaseModel):
    """How one way to ask did on the rows that are judged."""

    plan: str
    right: int
    calls: int
    cost_usd: float | None
    """Of all rows together; None if a price is not known."""
    accuracy: float
    ci: Interval
    """Of the accuracy, by a bootstrap over questions."""
    difference: float
    """Of the accuracy to that of the best member alone."""
    difference_ci: Interval
    """Paired, by a bootstrap over questions."""
    better: int
    """Rows on which it is right and the best member alone is not."""
    worse: int
    p: float
    """Of McNemar's exact test against the best member alone."""
    p_holm: float
    """The same, adjusted after Holm for all plans that were compared."""


class MemberResult(BaseModel):
    """How one member did alone on the rows that are judged."""

    member: str
    right: int
    accuracy: float
    ci: Interval
    cost_usd: float | None
    unread: int
    """Rows without an answer of it, whatever the cause."""
    failed: int
    missing: int
    """Rows for which it was not asked, of the whole file."""


class Verdict(BaseModel):
    """What can be said of a panel beside its best member."""

    plan: str
    kind: Literal["better", "worse", "as_good", "cannot_tell"]
    """`as_good`: with 95 % confidence it loses less than a point."""
    difference: float
    ci: Interval
    cost_factor: float | None
    """Its cost as a multiple of that of the best member alone."""
    rows: int
    rows_needed: int | None = None
    """About how many rows would show a gain of `gain`; only if the rows cannot tell."""
    gain: float | None = None


class Ceiling(BaseModel):
    """The accuracy that no way of choosing among the members' answers can exceed."""

    right: int
    """Rows on which at least one member is right."""
    accuracy: float
    upper: float
    """Upper end of the exact interval of that share."""


class RowOutcome(BaseModel):
    """What a plan made of a row."""

    answer: str | None
    right: bool
    asked: list[str] = []
    confidence: float | None = None
    cost_usd: float | None = None


class RowResult(BaseModel):
    """One row that was judged."""

    id: str
    label: str
    group: str | None = None
    readings: dict[str, RowOutcome]
    """By member."""
    plans: dict[str, RowOutcome]


class Comparison(BaseModel):
    """A panel beside an earlier evaluation of it, on the rows that both have."""

    plan: str
    rows: int
    right: int
    right_before: int
    better: int
    worse: int
    p: float
    fell: bool
    """Whether it is less accurate by more than chance."""


class Evaluation(BaseModel):
    """What a panel is worth on labeled rows."""

    rows: int
    """Rows with a label."""
    calibration: int
    """Rows that each plan was fitted on, at least."""
    test: int
    """Rows that are judged, none of them by a plan that was fitted on it."""
    split: Split
    seed: int
    extract: str | None
    date: dt.date
    flow_run_id: str | None = None
    panels: list[str]
    """The plans that are the panels in question."""
    plans: list[PlanResult]
    recommended: str
    """The plan to use: the most accurate of those better than the best member alone, else the cheapest as good as it."""
    verdict: Verdict
    """On the first panel."""
    ceiling: Ceiling
    unanimous: Unanimous
    ties: Ties
    members: list[MemberResult]
    agreement: list[list[float]] = []
    """For each member and each member, in order, the share of the rows on which both give the same answer."""
    notes: list[Note] = []
    baseline: Comparison | None = None
    row_results: list[RowResult] = []

    def plan(self, name: str) -> PlanResult:
        """Return the figures of a plan."""
        return next(one for one in self.plans if one.plan == name)


class Answered(NamedTuple):
    """How a plan, or a panel that was really run, ended for a row."""

    answer: Hashable | None
    text: str | None
    calls: int
    cost_usd: float | None
    asked: tuple[int, ...] = ()
    confidence: float | None = None


@dataclass(frozen=True)
class PanelRun:
    """A panel that was really asked every row: what it answered, by the id of the row."""

    name: str
    answers: Mapping[str, Answered] = field(repr=False)


def split_rows(
    rows: Sequence[LabelledRow], how: Split, seed: int = 0
) -> list[tuple[Sequence[LabelledRow], Sequence[LabelledRow]]]:
    """Return the rows that plans are fitted on, and those that they are judged on.

    Args:
        rows: All rows.
        how: `folds` judges each fifth by plans that are fitted on the others; `half` fits on one half and judges the other.
        seed: Draws other halves.
    """
    if how == "half":
        return [halves(rows, seed)]
    folds = [fold_of(row) for row in rows]
    return [
        (
            [row for row, own in zip(rows, folds, strict=True) if own != fold],
            [row for row, own in zip(rows, folds, strict=True) if own == fold],
        )
        for fold in sorted(set(folds))
    ]


def evaluate_rows(
    answered: PanelAnswers,
    *,
    split: Split = "folds",
    seed: int = 0,
    extract: str | None = None,
    panels: Sequence[PanelRun] = (),
    named: Sequence[str] = (),
) -> Evaluation:
    """Judge every way to ask the members, and panels that were really run.

    Args:
        answered: The rows with the members' answers.
        split: On which rows plans are fitted, and on which they are judged.
        seed: Draws other halves.
        extract: How answers were read.
        panels: Panels that were really run.
        named: Further plans, by their names.

    Raises:
        ConfigurationError: If there are too few rows, or there is no plan of a name.
    """
    rows, members = answered.rows, answered.members
    parts = split_rows(rows, split, seed)
    if any(not fit or not test for fit, test in parts):
        raise ConfigurationError("label: too few different rows: none is left to fit on, or to judge")
    found: dict[str, dict[str, Answered]] = {}
    for fit, test in parts:
        for name, answers in _replayed(fit, test, members, panels, named).items():
            found.setdefault(name, {}).update(zip((row.id for row in test), answers, strict=True))
    ids = {row.id for _, test in parts for row in test}
    tested = [row for row in rows if row.id in ids]
    # A plan that there is not on every fold is none that can be compared.
    judged = {name: [by_row[row.id] for row in tested] for name, by_row in found.items() if len(by_row) == len(tested)}
    names = [one.name for one in panels] or [VOTE]
    right = {
        name: [one.answer == row.label for one, row in zip(answers, tested, strict=True)]
        for name, answers in judged.items()
    }
    alone = {name: [row.answers[at].answer == row.label for row in tested] for at, name in enumerate(answered.members)}
    plans, alone_ci = _compared(judged, right, alone, names)
    some = sum(map(any, zip(*alone.values(), strict=True)))
    unanimous, ties = unanimous_and_ties(tested, members)
    return Evaluation(
        rows=len(rows),
        calibration=min(len(fit) for fit, _ in parts),
        test=len(tested),
        split=split,
        seed=seed,
        extract=extract,
        date=today(),
        panels=names,
        plans=plans,
        recommended=recommended(plans, len(tested)),
        verdict=_verdict(plans, names[0], len(tested)),
        ceiling=Ceiling(right=some, accuracy=some / len(tested), upper=clopper_pearson(some, len(tested))[1]),
        unanimous=unanimous,
        ties=ties,
        members=[
            MemberResult(
                member=name,
                right=sum(alone[name]),
                accuracy=sum(alone[name]) / len(tested),
                ci=alone_ci[name],
                cost_usd=known_sum(row.answers[at].cost_usd for row in tested),
                unread=sum(row.answers[at].answer is None for row in tested),
                failed=answered.failed[name],
                missing=answered.missing[name],
            )
            for at, name in enumerate(members)
        ],
        notes=answered.notes,
        agreement=shares_of_pairs(tested, members),
        row_results=_row_results(answered, tested, judged, right),
    )


def _replayed(
    fit: Sequence[LabelledRow],
    test: Sequence[LabelledRow],
    members: Sequence[str],
    panels: Sequence[PanelRun],
    named: Sequence[str],
) -> dict[str, list[Answered]]:
    """Return how each plan, fitted on some rows, ends for others."""
    ways: dict[str, Callable[[LabelledRow], Answered]] = {
        one.name: lambda row, one=one: one.answers[row.id]  # type: ignore[misc]
        for one in panels
    }
    try:
        fitted = fit_plans(fit, members, names=[*dict.fromkeys([*plan_names(members), *named])])
    except ValueError as error:
        raise ConfigurationError(f"plan: {error}") from None
    for name, plan in fitted.items():
        ways[name] = lambda row, plan=plan: _answered(row, plan.replay(row))  # type: ignore[misc]
    limit = _mean_cost([ways[panels[0].name if panels else VOTE](row) for row in fit])
    # Of members that are right equally often, the one listed first.
    if affordable := [name for name in members if _costs_at_most(limit, [ways[f"single:{name}"](row) for row in fit])]:
        best = max(affordable, key=lambda name: sum(ways[f"single:{name}"](row).answer == row.label for row in fit))
        ways[SINGLE_AT_PRICE] = ways[f"single:{best}"]
    return {name: [way(row) for row in test] for name, way in ways.items()}


def _answered(row: LabelledRow, ended: Outcome) -> Answered:
    text = next((one.text for one in row.answers if ended.answer is not None and one.answer == ended.answer), None)
    return Answered(ended.answer, text, row.calls(ended.asked), row.cost(ended.asked), ended.asked, ended.confidence)


def _mean_cost(answers: Sequence[Answered]) -> float | None:
    total = known_sum(one.cost_usd for one in answers)
    return None if total is None else total / len(answers)


def _costs_at_most(limit: float | None, answers: Sequence[Answered]) -> bool:
    cost = _mean_cost(answers)
    return limit is not None and cost is not None and cost <= limit


def _compared(
    judged: Mapping[str, Sequence[Answered]],
    right: Mapping[str, Sequence[bool]],
    alone: Mapping[str, Sequence[bool]],
    panels: Sequence[str],
) -> tuple[list[PlanResult], dict[str, Interval]]:
    """Compare the plans with the best member alone; return that, and the interval of each member's accuracy."""
    single = right[SINGLE]
    rows = len(single)
    columns: dict[tuple[str, str], Sequence[float]] = {("member", name): hits for name, hits in alone.items()}
    for name, hits in right.items():
        columns["right", name] = hits
        columns["difference", name] = [a - b for a, b in zip(hits, single, strict=True)]
    ci = bootstrap(columns)
    paired = {name: mcnemar(hits, single) for name, hits in right.items()}
    others = [name for name in right if not name.startswith(SINGLE) and name not in panels]
    adjusted = holm({name: paired[name].p for name in panels}) | holm({name: paired[name].p for name in others})
    plans = [
        PlanResult(
            plan=name,
            right=sum(hits),
            calls=sum(one.calls for one in judged[name]),
            cost_usd=known_sum(one.cost_usd for one in judged[name]),
            accuracy=sum(hits) / rows,
            ci=ci["right", name],
            difference=(sum(hits) - sum(single)) / rows,
            difference_ci=ci["difference", name],
            better=paired[name].better,
            worse=paired[name].worse,
            p=paired[name].p,
            p_holm=adjusted.get(name, paired[name].p),
        )
        for name, hits in right.items()
    ]
    return plans, {name: ci["member", name] for name in alone}


def _verdict(plans: Sequence[PlanResult], panel: str, rows: int) -> Verdict:
    plan, single = (next(one for one in plans if one.plan == name) for name in (panel, SINGLE))
    kind: Literal["better", "worse", "as_good", "cannot_tell"] = "cannot_tell"
    if plan.p_holm < ALPHA and plan.difference:
        kind = "better" if plan.difference > 0 else "worse"
    elif _as_good(plan, rows):
        kind = "as_good"
    found = Verdict(
        plan=plan.plan,
        kind=kind,
        difference=plan.difference,
        ci=plan.difference_ci,
        cost_factor=plan.cost_usd / single.cost_usd if plan.cost_usd is not None and single.cost_usd else None,
        rows=rows,
    )
    if kind == "cannot_tell":
        gain = max(abs(plan.difference), WORTHWHILE)
        needed = rows_needed(gain, (plan.better + plan.worse) / rows)
        # As many rows as there are cannot be enough: the test has just said so.
        if needed is not None and needed > rows:
            found.rows_needed, found.gain = needed, gain
    return found


def _as_good(plan: PlanResult, rows: int) -> bool:
    return least_difference(plan.better, plan.worse, rows) > -MARGIN


def recommended(plans: Sequence[PlanResult], rows: int) -> str:
    """Return the plan to use; that several were looked at is taken into account by Holm's correction."""
    single = next(one for one in plans if one.plan == SINGLE)
    others = [one for one in plans if not one.plan.startswith(SINGLE) and can_be_asked(one.plan)]
    if better := [one for one in others if one.p_holm < ALPHA and one.difference > 0]:
        return max(better, key=lambda one: (one.right, -(one.cost_usd or 0.0))).plan
    as_good = {
        one.plan: one.cost_usd
        for one in others
        if _as_good(one, rows) and one.cost_usd is not None and one.cost_usd < (single.cost_usd or 0.0)
    }
    return min(as_good, key=lambda name: as_good[name]) if as_good else SINGLE


def _row_results(
    answered: PanelAnswers,
    rows: Sequence[LabelledRow],
    judged: Mapping[str, Sequence[Answered]],
    right: Mapping[str, Sequence[bool]],
) -> list[RowResult]:
    return [
        RowResult(
            id=row.id,
            label=answered.labels[row.id],
            group=row.group,
            readings={
                name: RowOutcome(answer=one.text, right=one.answer == row.label, cost_usd=one.cost_usd)
                for name, one in zip(answered.members, row.answers, strict=True)
            },
            plans={
                name: RowOutcome(
                    answer=answers[at].text,
                    right=right[name][at],
                    asked=[answered.members[place] for place in answers[at].asked],
                    confidence=answers[at].confidence,
                    cost_usd=answers[at].cost_usd,
                )
                for name, answers in judged.items()
            },
        )
        for at, row in enumerate(rows)
    ]


def compared(now: Evaluation, before: Evaluation) -> Comparison:
    """Compare the panel with an earlier evaluation of it, on the rows that both have.

    Raises:
        ConfigurationError: If there is nothing to compare.
    """
    plan = now.verdict.plan
    earlier = {row.id: row.plans[plan].right for row in before.row_results if plan in row.plans}
    pairs = [(row.plans[plan].right, earlier[row.id]) for row in now.row_results if row.id in earlier]
    if not pairs:
        raise ConfigurationError(
            f"baseline: it has no row of this file that {plan} was judged on; use the evaluation.json that --report writes"
        )
    found = mcnemar([one for one, _ in pairs], [one for _, one in pairs])
    return Comparison(
        plan=plan,
        rows=len(pairs),
        right=sum(one for one, _ in pairs),
        right_before=sum(one for _, one in pairs),
        better=found.better,
        worse=found.worse,
        p=found.p,
        fell=found.worse > found.better and found.p < ALPHA,
    )
