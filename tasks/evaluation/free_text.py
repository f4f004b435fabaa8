"""What a panel's free text is worth beside each member's own: win rates, as they are and with the length of the answers taken out.

A judge prefers the longer of two answers that are equally good, and a panel's answer is often the longer one. So the win rate is
given as it is, and for answers of equal length: by a logistic regression of the verdict on the difference of the logarithms of the
lengths, after AlpacaEval's length control (arXiv:2404.04475).
"""

import datetime as dt
import math
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, Field

from consensus_flows.tasks.counting.judges import Consistency
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.evaluation.labelled import today
from consensus_flows.tasks.evaluation.statistics import ALPHA, Interval
from consensus_flows.tasks.record import Comparison, Outcome

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

DRAWS = 1_000
"""Of the bootstrap."""
DRAWS_OF_TEST = 9_999
"""Of the permutation test, which is exact where there are no more permutations than that."""
_STEPS = 50
_WIDEST = 15.0
"""What a log-odds ratio is kept within: where every question was won, it would grow without end."""
_RIDGE = (1e-3, 1.0)
"""Penalties of the intercept, and of the slope: a usual difference of the lengths is expected to change the log-odds by about 1."""
PANEL_WINS: dict[Outcome, float] = {"first": 1.0, "tie": 0.5, "second": 0.0}


@dataclass(frozen=True)
class FreeTextRow:
    """A question with what the panel answered and what each member did."""

    id: str
    question: str
    panel: str
    members: dict[str, str]
    """The answers of those members that did not fail, by name."""
    panel_usd: float | None = None
    """What the panel's answer cost when it was made."""
    members_usd: dict[str, float | None] = field(default_factory=dict)
    """The same of the members' answers."""


class Bout(NamedTuple):
    """The panel's answer to a question beside a member's.

    Attributes:
        result: 1 if the panel's is better, 0 if the member's is, and a half for a tie.
        panel_length: Characters of the panel's answer.
        member_length: Characters of the member's answer.
    """

    result: float
    panel_length: int
    member_length: int


class WinRate(BaseModel):
    """How often the panel's answer is better than that of a member. Intervals are of 95 %, by bootstrap over questions."""

    member: str
    n: int
    wins: int
    losses: int
    ties: int
    """Equally good, or the verdict depends on the order."""
    win_rate: float
    """Share of the questions that the panel wins, a tie as half a one."""
    interval: Interval
    length_controlled: float
    """The same for answers of equal length."""
    length_controlled_interval: Interval
    longer: float
    """Share of the questions to which the panel's answer is the longer one."""
    usd_per_1000: float | None = None
    """US dollars for 1,000 answers of the member, when they were made; None where no price is known."""


class JudgeOfText(Consistency):
    """How steady a judge is; whether it is right takes labeled pairs."""

    judge: str


class JudgedRow(BaseModel):
    """A question with the answers, and what came of each pair."""

    id: str
    question: str
    panel: str
    members: dict[str, str]
    results: dict[str, Outcome | None]
    """By member: `first` where the panel's answer is better, `second` where the member's is, `tie`; None where it is unread."""

    def won(self, members: Container[str]) -> float | None:
        """Return the panel's share of the pairs with these members, a tie as half a one; None where none was read."""
        points = [PANEL_WINS[result] for member, result in self.results.items() if result and member in members]
        return fmean(points) if points else None


class Drift(BaseModel):
    """A panel's win rate beside that of an earlier evaluation, on the questions of both."""

    members: list[str]
    """Against whom: the members of both."""
    rows: int
    win_rate: float
    win_rate_before: float
    p: float
    """Of a paired permutation test over questions."""
    fell: bool
    """Whether it is lower by more than chance."""


class FreeTextEvaluation(BaseModel):
    """What a panel's free text is worth."""

    date: dt.date = Field(default_factory=today)
    rows: int
    """Questions with an answer of the panel and of a member."""
    left_out: int = 0
    """Questions without one of these."""
    refused: bool = False
    """Whether the judges fell for answers that only look better, so that nothing was judged."""
    unread: int = 0
    """Pairs of which no verdict could be read, which are left out."""
    members: list[WinRate] = []
    judges: list[JudgeOfText]
    strong_judge: str | None = None
    decided_by_strong_judge: int = 0
    """Pairs on which the others differed, and it decided."""
    adversarial: float
    """The share of the built-in adversarial pairs that these judges together get right, ties half."""
    usd_per_1000: float | None = None
    """US dollars for 1,000 answers of the panel, when they were made; None where no price is known. Judging is not in it."""
    baseline: Drift | None = None
    row_results: list[JudgedRow] = []
    flow_run_id: str | None = None
    calls: int = 0
    cached_calls: int = 0
    cost_usd: float | None = None
    """What judging costs now, the adversarial pairs included. Answering is not in it."""
    possibly_billed: int = 0
    known_cost_usd: float = 0.0
    unpriced_calls: int = 0
    budget_ended: bool = False
    """Whether the budget refused a call, so that no win rate is given."""
    duration_s: float = 0.0


def outcome(comparison: Comparison) -> Outcome | None:
    """Return which of a pair a judge found better in both orders; None where it said two things, or could not be read."""
    one, other = comparison.said
    return one if one == other else None


def settled(found: Sequence[Outcome | None]) -> bool:
    """Tell whether judges agree, each of them in both orders, so that no stronger one has to decide."""
    return None not in found and len(set(found)) == 1


def majority(found: Iterable[Outcome | None]) -> Outcome:
    """Return what more judges found than found the contrary; those whose verdict depends on the order have no vote."""
    votes = Counter(found)
    first, second = votes["first"], votes["second"]
    return "first" if first > second else "second" if second > first else "tie"


def win_rate(member: str, bouts: Sequence[Bout], *, seed: int = 0) -> WinRate:
    """Return how often the panel wins against a member.

    Args:
        member: The member.
        bouts: One for each question.
        seed: Of the bootstrap.
    """
    import numpy as np

    results = np.array([bout.result for bout in bouts])
    difference = np.array([math.log(max(1, one.panel_length) / max(1, one.member_length)) for one in bouts])
    # By the root mean square and not around the mean, so that 0 is equal length, however far from it all answers are.
    usual = float(np.sqrt((difference**2).mean()))
    standardized = difference / usual if usual else difference
    counts = np.random.default_rng(seed).multinomial(len(bouts), np.full(len(bouts), 1 / len(bouts)), DRAWS)
    # The first line is the questions as they are.
    weights = np.vstack([np.ones(len(bouts)), counts])
    raw = weights @ results / len(bouts)
    controlled = _at_equal_length(results, standardized, weights)
    return WinRate(
        member=member,
        n=len(bouts),
        wins=int((results == 1).sum()),
        losses=int((results == 0).sum()),
        ties=int((results == 0.5).sum()),
        win_rate=float(raw[0]),
        interval=_interval(raw[1:]),
        length_controlled=float(controlled[0]),
        length_controlled_interval=_interval(controlled[1:]),
        longer=float((difference > 0).mean()),
    )


def usd_per_1000(costs: Iterable[float | None]) -> float | None:
    """Return the mean of those costs that are known, for 1,000 answers."""
    known = [cost for cost in costs if cost is not None]
    return 1000 * fmean(known) if known else None


def comparable(before: FreeTextEvaluation, judges: Container[str], strong: str | None, ids: Container[str]) -> None:
    """Refuse an earlier evaluation with which nothing can be compared.

    Args:
        before: The earlier evaluation.
        judges: Who judges now.
        strong: The strong judge of now.
        ids: Of the questions of now.

    Raises:
        ConfigurationError: Saying why.
    """
    others = [one.judge for one in before.judges if one.judge not in judges and one.judge != before.strong_judge]
    if others or strong != before.strong_judge:
        who = [*(one.judge for one in before.judges if one.judge != before.strong_judge), before.strong_judge]
        raise ConfigurationError(
            f"was judged by {', '.join(filter(None, who))}; judge by the same, or the verdicts cannot be compared",
            field="baseline",
        )
    if not any(row.id in ids for row in before.row_results):
        raise ConfigurationError("has none of these questions", field="baseline")


def drift(now: Sequence[JudgedRow], before: Sequence[JudgedRow], *, seed: int = 0) -> Drift | None:
    """Compare a panel's win rates with those of an earlier evaluation, on the questions and against the members of both.

    Args:
        now: The questions, judged now.
        before: The same, judged earlier.
        seed: Of the permutations.

    Returns:
        What has changed; None where no question has a verdict in both.
    """
    import numpy as np
    from scipy.stats import permutation_test

    earlier = {row.id: row for row in before}
    named = {name for row in before for name in row.results}
    members = list(dict.fromkeys(name for row in now for name in row.results if name in named))
    found = [(row.won(members), earlier[row.id].won(members)) for row in now if row.id in earlier]
    pairs = [(one, other) for one, other in found if one is not None and other is not None]
    if not pairs:
        return None
    rates = [fmean(one) for one in zip(*pairs, strict=True)]
    changed = np.array([one - other for one, other in pairs if one != other])
    p = 1.0
    if changed.size > 1:
        # Under chance each change could as well have gone the other way.
        test = permutation_test(
            (changed,),
            lambda values, axis: np.mean(values, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=DRAWS_OF_TEST,
            rng=np.random.default_rng(seed),
        )
        p = float(test.pvalue)
    return Drift(
        members=members,
        rows=len(pairs),
        win_rate=rates[0],
        win_rate_before=rates[1],
        p=p,
        fell=rates[0] < rates[1] and p < ALPHA,
    )


def _interval(values: "Floats") -> Interval:
    import numpy as np

    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _at_equal_length(results: "Floats", lengths: "Floats", weights: "Floats") -> "Floats":
    """Fit the regression once for each line of `weights` by Newton's method, and return the win rate at equal length."""
    import numpy as np
    from scipy.special import expit

    intercept, slope = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(_STEPS):
        expected = expit(intercept[:, None] + slope[:, None] * lengths)
        rest, sharp = weights * (results - expected), weights * expected * (1 - expected)
        gradient = rest.sum(1) - _RIDGE[0] * intercept, (rest * lengths).sum(1) - _RIDGE[1] * slope
        a, b = sharp.sum(1) + _RIDGE[0], (sharp * lengths).sum(1)
        c = (sharp * lengths**2).sum(1) + _RIDGE[1]
        determinant = a * c - b**2
        step = (c * gradient[0] - b * gradient[1]) / determinant, (a * gradient[1] - b * gradient[0]) / determinant
        # A step too far would leave the region where the model is nearly quadratic.
        intercept = np.clip(intercept + np.clip(step[0], -2, 2), -_WIDEST, _WIDEST)
        slope = np.clip(slope + np.clip(step[1], -2, 2), -_WIDEST, _WIDEST)
        if max(np.abs(step[0]).max(), np.abs(step[1]).max()) < 1e-9:
            break
    return np.asarray(expit(intercept))
