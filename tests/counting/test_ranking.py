"""Rankings put together: against the textbook, with ties, and with candidates left out."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus_flows.tasks.counting.ranking import (
    borda,
    condorcet_winner,
    kendall_w,
    mean_rank,
    pairwise_wins,
    places,
    ranked_by,
)

ABC = ["a", "b", "c"]


def strict(text):
    return [[name] for name in text]


@st.composite
def rankings(draw, candidates="abcd", complete=False):
    """Any rankings: tied, of some of the candidates only, empty."""
    found = []
    for _ in range(draw(st.integers(0, 5))):
        names = draw(st.permutations(candidates))
        names = names if complete else names[: draw(st.integers(0, len(names)))]
        groups = [[name] for name in names[:1]]
        for name in names[1:]:
            if draw(st.booleans()):
                groups[-1].append(name)
            else:
                groups.append([name])
        found.append(groups)
    return found


def test_tied_candidates_share_the_mean_of_their_places():
    assert places([["a"], ["b", "c"], ["d"]]) == {"a": 1, "b": 2.5, "c": 2.5, "d": 4}
    assert places([]) == {}


def test_borda_of_complete_rankings_is_the_plain_count():
    votes = [strict("abc")] * 3 + [strict("bca")] * 2
    assert borda(votes, ABC) == {"a": 6, "b": 7, "c": 2}
    assert mean_rank(votes, ABC) == {"a": 9 / 5, "b": 8 / 5, "c": 13 / 5}
    assert borda([[["a"], ["b", "c"]]], ABC) == {"a": 2, "b": 0.5, "c": 0.5}


def test_judges_that_leave_out_themselves_give_plain_sums():
    votes = [strict("bc"), strict("ac"), strict("ba")]  # of a, b and c
    assert borda(votes, ABC) == {"a": 1, "b": 2, "c": 0}
    assert mean_rank(votes, ABC) == {"a": 1.5, "b": 1, "c": 2}


def test_being_left_out_neither_helps_nor_harms():
    # c judges nobody: a and b are ranked by one judge, c by two.
    votes = [strict("bc"), strict("ca"), []]
    assert borda(votes, ABC) == {"a": 0, "b": 2, "c": 1}
    assert mean_rank(votes, ABC) == {"a": 2, "b": 1, "c": 1.5}


def test_short_rankings_are_stretched():
    votes = [strict("abcde"), strict("ab")]
    assert borda(votes, "abcde") == {"a": 8, "b": 3, "c": 4, "d": 2, "e": 0}
    assert mean_rank(votes, "abcde") == {"a": 1, "b": 3.5, "c": 3, "d": 4, "e": 5}


def test_what_compares_nothing_counts_nowhere():
    assert borda([strict("a"), []], ABC) == mean_rank([strict("a"), []], ABC) == {}
    assert condorcet_winner([strict("a")], ["a", "b"]) is None
    assert kendall_w([strict("a"), []], ABC) is None
    assert borda([], []) == {}
    assert borda([strict("ab")], ABC) == {"a": 1, "b": 0}, "c was not judged, so it has no count"


def test_the_condorcet_winner_need_not_lead_by_borda():
    votes = [strict("abc")] * 3 + [strict("bca")] * 2
    assert condorcet_winner(votes, ABC) == "a"
    assert max(borda(votes, ABC), key=borda(votes, ABC).get) == "b"


def test_a_cycle_and_a_draw_have_no_condorcet_winner():
    assert condorcet_winner([strict("abc"), strict("bca"), strict("cab")], ABC) is None
    assert condorcet_winner([strict("ab"), strict("ba")], ["a", "b"]) is None
    assert condorcet_winner([[["a", "b"]]], ["a", "b"]) is None
    assert condorcet_winner([strict("ab")], ABC) is None, "a was not compared with c"
    assert condorcet_winner([], ["a"]) is None


def test_pairs_count_where_both_are_ranked_and_not_tied():
    wins = pairwise_wins([strict("abc"), [["b"], ["a", "c"]], strict("ca")], ABC)
    assert wins == {"a": {"b": 1, "c": 1}, "b": {"a": 1, "c": 2}, "c": {"a": 1, "b": 0}}


def test_kendall_w_of_the_textbook():
    # Siegel and Castellan 1988, p. 264: three judges, six applicants, W = .1619
    judged = [[1, 6, 3, 2, 5, 4], [1, 5, 6, 4, 2, 3], [6, 3, 2, 5, 4, 1]]
    votes = [[["uvwxyz"[row.index(place)]] for place in range(1, 7)] for row in judged]
    assert kendall_w(votes, "uvwxyz") == pytest.approx(0.1619, abs=5e-5)


def test_kendall_w_corrects_for_ties():
    # (12 S - 0) / (m² (n³ - n) - m Σ T): S = 4.5, m = 2, n = 3, T = 6 each.
    assert kendall_w([[["a"], ["b", "c"]], [["a", "b"], ["c"]]], ABC) == pytest.approx(12 * 4.5 / (4 * 24 - 2 * 12))
    tied = [[["a"], ["b", "c"]]] * 3
    assert kendall_w(tied, ABC) == pytest.approx(1)
    assert kendall_w([[["a", "b", "c"]]] * 2, ABC) is None


def test_kendall_w_where_each_judge_leaves_out_itself():
    agreed = [[[name] for name in "abcd" if name != judge] for judge in "abcd"]
    assert kendall_w(agreed, "abcd") == pytest.approx(1)
    votes = [strict("bcd"), strict("acd"), strict("dab"), strict("bca")]
    # Kendall and Gibbons: 12 S / (λ² n (n² - 1)), λ = 2, n = 4, rank sums 6, 5, 7, 6 less 6.
    sums = {name: sum(places(vote).get(name, 0) for vote in votes) - 6 for name in "abcd"}
    expected = 12 * sum(value**2 for value in sums.values()) / (4 * 4 * 15)
    assert kendall_w(votes, "abcd") == pytest.approx(expected)
    assert kendall_w([strict("ab"), strict("cd")], "abcd") is None, "no pair was compared twice"


@given(rankings())
def test_kendall_w_is_a_share(votes):
    value = kendall_w(votes, "abcd")
    assert value is None or -1e-12 <= value <= 1 + 1e-12


@given(rankings(), st.randoms(use_true_random=False))
def test_neither_the_order_of_judges_nor_of_candidates_matters(votes, chance):
    mixed, names = list(votes), list("abcd")
    chance.shuffle(mixed)
    chance.shuffle(names)
    assert borda(mixed, names) == pytest.approx(borda(votes, "abcd"))
    assert condorcet_winner(mixed, names) == condorcet_winner(votes, "abcd")


@given(rankings(complete=True))
def test_mean_rank_and_borda_of_complete_rankings_say_the_same(votes):
    points, ranks = borda(votes, "abcd"), mean_rank(votes, "abcd")
    assert {name: len(votes) * (4 - rank) for name, rank in ranks.items()} == pytest.approx(points)
    if votes:
        assert sum(points.values()) == pytest.approx(6 * len(votes))


@pytest.mark.parametrize(
    ("ranking", "cause"), [([["a"], ["a"]], "twice"), ([["x"]], "not a candidate"), (["ab"], None)]
)
def test_what_is_no_ranking_is_refused(ranking, cause):
    if cause is None:
        assert borda([ranking], ABC) == {"a": 0.5, "b": 0.5}
        return
    for count in (borda, mean_rank, pairwise_wins, condorcet_winner, kendall_w):
        with pytest.raises(ValueError, match=cause):
            count([ranking], ABC)


def test_scores_give_a_ranking():
    assert ranked_by({"a": 1, "b": 2, "c": 1}) == [["b"], ["a", "c"]]
    assert ranked_by({}) == []


def test_hundreds_of_judges_are_counted_at_once():
    chance = random.Random(0)
    names = [str(number) for number in range(20)]
    votes = [[[name] for name in chance.sample(names, 20)] for _ in range(300)]
    assert kendall_w(votes, names) < 0.05
    assert sum(borda(votes, names).values()) == pytest.approx(300 * 190)
