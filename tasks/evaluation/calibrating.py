"""Makes a calibrated panel of labeled rows: whom to ask, in which order, what a vote counts and when to stop.

What is fitted depends on how many labels there are, because a choice among many plans on few rows is worse than a
weighted vote of all, and looks better than it is.
"""

import datetime as dt
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from consensus_flows.blocks.calibration import PAIR, VOTE, Calibration, LearnedVote
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.tasks.evaluation.plans import FittedPlan, Outcome, PlanFitter, Score, Totals, score
from consensus_flows.tasks.evaluation.reliability import Bin, calibration_error, grouped
from consensus_flows.tasks.evaluation.rows import LabelledRow
from consensus_flows.tasks.evaluation.split import fold_of
from consensus_flows.tasks.evaluation.statistics import clopper_pearson

CHOICE_ROWS = 50
"""From so many labeled rows on, a plan is chosen; below, votes are weighted."""
LEARNED_ROWS = 200
"""From so many labeled rows on, there is a learned vote, and the goal decides."""
GROUP_ROWS = 100
"""So many labeled rows of a category are needed for a calibration of its own."""
LEAST_ROWS = 10
"""With fewer labeled rows nothing is calibrated."""
SURE = 0.9
MARGIN = 0.01
WEIGHTED = "log-odds"
SINGLE = "single"
Stage = Literal["weights", "gain", "goal"]
"""What the number of labels allows: weights only, a plan that gains for certain, or the plan that the goal asks for."""


@dataclass(frozen=True)
class Goal:
    """What a calibrated panel should be good at."""

    kind: Literal["accuracy", "cost", "budget"]
    """Most right answers; least cost at no less than `margin` below the best member; most right answers within `usd`."""
    margin: float = MARGIN
    """How much accuracy may be lost against the best member for a lower cost, for example 0.01."""
    usd: float | None = None
    """Maximum cost of a question in US dollars."""


class PlanFigures(BaseModel):
    """What a plan was worth on rows that it was not fitted on."""

    plan: str
    right: int
    accuracy: float
    calls: float
    """A question."""
    cost_usd: float | None
    """A question."""
    better: int
    """Number of rows on which only the plan is right, not the best member."""
    worse: int
    gain: float
    """Difference of the accuracies of the plan and of the best member."""
    gain_se: float
    """Standard error of the gain, over questions."""


class Dropped(BaseModel):
    """A member that is not in the calibrated panel."""

    member: str
    right_with: int | None = None
    """Number of rows that the plan has right with the member; None where the plan does not ask it in any case."""
    right_without: int | None = None


class Calibrated(BaseModel):
    """A panel that was calibrated on labeled rows."""

    stage: Stage
    plan: str
    """The name of the plan."""
    members: list[str]
    """Members that it may ask, in order."""
    dropped: list[Dropped]
    figures: PlanFigures
    """Of the whole calibration: on each fifth of the rows, what was chosen and fitted on the others."""
    single: PlanFigures
    """Of the best member, chosen in the same way."""
    reliability: list[Bin]
    """How right the answers are by their stated probability, in the same way."""
    calibration_error: float
    """By how much the stated probability and the share that is right differ, over the groups of `reliability`."""
    tried: list[PlanFigures]
    """Plans among which was chosen, from best to worst, on rows that they were not fitted on; the choice was made on these."""
    calibration: Calibration
    settings: dict[str, Any]
    """Changes to the settings of the vote, as JSON, the calibration among them."""


class Choice(NamedTuple):
    """A plan, and the members that are left for it."""

    plan: str
    kept: tuple[int, ...]
    dropped: tuple[Dropped, ...]
    tried: tuple[PlanFigures, ...]


def stage_of(rows: int) -> Stage:
    """Tell what so many labeled rows allow."""
    return "weights" if rows < CHOICE_ROWS else "gain" if rows < LEARNED_ROWS else "goal"


def calibrate(
    rows: Sequence[LabelledRow],
    members: Sequence[str],
    goal: Goal,
    *,
    extract: str,
    ids_digest: str,
    questions: str = "",
    date: dt.date,
    prompts: str | None = None,
    prices_date: dt.date | None = None,
) -> Calibrated:
    """Choose and fit a way to ask a panel.

    Args:
        rows: Labeled rows.
        members: The names of the members, in the order of the rows' answers.
        goal: What it should be good at.
        extract: How the answers were read.
        ids_digest: Digest of the ids of the rows.
        questions: Hashes of the questions.
        date: Day of the calibration.
        prompts: Digest or name of the prompts.
        prices_date: Day of the prices.

    Returns:
        The panel, with figures from rows that nothing was chosen or fitted on.

    Raises:
        ValueError: If there are too few rows, or no plan is within the budget.
    """
    if len(rows) < LEAST_ROWS:
        raise ValueError(f"{len(rows)} labeled rows are too few to calibrate on: label at least {LEAST_ROWS}")
    choice = choose(rows, members, goal)
    plan = fitted_choice(rows, members, choice)
    if goal.usd is not None and (cost := _cost_of(plan, rows, choice)) > goal.usd:
        raise ValueError(
            f"budget: {goal.usd:g} US dollars a question pay for no plan; the cheapest one, {plan.name}, costs {cost:.4g}"
        )
    outcomes, singles = _honest(rows, members, goal)
    found, alone = score(rows, outcomes), score(rows, singles)
    reliability = grouped((one.confidence, one.right) for one in outcomes if one.confidence is not None)
    sure = [one for one in outcomes if one.confidence is not None and one.confidence >= SURE]
    settings = settings_of(plan)
    calibration = Calibration(
        **probability_of(plan),
        rows=len(rows),
        ids_digest=ids_digest,
        questions=questions,
        date=date,
        extract=extract,
        prompts=prompts,
        prices_date=prices_date,
        accuracy=found.right / len(rows),
        interval=clopper_pearson(found.right, len(rows)),
        cost_usd=None if found.cost_usd is None else found.cost_usd / len(rows),
        calls=found.calls / len(rows),
        unanimous=sum(_unanimous(row, one) for row, one in zip(rows, outcomes, strict=True)) / len(rows),
        sure=len(sure) / len(rows),
        sure_accuracy=sum(one.right for one in sure) / len(sure) if sure else None,
    )
    differ = Counter((one.right, other.right) for one, other in zip(outcomes, singles, strict=True))
    return Calibrated(
        stage=stage_of(len(rows)),
        plan=choice.plan,
        members=settings["members"],
        dropped=list(choice.dropped),
        figures=_figures(choice.plan, found, differ[True, False], differ[False, True], len(rows)),
        single=_figures(plan_name_of_single(rows, members), alone, 0, 0, len(rows)),
        reliability=reliability,
        calibration_error=calibration_error(reliability),
        tried=list(choice.tried),
        calibration=calibration,
        settings=settings | {"calibration": calibration.model_dump(mode="json")},
    )


def _cost_of(plan: FittedPlan, rows: Sequence[LabelledRow], choice: Choice) -> float:
    """What a question costs, as the choice was made; of weights, with which nothing was chosen, on these rows."""
    if choice.tried:
        return next(_cost(one) for one in choice.tried if one.plan == choice.plan)
    found = Totals(rows).score(plan).cost_usd
    return math.inf if found is None else found / len(rows)


def by_group(rows: Sequence[LabelledRow], least: int = GROUP_ROWS) -> dict[str | None, list[LabelledRow]]:
    """Split rows by category; the rows of categories with fewer than `least` rows are together, under None."""
    size = Counter(row.group for row in rows)
    groups: dict[str | None, list[LabelledRow]] = {}
    for row in rows:
        groups.setdefault(row.group if size[row.group] >= least else None, []).append(row)
    return groups


def plan_name_of_single(rows: Sequence[LabelledRow], members: Sequence[str]) -> str:
    """Name the plan that asks the best member alone."""
    return f"{SINGLE}:{members[PlanFitter(rows, members).fits.best_first[0]]}"


def _honest(rows: Sequence[LabelledRow], members: Sequence[str], goal: Goal) -> tuple[list[Outcome], list[Outcome]]:
    """Replay each row by what was chosen and fitted on the other folds; also by the best member of the other folds."""
    folds = [fold_of(row) for row in rows]
    chosen: dict[int, Outcome] = {}
    alone: dict[int, Outcome] = {}
    for fold in set(folds):
        train = [row for row, own in zip(rows, folds, strict=True) if own != fold]
        choice = choose(train, members, goal, stage_of(len(rows)))
        plan, single = fitted_choice(train, members, choice), PlanFitter(train, members).plan(SINGLE)
        for position, row in enumerate(rows):
            if folds[position] == fold:
                found = plan.replay(part(row, choice.kept))
                chosen[position] = found._replace(asked=tuple(choice.kept[one] for one in found.asked))
                alone[position] = single.replay(row)
    return [chosen[position] for position in range(len(rows))], [alone[position] for position in range(len(rows))]


class _Trial:
    """Plans for some of the members, judged on folds that they were not fitted on."""

    def __init__(self, rows: Sequence[LabelledRow], members: Sequence[str], kept: Sequence[int]) -> None:
        self.rows = [part(row, kept) for row in rows]
        self.members = [members[one] for one in kept]

    @cached_property
    def folds(self) -> list[tuple[PlanFitter, Totals]]:
        """For each fold what fits on the others, and the rows of the fold added up."""
        own = [fold_of(row) for row in self.rows]
        return [
            (
                PlanFitter([row for row, one in zip(self.rows, own, strict=True) if one != fold], self.members),
                Totals([row for row, one in zip(self.rows, own, strict=True) if one == fold]),
            )
            for fold in sorted(set(own))
        ]

    @cached_property
    def single(self) -> FittedPlan:
        """The best member, seen on all rows: a plan is not to look good beside one that was badly chosen."""
        return PlanFitter(self.rows, self.members).plan(SINGLE)

    def judge(self, name: str) -> PlanFigures:
        """Return what a plan is worth."""
        scores, better, worse = [], 0, 0
        for fitter, test in self.folds:
            plan = fitter.plan(name)
            scores.append(test.score(plan))
            more, less = test.compare(plan, self.single)
            better, worse = better + more, worse + less
        costs = [one.cost_usd for one in scores]
        cost = None if None in costs else math.fsum(one for one in costs if one is not None)
        whole = Score(sum(one.right for one in scores), sum(one.calls for one in scores), cost)
        return _figures(name, whole, better, worse, len(self.rows))


def choose(rows: Sequence[LabelledRow], members: Sequence[str], goal: Goal, stage: Stage | None = None) -> Choice:
    """Choose a plan by its worth on folds that it was not fitted on, and drop the members that add nothing to it.

    Args:
        rows: Labeled rows.
        members: The names of the members, in the order of the rows' answers.
        goal: What the plan should be good at.
        stage: What is chosen among; default: what the number of rows allows.
    """
    stage = stage or stage_of(len(rows))
    every = tuple(range(len(members)))
    if stage == "weights":
        return Choice(WEIGHTED, every, (), ())
    trial = _Trial(rows, members, every)
    tried = sorted(
        map(trial.judge, _candidates(members, learned=stage == "goal")), key=lambda one: (-one.right, _cost(one))
    )
    plan = _best(tried, goal, stage).plan
    kept, dropped = _without_useless(rows, members, plan)
    return Choice(plan, kept, tuple(dropped), tuple(tried))


def _candidates(members: Sequence[str], *, learned: bool) -> list[str]:
    """List the plans that a vote can be set to."""
    several = range(2, len(members))
    names = [f"{SINGLE}:{name}" for name in members]
    names += ["majority", WEIGHTED, "log-odds-q"]
    names += [f"stop-{count}{order}" for count in several[:2] for order in ("", "-best-first")]
    names += [f"cascade-{count}" for count in several[1:2]]
    names += [f"cascade-{count}-vote" for count in several[:1]]
    # Any two before any third, not only a dearer one: which of them pays is seen on the rows.
    for ask in combinations(members, 2):
        names += [f"cascade:{','.join(ask)}>{then}" for then in members if then not in ask]
    names += [f"cascade-vote:{','.join(trio)}" for trio in combinations(members, 3)]
    if learned:
        names += ["learned", *(f"sequential-learned-{threshold}" for threshold in ("0.8", "0.9", "0.95", "0.99"))]
    return names


def _best(tried: Sequence[PlanFigures], goal: Goal, stage: Stage) -> PlanFigures:
    """Return the plan that fits the goal; `tried` is sorted from best to worst."""
    limit = math.inf if goal.usd is None else goal.usd
    within = [one for one in tried if _cost(one) <= limit] or [min(tried, key=_cost)]
    singles = [one for one in within if one.plan.startswith(f"{SINGLE}:")] or within
    gaining = [one for one in within if one.gain > one.gain_se]
    if stage == "gain":
        weighted = [one for one in within if one.plan == WEIGHTED] or singles
        return (min(gaining, key=_cost) if goal.kind == "cost" else gaining[0]) if gaining else weighted[0]
    if goal.kind == "cost":
        as_good = [one for one in within if one.gain - 1.64 * one.gain_se >= -goal.margin]
        return min(as_good or singles[:1], key=_cost)
    if goal.kind == "budget":
        return within[0]
    return gaining[0] if gaining else singles[0]


def _cost(one: PlanFigures) -> float:
    return math.inf if one.cost_usd is None else one.cost_usd


def _without_useless(
    rows: Sequence[LabelledRow], members: Sequence[str], plan: str
) -> tuple[tuple[int, ...], list[Dropped]]:
    """Drop members one after another as long as the plan is right as often without, and costs no more.

    Both are seen on folds that it was not fitted on. Without a member, a rule to stop may have to ask a dearer one.
    """
    kept = tuple(range(len(members)))
    fitted = PlanFitter(rows, members).plan(plan)
    if fitted.way.then is not None or len(fitted.way.order) < len(members):
        # A plan that names whom it asks is left as it is: the others are never asked.
        return kept, [Dropped(member=members[one]) for one in kept if one not in fitted.way.order]
    dropped: list[Dropped] = []
    whole = _Trial(rows, members, kept).judge(plan)
    least = max(2, 1 + (fitted.way.ask or 0), fitted.way.stop_when or 0)
    while len(kept) > least:
        fewer = [tuple(other for other in kept if other != one) for one in kept]
        found = [(_Trial(rows, members, left).judge(plan), left) for left in fewer]
        as_good = [one for one in found if one[0].right >= whole.right and _cost(one[0]) <= _cost(whole)]
        if not as_good:
            break
        less, left = max(as_good, key=lambda one: (one[0].right, -_cost(one[0])))
        (gone,) = set(kept) - set(left)
        dropped.append(Dropped(member=members[gone], right_with=whole.right, right_without=less.right))
        kept, whole = left, less
    return kept, dropped


def fitted_choice(rows: Sequence[LabelledRow], members: Sequence[str], choice: Choice) -> FittedPlan:
    """Fit what was chosen."""
    kept = [members[one] for one in choice.kept]
    left = [part(row, choice.kept) for row in rows]
    return PlanFitter(left, kept).plan(choice.plan).with_probability(left)


def part(row: LabelledRow, kept: Sequence[int]) -> LabelledRow:
    """The row with the answers of some members only."""
    return row if len(kept) == len(row.answers) else replace(row, answers=tuple(row.answers[one] for one in kept))


def _figures(name: str, found: Score, better: int, worse: int, rows: int) -> PlanFigures:
    return PlanFigures(
        plan=name,
        right=found.right,
        accuracy=found.right / rows,
        calls=found.calls / rows,
        cost_usd=None if found.cost_usd is None else found.cost_usd / rows,
        better=better,
        worse=worse,
        gain=(better - worse) / rows,
        gain_se=math.sqrt(better + worse - (better - worse) ** 2 / rows) / rows,
    )


def _unanimous(row: LabelledRow, outcome: Outcome) -> bool:
    """Tell whether all members that were asked gave the same answer."""
    given = {row.pattern[one] for one in outcome.asked}
    return len(given) == 1 and None not in given


def settings_of(plan: FittedPlan) -> dict[str, Any]:
    """Return the changes to the settings of a vote that make it ask as a plan does, as JSON.

    Raises:
        ValueError: If a vote cannot be set to the plan.
    """
    way = plan.way
    if way.unseen is not None:
        raise ValueError(f"{plan.name}: a vote has no such rule")
    names = _names(plan)
    settings: dict[str, Any] = {"members": [plan.members[one].partition("#")[0] for one in way.order]}
    if way.tie_order is not None and way.tie_order != way.order:
        settings["tie_order"] = [names[one] for one in way.tie_order if one in names]
    if way.weights is not None:
        settings["weights"] = {names[one]: round(way.weights[one], 4) for one in way.order}
    if way.learned is not None:
        settings["learned"] = _renamed(way.learned, plan, names).model_dump(mode="json")
    if way.stop_when is not None:
        settings["stop_when"] = way.stop_when
    if way.ask is not None:
        then = VOTE if way.then is None else names[way.then]
        settings["cascade"] = {"ask": [names[one] for one in way.order[: way.ask]], "agree": way.ask, "then": then}
    elif way.stop_at is not None:
        settings["stop_at_confidence"] = way.stop_at
    return settings


def probability_of(plan: FittedPlan) -> dict[str, Any]:
    """Return what the calibration says of how probable an answer of a plan is, as JSON; nothing of a learned vote."""
    if plan.probability is None:
        return {}
    fitted = _renamed(plan.probability, plan, _names(plan))
    rule = VoteConfig.model_validate(settings_of(plan)).rule_digest()
    return {"probability": fitted.model_dump(mode="json"), "rule": rule}


def _names(plan: FittedPlan) -> dict[int, str]:
    """The names of the members in the order in which they are asked: an instance counts within those of its model."""
    models = [plan.members[one].partition("#")[0] for one in plan.way.order]
    instance = Counter[str]()
    names = {}
    for one, model in zip(plan.way.order, models, strict=True):
        instance[model] += 1
        names[one] = model if models.count(model) == 1 else f"{model}#{instance[model]}"
    return names


def _renamed(learned: LearnedVote, plan: FittedPlan, names: dict[int, str]) -> LearnedVote:
    new = {plan.members[position]: name for position, name in names.items()}
    return LearnedVote(
        intercept=learned.intercept,
        members={new[name]: value for name, value in learned.members.items()},
        share=learned.share,
        two_or_more=learned.two_or_more,
        unanimous=learned.unanimous,
        pairs={f"{new[a]}{PAIR}{new[b]}": learned.pairs[f"{a}{PAIR}{b}"] for a, b in combinations(learned.members, 2)},
    )
