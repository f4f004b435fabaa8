"""How often the members of a panel give the same answer. It needs no labels, and does not say who is right."""

import datetime as dt
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise

from pydantic import BaseModel

from consensus_flows.tasks.counting.vote import count_votes
from consensus_flows.tasks.evaluation.fits import fit_members
from consensus_flows.tasks.evaluation.labelled import Note, PanelAnswers, today
from consensus_flows.tasks.evaluation.plans import FittedPlan, Way, score
from consensus_flows.tasks.evaluation.rows import LabelledRow, known_sum


class Unanimous(BaseModel):
    """The rows on which all members give the same answer."""

    rows: int
    right: int | None
    """None without labels."""


class Ties(BaseModel):
    """The rows on which several answers have the most votes."""

    rows: int
    right: int | None
    """Of these with the answer of the member listed first among the tied; None without labels."""
    won_by: dict[str, int]
    """How many each member decided, as it is listed first."""


class MemberAgreement(BaseModel):
    """How one member stands to the others."""

    member: str
    alone: int
    """Rows on which nobody else gives its answer."""
    unread: int
    """Rows without an answer of it, whatever the cause."""
    failed: int
    missing: int
    """Rows for which it was not asked."""
    cost_usd: float | None
    """Of all rows together; None if a price is not known."""


class CheapPair(BaseModel):
    """What it would take to ask the two cheapest members first, and the dearest one only where they differ."""

    ask: list[str]
    then: str
    agree: int
    """Rows on which the two give the same answer."""
    calls: float
    """A question."""
    cost_usd: float
    """A question."""


class Agreement(BaseModel):
    """What can be said of a panel without labels: who agrees with whom, and what it costs."""

    rows: int
    extract: str | None
    date: dt.date
    flow_run_id: str | None = None
    unanimous: Unanimous
    ties: Ties
    alpha: float | None
    """Krippendorff's alpha: 1 if all agree, 0 if no more than by chance; None where all answers are the same."""
    members: list[MemberAgreement]
    agreement: list[list[float]]
    """For each member and each member, in order, the share of the rows on which both give the same answer."""
    calls: float
    """A question."""
    cost_usd: float | None
    """A question; None if a price is not known."""
    cascade: CheapPair | None
    """None of two members, or if a price is not known."""
    notes: list[Note] = []


def measure_agreement(answered: PanelAnswers, extract: str | None) -> Agreement:
    """Measure how often the members give the same answer. No label is read.

    Args:
        answered: The members' answers.
        extract: How they were read.
    """
    rows, members = answered.rows, answered.members
    unanimous, ties = unanimous_and_ties(rows, members)
    everyone = range(len(members))
    cost = known_sum(row.cost(everyone) for row in rows)
    return Agreement(
        rows=len(rows),
        extract=extract,
        date=today(),
        unanimous=unanimous.model_copy(update={"right": None}),
        ties=ties.model_copy(update={"right": None}),
        alpha=krippendorff_alpha([[one.answer for one in row.answers] for row in rows]),
        members=[
            MemberAgreement(
                member=name,
                alone=sum(row.pattern[at] is not None and row.pattern.count(row.pattern[at]) == 1 for row in rows),
                unread=sum(row.pattern[at] is None for row in rows),
                failed=answered.failed[name],
                missing=answered.missing[name],
                cost_usd=known_sum(row.answers[at].cost_usd for row in rows),
            )
            for at, name in enumerate(members)
        ],
        agreement=shares_of_pairs(rows, members),
        calls=sum(row.calls(everyone) for row in rows) / len(rows),
        cost_usd=None if cost is None else cost / len(rows),
        cascade=None if cost is None or len(members) < 3 else _cheap_pair(rows, members),
        notes=answered.notes,
    )


def unanimous_and_ties(rows: Sequence[LabelledRow], members: Sequence[str]) -> tuple[Unanimous, Ties]:
    """Count the rows on which all members agree, and those on which the votes are tied."""
    same, same_right, ties, ties_right = 0, 0, 0, 0
    won = Counter[str]()
    for row in rows:
        answers = [one.answer for one in row.answers]
        if answers[0] is not None and all(a == b for a, b in pairwise(answers)):
            same += 1
            same_right += answers[0] == row.label
        tally = count_votes(answers)
        if tally.tie and tally.winner is not None:
            ties += 1
            ties_right += tally.winner.value == row.label
            won[members[tally.winner.voters[0]]] += 1
    return Unanimous(rows=same, right=same_right), Ties(rows=ties, right=ties_right, won_by=dict(won))


def shares_of_pairs(rows: Sequence[LabelledRow], members: Sequence[str]) -> list[list[float]]:
    """Return for each two members the share of the rows on which both give the same answer."""
    places = range(len(members))

    def same(one: int, other: int) -> float:
        hits = (row.pattern[one] is not None and row.pattern[one] == row.pattern[other] for row in rows)
        return sum(hits) / len(rows)

    return [[same(one, other) for other in places] for one in places]


def krippendorff_alpha(rows: Iterable[Sequence[Hashable | None]]) -> float | None:
    """Return Krippendorff's alpha for nominal data, in which an answer that is missing counts for nothing.

    Chance is how often two answers to any questions are the same: much for four letters, hardly anything for numbers.

    Args:
        rows: The members' answers to each question.
    """
    total, differ = Counter[Hashable](), 0.0
    for row in rows:
        counts = Counter(answer for answer in row if answer is not None)
        # One answer alone agrees or differs with nobody.
        if (given := counts.total()) > 1:
            total += counts
            differ += (given**2 - sum(count**2 for count in counts.values())) / (given - 1)
    answers = total.total()
    by_chance = answers**2 - sum(count**2 for count in total.values())
    return 1 - (answers - 1) * differ / by_chance if by_chance else None


def _cheap_pair(rows: Sequence[LabelledRow], members: Sequence[str]) -> CheapPair:
    one, other, *_, dearest = fit_members(rows, len(members)).cheapest_first
    plan = FittedPlan("", Way((one, other, dearest), ask=2, then=dearest), tuple(members))
    outcomes = list(map(plan.replay, rows))
    found = score(rows, outcomes)
    assert found.cost_usd is not None
    return CheapPair(
        ask=[members[one], members[other]],
        then=members[dearest],
        agree=sum(len(outcome.asked) == 2 for outcome in outcomes),
        calls=found.calls / len(rows),
        cost_usd=found.cost_usd / len(rows),
    )
