"""The decentralized consensus: what it keeps, that it ends, and that the seed decides it."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus_flows.blocks.consensus_learning import ConsensusLearningConfig, Snowflake
from consensus_flows.tasks.counting.agreement import clusters
from consensus_flows.tasks.counting.consensus import decentralized, held_texts
from consensus_flows.tasks.counting.decentralized import needed_of, settle
from consensus_flows.tasks.record import Response

rules = st.builds(
    Snowflake,
    k=st.integers(1, 12),
    alpha=st.floats(0.51, 1),
    beta=st.integers(1, 6),
    max_rounds=st.integers(1, 30),
)
values = st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=15)


def test_alpha_of_those_asked_and_always_more_than_half():
    needed = [needed_of(asked, 0.6) for asked in (1, 2, 3, 4, 5, 10, 20)]
    assert needed == [1, 2, 2, 3, 3, 6, 12]
    assert needed_of(4, 1.0) == 4
    assert needed_of(5, 0.501) == 3


@given(values, rules, st.text(max_size=5))
def test_it_ends_and_invents_nothing(given_values, rules, seed):
    outcome = settle(given_values, rules, seed)
    assert outcome.rounds <= rules.max_rounds
    assert set(outcome.values) <= set(given_values)
    assert (outcome.winner is None) == (set(given_values) == {None})
    for value, author in zip(outcome.values, outcome.authors, strict=True):
        assert given_values[author] == value, "what a member holds is what its author gave"
    if outcome.settled:
        assert set(outcome.values) == {outcome.winner}
    for one in outcome.adoptions:
        assert one.member != one.peer
        assert given_values[one.author] == one.value


@given(values, rules, st.text(max_size=5))
def test_the_seed_decides_it(given_values, rules, seed):
    assert settle(given_values, rules, seed) == settle(given_values, rules, seed)


def test_seeds_differ():
    split = ["a"] * 8 + ["b"] * 8
    outcomes = {settle(split, Snowflake(k=3), str(seed)).winner for seed in range(30)}
    assert outcomes == {"a", "b"}


@given(st.integers(3, 11), st.data(), st.integers())
def test_up_to_eleven_members_keep_any_majority_by_default(count, data, seed):
    """All peers are asked then, so no stubborn minority is ever enough, whatever the seed."""
    wrong = data.draw(st.integers(0, (count - 1) // 2))
    members = data.draw(st.permutations(["wrong"] * wrong + ["right"] * (count - wrong)))
    stubborn = [index for index, value in enumerate(members) if value == "wrong"]
    outcome = settle(members, Snowflake(), str(seed), stubborn=stubborn)
    assert outcome.winner == "right"
    assert not outcome.adoptions
    # Not settled only where the minority is one short of half: then the right ones see too few of each other.
    assert outcome.settled == (count - wrong - 1 >= needed_of(count - 1, 0.6))


@given(st.integers(5, 40), rules, st.data(), st.integers())
@settings(deadline=None)
def test_fewer_stubborn_members_than_a_sample_needs_are_adopted_by_nobody(count, rules, data, seed):
    """The threshold that holds for every seed and size: fewer stubborn ones than alpha of k."""
    needed = needed_of(min(rules.k, count - 1), rules.alpha)
    wrong = data.draw(st.integers(0, min(needed - 1, (count - 1) // 2)))
    outcome = settle(["wrong"] * wrong + ["right"] * (count - wrong), rules, str(seed), stubborn=range(wrong))
    assert outcome.winner == "right"
    assert not outcome.adoptions


@pytest.mark.parametrize(
    ("count", "k", "wrong", "kept"),
    [
        (21, 10, 5, 1.0),  # 24 %
        (21, 10, 6, 0.95),
        (21, 5, 3, 1.0),
        (21, 5, 4, 0.85),  # 19 %
        (51, 10, 12, 1.0),  # 24 %
        (51, 5, 9, 0.95),  # 18 %
    ],
)
def test_where_peers_are_sampled_a_fifth_of_stubborn_ones_is_survived(count, k, wrong, kept):
    """Above the threshold that always holds, the bound is one of probability; about a fifth, as for Snowflake itself."""
    members = ["wrong"] * wrong + ["right"] * (count - wrong)
    wins = Counter(settle(members, Snowflake(k=k), str(seed), stubborn=range(wrong)).winner for seed in range(200))
    assert wins["right"] >= kept * 200


@pytest.mark.parametrize("half", [1, 2, 3])
def test_even_halves_settle_on_either_value(half):
    outcomes = [settle(["a"] * half + ["b"] * half, Snowflake(), str(seed)) for seed in range(200)]
    assert all(outcome.settled for outcome in outcomes)
    assert 70 < sum(outcome.winner == "a" for outcome in outcomes) < 130
    # They change places three times, all of them, until they are where they were; then one half adopts.
    assert {len(outcome.adoptions) for outcome in outcomes} == {7 * half}


def test_a_long_settlement_does_not_repeat_the_texts():
    responses = [response(number, text * 1000) for number, text in enumerate(["x ", "x ", "y ", "y "])]
    config = ConsensusLearningConfig(members=["openai/m:4"], approach="decentralized")
    _, settlement = decentralized(responses, config, "0")
    assert settlement.adopted
    assert len(settlement.model_dump_json()) < 2000


def test_who_has_no_value_adopts_one_and_is_no_witness():
    outcome = settle([None, None, "x", "x", "x"], Snowflake(), "0")
    assert outcome.values == ["x"] * 5
    assert outcome.settled
    assert {one.member for one in outcome.adoptions} == {0, 1}
    lone = settle([None, None, "x"], Snowflake(), "0")
    assert (lone.settled, lone.winner) == (False, "x")
    assert lone.values == [None, None, "x"]


def test_all_different_do_not_settle_and_the_first_is_named():
    outcome = settle(["a", "b", "c"], Snowflake(max_rounds=7), "0")
    assert (outcome.settled, outcome.winner, outcome.rounds) == (False, "a", 7)


def test_one_member_agrees_with_itself():
    assert settle(["a"], Snowflake(), "0").settled
    assert not settle([None], Snowflake(), "0").settled


def test_groups_of_like_texts():
    texts = ["The capital is Paris.", "The capital is Paris!", "It is Rome, of course", "the capital is paris", "42"]
    assert clusters(texts, 0.6) == [0, 0, 1, 0, 2]
    assert clusters([], 0.5) == []
    chain = ["a b c d", "c d e f", "e f g h"]
    assert clusters(chain, 0.5) == [0, 0, 1], "a chain is not one group"


def response(number, text):
    return Response(member=f"openai/m#{number}", provider="openai", model="m", instance=number, text=text)


def test_free_texts_are_compared_by_wording_and_adopted_word_for_word():
    texts = ["It is Paris, in France.", "It is Paris in France", "it is Paris, in France!", "Surely Lyon."]
    responses = [response(number, text) for number, text in enumerate(texts, 1)]
    config = ConsensusLearningConfig(members=["openai/m:4"], approach="decentralized")
    synthesis, settlement = decentralized(responses, config, "0:1")
    assert settlement.settled
    assert settlement.given == {f"openai/m#{n}": value for n, value in enumerate("AAAB", 1)}
    (adopted,) = settlement.adopted
    assert (adopted.member, adopted.value) == ("openai/m#4", "A")
    held = held_texts(responses, settlement)
    assert held["openai/m#4"] == held[adopted.author] in texts[:3]
    assert (synthesis.value, synthesis.text in texts[:3]) == (None, True)
    assert synthesis.votes == {"A": [f"openai/m#{n}" for n in (1, 2, 3)], "B": ["openai/m#4"]}
