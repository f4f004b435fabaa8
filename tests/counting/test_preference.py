"""What rankings come to: pure functions, no Prefect and no model."""

import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus_flows.tasks.counting.preference import best_round, position_effect, score, without_own
from consensus_flows.tasks.judging.judgements import preference
from consensus_flows.tasks.readers import UnreadableError
from consensus_flows.tasks.record import JudgeRanking

A, B, C, D = "p/a#1", "p/b#1", "p/c#1", "p/d#1"


def said(judge, *groups, order=None, number=1):
    ranking = [[group] if isinstance(group, str) else list(group) for group in groups]
    flat = [member for group in ranking for member in group]
    return JudgeRanking(round=number, judge=judge, order=order or flat, ranking=ranking, abstained=not ranking)


def test_the_best_by_borda_wins_and_the_rest_is_in_order():
    scores = score([said(A, B, C), said(B, C, A), said(C, B, A)], [A, B, C])
    assert (scores.winner, scores.condorcet_winner, scores.tied) == (B, B, [])
    assert list(scores.members) == [B, C, A]
    assert [one.borda for one in scores.members.values()] == [2, 1, 0]
    assert [one.mean_rank for one in scores.members.values()] == [1, 1.5, 2]
    assert [one.wins for one in scores.members.values()] == [2, 1, 0]
    assert [one.first_places for one in scores.members.values()] == [2, 1, 0]
    assert (scores.rankings, scores.abstentions) == (3, 0)


def test_a_judge_that_abstains_gains_nothing_by_it():
    votes = [said(A, B, C, D), said(B, A, C, D), said(C, A, B, D)]
    scores = score([*votes, said(D)], [A, B, C, D])
    assert scores.abstentions == 1
    assert scores.members[D].borda == 0
    assert scores.winner == A


def test_of_equals_the_condorcet_winner_then_first_places_then_the_panels_order():
    cycle = [said(D, A, B, C), said(D, B, C, A), said(D, C, A, B)]
    scores = score(cycle, [C, A, B, D])
    assert scores.condorcet_winner is None
    assert (scores.winner, scores.tied) == (C, [C, A, B])
    scores = score([said(D, A, B, C), said(D, A, B, C), said(D, B, C, A)], [B, A, C, D])
    assert scores.members[A].borda == scores.members[B].borda == 4
    assert (scores.condorcet_winner, scores.winner, scores.tied) == (A, A, [A, B])
    scores = score([said(D, A, B, C), said(C, B, A, D), said(D, (A, B), C), said(D, B, C), said(D, A, C)], [B, A, C, D])
    assert scores.condorcet_winner is None
    assert (scores.winner, scores.tied) == (B, [B, A]), "as many first places: the one named first"


def test_own_answers_do_not_count_for_the_best_but_show_self_preference():
    selfish = [said(A, A, B, C), said(B, B, A, C), said(C, C, A, B)]
    scores = score(selfish, [A, B, C])
    assert scores.members[A].borda == 2, "the two others put it before the third"
    assert scores.members[A].ranked == 2
    assert scores.members[C].borda == 0
    assert (scores.members[C].rank_by_self, scores.members[C].rank_by_others) == (1, 3)
    assert scores.members[C].self_preference == 2
    assert scores.self_preference == pytest.approx((1 + 1.5 + 2) / 3, abs=1e-3)
    assert scores.kendall_w is not None, "of all that they saw"


def test_without_own_answers_self_preference_is_not_known():
    scores = score([said(A, B, C), said(B, C, A)], [A, B, C])
    assert scores.self_preference is None
    assert scores.members[A].rank_by_self is None


def test_judges_of_the_same_model_count_as_itself():
    scores = score([said("p/a#2", "p/a#1", B), said(B, B, "p/a#1")], ["p/a#1", "p/a#2", B])
    assert (scores.members["p/a#1"].rank_by_self, scores.members["p/a#1"].rank_by_others) == (1, 2)
    assert scores.members["p/a#1"].self_preference == scores.self_preference == 1


@pytest.mark.parametrize("order", list(permutations(["p/m#1", "p/m#2", "p/x#1", "p/y#1"]))[::5])
def test_judges_who_agree_prefer_nobody(order):
    """Judges that are not shown their own see different answers: places among these are no sign of anything."""
    members = ["p/m#1", "p/m#2", "p/x#1", "p/y#1"]
    others = [said(judge, *(one for one in order if one != judge)) for judge in members]
    scores = score(others, members)
    assert scores.self_preference is None
    assert all(one.self_preference is one.rank_by_self is None for one in scores.members.values())
    assert all(one.rank_by_others is not None for one in scores.members.values())
    scores = score([said(judge, *order) for judge in members], members)
    assert scores.self_preference == 0
    # A round in which fewer were ranked, too: only judges of one round and of the same answers are compared.
    fewer = [said(judge, *(one for one in order if one != "p/y#1"), number=2) for judge in members[:3]]
    assert score([*fewer, *others], members).self_preference == 0


def test_self_preference_is_averaged_over_what_can_be_compared():
    selfish = [said(A, A, B, C), said(B, B, A, C), said(C, C, A, B)]
    modest = [said(A, B, A, number=2), said(B, B, A, number=2), said(C, A, B, number=3)]
    scores = score([*selfish, *modest], [A, B, C])
    # Of A: by 1 place in the first round (the others say 2 and 2), by none in the second; the third has only another judge.
    assert scores.members[A].self_preference == 0.5
    assert scores.members[A].rank_by_others - scores.members[A].rank_by_self == 0.5
    assert scores.members[C].self_preference == 2


def test_position_effect():
    biased = [said(D, *order, number=number) for number, order in enumerate([(A, B, C), (C, A, B), (B, C, A)], 1)]
    effect = position_effect(biased)
    assert effect.mean_rank == [1, 2, 3]
    assert effect.correlation == 1
    assert score(biased, [A, B, C, D]).position_effect == effect
    assert score(biased[:1], [A, B, C, D]).position_effect is None, "one round has one order"
    against = [said(D, C, B, A, order=[A, B, C])]
    assert position_effect(against).correlation == -1
    assert position_effect([said(D, (A, B))]).correlation is None
    assert position_effect([said(D)]) is None


def test_nothing_ranked_is_nothing_known():
    scores = score([said(A), said(B)], [A, B, C])
    assert (scores.winner, scores.condorcet_winner, scores.kendall_w, scores.abstentions) == (None, None, None, 2)
    assert scores.members[A].borda is None
    assert score([], []).winner is None


def test_the_round_in_which_a_member_was_ranked_best():
    entries = [said(A, B, C), said(A, C, B, number=2), said(A, C, D, B, number=3), said(A, number=4)]
    assert best_round(entries, B) == 1
    assert best_round(entries, C) == 2
    assert best_round(entries, D) == 3
    assert best_round(entries, A) is None
    assert best_round([said(A, (B, C)), said(A, B, C, number=2), said(A, B, C, number=3)], B) == 2


@given(st.lists(st.permutations([A, B, C, D]), min_size=1, max_size=8), st.permutations([A, B, C, D]))
def test_who_is_named_first_changes_nothing_but_ties(orders, members):
    entries = [said(judge, *order) for judge, order in zip([A, B, C, D] * 2, orders, strict=False)]
    one, other = score(entries, [A, B, C, D]), score(entries, members)
    assert one.members == other.members
    assert one.winner == other.winner or {one.winner, other.winner} <= set(one.tied)
    assert sum(value.borda for value in one.members.values() if value.borda is not None) >= 0
    assert all(judge not in group for judge, group in ((e.judge, g) for e in entries for g in without_own(e)))
    assert one.kendall_w is None or -math.inf < one.kendall_w <= 1 + 1e-9


RANKS = preference(3)


@pytest.mark.parametrize(
    ("text", "ranking"),
    [
        ('{"analysis": "x", "can_rank": true, "ranks": {"A": 2, "B": 1, "C": 3}}', (("B",), ("A",), ("C",))),
        ('{"ranks": {"a": 1, "b": 1, "c": 3}}', (("A", "B"), ("C",))),
        ('{"can_rank": "yes", "ranks": {"A": "2", "B": 3.0, "C": 2}}', (("A", "C"), ("B",))),
        ('{"can_rank": false}', ()),
        ('{"can_rank": false, "ranks": {"A": 9}}', ()),
        ('As {"x": 1} says:\n```json\n{"ranks": {"A": 3, "B": 2, "C": 1}}\n```', (("C",), ("B",), ("A",))),
    ],
)
def test_rankings_are_read(text, ranking):
    assert RANKS.read(text).ranking == [list(group) for group in ranking]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("A is best", "no JSON object"),
        ('{"can_rank": true}', "ranks must give each answer a rank"),
        ('{"ranks": ["A", "B", "C"]}', "ranks: Input should be a valid dictionary"),
        ('{"ranks": {"A": 1, "B": 2}}', "ranks.C: Field required"),
        ('{"ranks": {"A": 1, "B": 2, "C": 3, "D": 3}}', "ranks.D: Extra inputs are not permitted"),
        ('{"ranks": {"A": 1, "a": 2, "B": 2, "C": 3}}', "ranks must give each label one rank"),
        ('{"ranks": {"A": 0, "B": 1, "C": 2}}', "ranks.A: Input should be greater than or equal to 1"),
        ('{"ranks": {"A": 1, "B": 2, "C": 4}}', "ranks.C: Input should be less than or equal to 3"),
        ('{"ranks": {"A": true, "B": 2, "C": 3}}', "a rank is a whole number, not true or false"),
        ('{"ranks": {"A": 1.5, "B": 2, "C": 3}}', "ranks.A: Input should be a valid integer"),
        (
            '{"ranks": {"A": "' + "9" * 5_000 + '", "B": 2, "C": 3}}',
            "ranks.A: Unable to parse input string as an integer",
        ),
        ('{"ranks": {"A": ' + "9" * 5_000 + ', "B": 2, "C": 3}}', "broken"),
        ('{"ranks": {"A": [1], "B": 2, "C": 3}}', "ranks.A: Input should be a valid integer"),
        ('B said {"can_rank": false} but I say {"ranks": {"A": 3, "B": 2, "C": 1}}', "they differ"),
        ('{"ranks": {"A": 3, "B": 2, "C": 1}} where B said {"can_rank": false}', "they differ"),
        ('{"can_rank": "perhaps", "ranks": {"A": 1, "B": 2, "C": 3}}', "can_rank: Input should be a valid boolean"),
        ('{"analysis": 3, "ranks": {"A": 1, "B": 2, "C": 3}}', "analysis: Input should be a valid string"),
    ],
)
def test_what_is_no_ranking_is_refused(text, cause):
    with pytest.raises(UnreadableError) as error:
        RANKS.read(text)
    assert cause in error.value.message
