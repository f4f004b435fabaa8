"""Ways to ask a panel, each with a name: fitted on labeled rows, then replayed on recorded answers without a call.

| name | whom it asks | what it answers |
|---|---|---|
| `single`, `single:M` | the best member; member M | what it says |
| `majority-listed` | all | most votes; of a tie the answer of the member listed first |
| `majority` | all | most votes; of a tie the answer of the best member |
| `log-odds` | all | most weight: the log-odds of being right |
| `log-odds-q` | all | most weight: the log-odds less the logarithm of how often wrong answers agree |
| `dawid-skene` | all | most weight, fitted without labels |
| `learned` | all | the most probable answer of the learned vote |
| `stop-K` | cheapest first, until K agree | theirs; else most votes, of a tie the answer given first |
| `stop-K-best-first` | best first, until K agree | the same |
| `sequential-T` | cheapest first, until naive Bayes gives an answer probability T | the most probable answer |
| `sequential-learned-T` | cheapest first, until the learned vote gives an answer probability T | the most probable answer |
| `cascade-K` | the K cheapest besides the best member; if they differ, the best | theirs; else the best member's |
| `cascade-K-vote` | the same; if they differ, all | theirs; else most weight, as `log-odds-q` |
| `cascade:A,B>C` | A and B; if they differ, C | theirs; else C's |
| `cascade-vote:A,B,C` | A and B; if they differ, C | theirs; else most weight of the three, as `log-odds-q` |
| `plan-equal-cost` | as the plan that is right most often at no more than the best member's cost | as that plan |
| `plan-any-cost` | as the plan that is right most often | as that plan |

Where the member that decides a cascade gives no answer, those asked before it do, by most votes.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

from consensus_flows.blocks.calibration import LearnedVote
from consensus_flows.blocks.spelling import did_you_mean
from consensus_flows.tasks.counting.learned import probabilities
from consensus_flows.tasks.evaluation.fits import Fits, fit_members, fit_without_labels, without_label_weights
from consensus_flows.tasks.evaluation.learned import fit_cases, fit_learned
from consensus_flows.tasks.evaluation.rows import LabelledRow, MemberReading, Pattern, known_sum, voters_of

THRESHOLDS = ("0.9", "0.95", "0.99")
"""Probabilities at which the sequential plans stop, where none is named."""


class Decision(NamedTuple):
    """How a plan ends for a pattern of answers."""

    chosen: int | None
    """The number of the answer in the pattern; None for no answer."""
    asked: tuple[int, ...]
    """Positions of the members that were asked, in the order of asking."""
    confidence: float | None = None


class Outcome(NamedTuple):
    """How a plan ends for a row."""

    answer: Hashable | None
    """The answer, or None where there is none."""
    asked: tuple[int, ...]
    """Positions of the members that were asked, in the order of asking."""
    confidence: float | None = None
    """The probability that the answer is right, where the plan states one."""
    right: bool = False


class Score(NamedTuple):
    """What a plan was worth on some rows."""

    right: int
    calls: int
    cost_usd: float | None
    """In US dollars, all rows together; None if a price is unknown."""


@dataclass(frozen=True)
class Way:
    """A way to ask a panel, everything fitted put in. Members are positions."""

    order: tuple[int, ...]
    """Whom it may ask, in the order of asking."""
    weights: tuple[float, ...] | None = None
    """What each member's vote counts, all members in their order; default: 1 each."""
    tie_order: tuple[int, ...] | None = None
    """Whose answer wins a tie, the first one first; default: in the order of asking."""
    learned: LearnedVote | None = None
    """What counts the votes instead of weights."""
    stop_when: int | None = None
    """Number of votes at which to stop."""
    stop_at: float | None = None
    """Probability at which to stop: of the learned vote, or of naive Bayes where `unseen` is given."""
    unseen: float | None = None
    """Odds of all answers that nobody gave, in naive Bayes."""
    ask: int | None = None
    """How many of the first are asked; if all give the same answer, that is it."""
    then: int | None = None
    """Who decides if they do not; default: a vote of all in `order`."""


@dataclass(frozen=True)
class FittedPlan:
    """A way to ask a panel that has a name.

    What a plan does depends only on who agrees with whom, so it decides once for each pattern.
    """

    name: str
    way: Way
    members: tuple[str, ...]
    probability: LearnedVote | None = None
    """How probable it is that the answer is right, by who of `way.order` gave it; of a plan without a learned vote."""
    _decided: dict[Pattern, Decision] = field(default_factory=dict, repr=False, compare=False)

    def replay(self, row: LabelledRow) -> Outcome:
        """Return how the plan ends for a row, from the answers that are recorded."""
        pattern = row.pattern
        decision = self.decide(pattern)
        if decision.chosen is None:
            return Outcome(None, decision.asked)
        answer = row.answers[pattern.index(decision.chosen)].answer
        return Outcome(answer, decision.asked, decision.confidence, decision.chosen == row.truth)

    def decide(self, pattern: Pattern) -> Decision:
        """Return how the plan ends where the answers agree like this."""
        if (found := self._decided.get(pattern)) is None:
            found = self._decide(pattern)
            if self.probability is not None and (voters := self.voters(pattern, found)):
                names = [self.members[one] for one in self.way.order]
                found = found._replace(confidence=probabilities(self.probability, {0: voters}, names)[0])
            self._decided[pattern] = found
        return found

    def voters(self, pattern: Pattern, decision: Decision) -> tuple[int, ...]:
        """Return who of those asked gave the answer, as places in `way.order`; none where there is no answer."""
        return tuple(
            place
            for place, one in enumerate(self.way.order)
            if one in decision.asked and decision.chosen is not None and pattern[one] == decision.chosen
        )

    def with_probability(self, rows: Sequence[LabelledRow]) -> "FittedPlan":
        """Return the plan with how probable its answers are, fitted on labeled rows; a learned vote says that already.

        On the recorded panels this is better calibrated than a table of how often each outcome was right (docs/calibrate.md).
        """
        if self.way.learned is not None:
            return self
        decided = [(row, self.decide(row.pattern)) for row in rows]
        cases = [
            (self.voters(row.pattern, one), one.chosen == row.truth) for row, one in decided if one.chosen is not None
        ]
        fitted = fit_cases(cases, [self.members[one] for one in self.way.order], shrunk=True)
        return replace(self, probability=fitted, _decided={})

    def _decide(self, pattern: Pattern) -> Decision:
        way = self.way
        asked = way.order
        if way.ask is not None:
            first = asked[: way.ask]
            given = {pattern[member] for member in first}
            if len(given) == 1 and None not in given:
                return Decision(given.pop(), first)
            if way.then is not None:
                own = pattern[way.then]
                return Decision(_most_votes(pattern, first) if own is None else own, (*first, way.then))
        elif way.stop_when is not None:
            counts: dict[int, int] = {}
            for count, member in enumerate(asked, 1):
                if (number := pattern[member]) is not None:
                    counts[number] = counts.get(number, 0) + 1
                    if counts[number] >= way.stop_when:
                        return Decision(number, asked[:count])
        elif way.stop_at is not None:
            for count in range(1, len(asked)):
                leader, probability = self._leader(pattern, asked[:count])
                if probability is not None and probability >= way.stop_at:
                    return Decision(leader, asked[:count], None if way.learned is None else probability)
        leader, probability = self._leader(pattern, asked)
        return Decision(leader, asked, None if way.learned is None else probability)

    def _leader(self, pattern: Pattern, asked: tuple[int, ...]) -> tuple[int | None, float | None]:
        """The answer that leads among those of the members asked, and its probability where there is one."""
        way = self.way
        by_tie = sorted(asked, key=(way.tie_order or way.order).index)
        voters = voters_of(pattern, by_tie)
        if not voters:
            return None, None
        if way.learned is not None:
            chances = probabilities(way.learned, voters, self.members)
            leader = max(chances, key=lambda number: chances[number])
            return leader, chances[leader]
        found = _most_votes(pattern, by_tie, way.weights)
        if way.unseen is None or way.weights is None or found is None:
            return found, None
        odds = {number: math.exp(sum(way.weights[voter] for voter in one)) for number, one in voters.items()}
        return found, odds[found] / (sum(odds.values()) + max(0, way.unseen + 1 - len(odds)))


def _most_votes(pattern: Pattern, members: Sequence[int], weights: Sequence[float] | None = None) -> int | None:
    """The answer of the most votes; of a tie, the one given by whoever comes first in `members`."""
    voters = voters_of(pattern, members)

    def votes(number: int) -> float:
        found = voters[number]
        return len(found) if weights is None else math.fsum(weights[voter] for voter in found)

    return max(voters, key=votes, default=None)


def score(rows: Sequence[LabelledRow], outcomes: Iterable[Outcome]) -> Score:
    """Sum up how a plan ended for rows."""
    right = calls = 0
    costs: list[float | None] = []
    for row, outcome in zip(rows, outcomes, strict=True):
        right += outcome.right
        calls += row.calls(outcome.asked)
        costs.append(row.cost(outcome.asked))
    return Score(right, calls, known_sum(costs))


class Totals:
    """Rows added up by who agrees with whom and who is right, which is all that a plan's score depends on."""

    def __init__(self, rows: Sequence[LabelledRow]) -> None:
        self.rows: Counter[tuple[Pattern, int | None]] = Counter()
        alike: dict[tuple[Pattern, int | None], list[tuple[MemberReading, ...]]] = {}
        for row in rows:
            self.rows[row.pattern, row.truth] += 1
            alike.setdefault((row.pattern, row.truth), []).append(row.answers)
        self.calls = {
            key: [sum(one.calls for one in own) for own in zip(*of, strict=True)] for key, of in alike.items()
        }
        self.costs = {
            key: [
                math.fsum(math.nan if one.cost_usd is None else one.cost_usd for one in own)
                for own in zip(*of, strict=True)
            ]
            for key, of in alike.items()
        }

    def score(self, plan: FittedPlan) -> Score:
        """Return what a plan is worth on the rows."""
        right = calls = 0
        costs = []
        for (pattern, truth), count in self.rows.items():
            chosen, asked, _ = plan.decide(pattern)
            right += count * (chosen is not None and chosen == truth)
            calls += sum(self.calls[pattern, truth][member] for member in asked)
            costs += [self.costs[pattern, truth][member] for member in asked]
        cost = math.fsum(costs)
        return Score(right, calls, None if math.isnan(cost) else cost)

    def compare(self, plan: FittedPlan, other: FittedPlan) -> tuple[int, int]:
        """Return on how many rows only the plan is right, and on how many only the other."""
        better = worse = 0
        for (pattern, truth), count in self.rows.items():
            one, two = (truth is not None and each.decide(pattern).chosen == truth for each in (plan, other))
            better += count * (one and not two)
            worse += count * (two and not one)
        return better, worse


def plan_names(members: Sequence[str]) -> list[str]:
    """List the plans that are fitted where none is named: those of the table that need no choice among members."""
    several = range(2, len(members))
    return [
        *(f"single:{name}" for name in members),
        *("single", "majority", "majority-listed", "log-odds", "log-odds-q", "dawid-skene", "learned"),
        *(f"stop-{count}{order}" for count in several[:2] for order in ("", "-best-first")),
        *(f"sequential-{threshold}" for threshold in THRESHOLDS),
        *(f"sequential-learned-{threshold}" for threshold in THRESHOLDS),
        *(f"cascade-{count}" for count in several[:2]),
        *(f"cascade-{count}-vote" for count in several[:1]),
        *("plan-equal-cost", "plan-any-cost"),
    ]


def can_be_asked(name: str) -> bool:
    """Tell whether a vote can be set to a plan: not to one that is fitted without labels, stops by naive Bayes, or chooses a plan."""
    return name != "dawid-skene" and not re.match(r"sequential-[0-9.]|plan-", name)


def fit_plans(
    rows: Sequence[LabelledRow], members: Sequence[str], *, names: Collection[str] | None = None
) -> dict[str, FittedPlan]:
    """Fit ways to ask a panel on labeled rows.

    Args:
        rows: What they are fitted on.
        members: The names of the members, in the order of the rows' answers.
        names: The names of the plans, as in the table above; default: those of `plan_names`.

    Returns:
        The plans by their names.

    Raises:
        ValueError: If there is no plan of a name, or none of its kind for so many members.
    """
    fitter = PlanFitter(rows, members)
    return {name: fitter.plan(name) for name in (plan_names(members) if names is None else names)}


class PlanFitter:
    """Fits plans on labeled rows; what several of them need is fitted once."""

    def __init__(self, rows: Sequence[LabelledRow], members: Sequence[str]) -> None:
        self.rows = rows
        self.members = tuple(members)
        self.every = tuple(range(len(members)))
        self.plans: dict[str, FittedPlan] = {}
        self.scores: dict[str, Score] = {}

    @cached_property
    def fits(self) -> Fits:
        """What is known of the members."""
        return fit_members(self.rows, len(self.members))

    @cached_property
    def totals(self) -> "Totals":
        """The rows, added up by who agrees with whom."""
        return Totals(self.rows)

    @cached_property
    def learned(self) -> LearnedVote:
        """The coefficients of the learned vote."""
        return fit_learned(self.rows, self.members)

    def plan(self, name: str) -> FittedPlan:
        """Return the fitted plan of a name."""
        if name not in self.plans:
            self.plans[name] = FittedPlan(name, self._way(name), self.members)
        return self.plans[name]

    def score(self, name: str) -> Score:
        """Return what a plan was worth on the rows that it was fitted on."""
        if name not in self.scores:
            self.scores[name] = self.totals.score(self.plan(name))
        return self.scores[name]

    def _way(self, name: str) -> Way:
        kind, _, rest = name.partition(":")
        fits, best, cheap = self.fits, self.fits.best_first, self.fits.cheapest_first
        everyone = Way(self.every, tie_order=best)
        match kind:
            case "single":
                return Way((self._position(rest, name) if rest else best[0],))
            case "majority":
                return everyone
            case "majority-listed":
                return Way(self.every)
            case "log-odds":
                return replace(everyone, weights=fits.weights)
            case "log-odds-q":
                return replace(everyone, weights=fits.weights_q)
            case "dawid-skene":
                found = fit_without_labels(self.rows, len(self.members))
                return replace(everyone, weights=tuple(without_label_weights(found)))
            case "learned":
                return replace(everyone, learned=self.learned)
            case "cascade" if rest:
                *ask, then = (self._position(one, name) for one in re.split(r"[,>]", rest))
                return Way((*ask, then), ask=len(ask), then=then)
            case "cascade-vote" if rest:
                order = tuple(self._position(one, name) for one in rest.split(","))
                return Way(order, weights=fits.weights_q, ask=len(order) - 1)
            case "plan-equal-cost":
                return self.plan(self.best_plan(self.score("single").cost_usd)).way
            case "plan-any-cost":
                return self.plan(self.best_plan(math.inf)).way
        if stop := re.fullmatch(r"stop-([0-9]+)(-best-first)?", name):
            return Way(best if stop[2] else cheap, stop_when=int(stop[1]))
        if sequential := re.fullmatch(r"sequential-(learned-)?(0?\.[0-9]+)", name):
            stopping = Way(cheap, tie_order=best, stop_at=float(sequential[2]))
            if sequential[1]:
                return replace(stopping, learned=self.learned)
            return replace(stopping, weights=fits.weights_q, unseen=1 / fits.q)
        if (cascade := re.fullmatch(r"cascade-([0-9]+)(-vote)?", name)) and int(cascade[1]) < len(self.members):
            order = tuple(one for one in cheap if one != best[0])
            if cascade[2]:
                return Way((*order, best[0]), tie_order=best, weights=fits.weights_q, ask=int(cascade[1]))
            return Way((*order[: int(cascade[1])], best[0]), ask=int(cascade[1]), then=best[0])
        raise ValueError(f"{name!r} is not a plan for {len(self.members)} members")

    def _position(self, member: str, name: str) -> int:
        if member not in self.members:
            raise ValueError(
                f"{name!r}: {member!r} is not a member.{did_you_mean(member, self.members)} Use one of {', '.join(self.members)}"
            )
        return self.members.index(member)

    def searched(self) -> Iterator[str]:
        """List the plans among which `plan-equal-cost` and `plan-any-cost` choose; of equals the first one is taken."""
        cheap = [self.members[one] for one in self.fits.cheapest_first]
        several = range(2, len(cheap))
        yield from (f"single:{name}" for name in self.members)
        yield from (f"stop-{count}" for count in several[:2])
        yield from (f"sequential-{threshold}" for threshold in ("0.8", *THRESHOLDS))
        yield from (f"cascade-{count}" for count in several[:2])
        yield from (f"cascade:{a},{b}>{c}" for a, b, c in combinations(cheap, 3))
        yield from (f"cascade-vote:{a},{b},{c}" for a, b, c in combinations(cheap, 3))
        yield from ("majority", "log-odds-q", "log-odds")

    def best_plan(self, cost_usd: float | None) -> str:
        """Return the plan that is right most often at no more than this cost; of equals the cheaper one."""

        def cost(name: str) -> float:
            found = self.score(name).cost_usd
            return math.inf if found is None else found

        limit = math.inf if cost_usd is None else cost_usd
        return min(
            (name for name in self.searched() if cost(name) <= limit),
            key=lambda name: (-self.score(name).right, cost(name)),
        )
