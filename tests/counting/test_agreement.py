"""Agreement is measured from the texts: symmetric, without regard to order, and fast."""

import math
import random
import time
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus_flows.tasks.counting.agreement import LEXICAL, MAX_WORDS, Likeness, agreement, medoid, similarity, words

prose = st.text(alphabet=st.sampled_from("ab c.,1é中🙂"), max_size=40)


@given(prose, prose)
def test_similarity_is_symmetric_and_a_share(one, other):
    assert similarity(one, other) == similarity(other, one)
    assert 0 <= similarity(one, other) <= 1
    assert similarity(one, one) == 1


def longest(one, other):
    """The textbook's table, to hold the library against."""
    rows = [0] * (len(other) + 1)
    for a in one:
        before = 0
        for index, b in enumerate(other, 1):
            before, rows[index] = rows[index], before + 1 if a == b else max(rows[index], rows[index - 1])
    return rows[-1]


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.lists(st.sampled_from("abcd"), max_size=30))
def test_similarity_is_that_of_the_longest_common_subsequence(one, other):
    expected = 2 * longest(one, other) / (len(one) + len(other)) if one or other else 1
    assert similarity(" ".join(one), " ".join(other)) == pytest.approx(expected)


@given(st.lists(prose, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_agreement_does_not_depend_on_the_order(texts, chance):
    mixed = list(texts)
    chance.shuffle(mixed)
    assert agreement(mixed) == agreement(texts)


def test_agreement_of_fewer_than_two_is_not_known():
    assert agreement([]) is None
    assert agreement(["alone"]) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The answer is 42.", "the ANSWER is 42"),
        ("caf\u00e9 noir", "cafe\u0301 noir"),
        ("\uff46\uff55\uff4c\uff4c width", "full width"),
        ("STRASSE", "straße"),
    ],
)
def test_what_reads_the_same_agrees(one, other):
    assert similarity(one, other) == 1


@pytest.mark.parametrize(("one", "other"), [("yes", "no"), ("👍", "👎"), ("!!!", "???"), ("3.14", "3.15"), ("", "x")])
def test_what_has_nothing_in_common_does_not_agree(one, other):
    assert similarity(one, other) == 0


def test_numbers_are_words_and_chinese_is_compared_by_character():
    assert words("It is 3.14, or 1,000.") == ["it", "is", "3.14", "or", "1,000"]
    assert 0.5 < similarity("巴黎是法国的首都", "法国的首都是巴黎") < 1


def test_the_nearest_to_all_is_chosen_and_of_equals_the_first():
    assert medoid(["red green", "red blue", "red", "nothing"]) == 2
    assert medoid(["same", "same", "other"]) == 0
    assert medoid(["alone"]) == 0
    with pytest.raises(ValueError, match="no text"):
        medoid([])


@given(st.lists(prose, min_size=1, max_size=6))
def test_the_nearest_is_one_of_them(texts):
    assert 0 <= medoid(texts) < len(texts)


@pytest.mark.parametrize("unit", ["word ", "x", "中", "!", "é\n"])
def test_megabytes_are_compared_in_less_than_a_second(unit):
    chance = random.Random(0)
    text = (unit * 1_000_000)[:1_000_000]
    texts = [text, text[::-1], " ".join(str(chance.random()) for _ in range(50_000)), text[:-1], text + "end"]
    assert len(words(text)) <= MAX_WORDS
    started = time.thread_time()
    agreement(texts)
    medoid(texts)
    assert time.thread_time() - started < 1


@given(st.lists(prose, max_size=8), st.booleans())
def test_comparing_in_bulk_changes_nothing(texts, kept):
    """Equal texts are compared once, words are coded, and what was found out is kept: the figures are those of the pairs."""
    likeness = Likeness() if kept else LEXICAL
    pairs = [similarity(one, other) for one, other in combinations(texts, 2)]
    mean = round(math.fsum(pairs) / len(pairs), 4) if pairs else None
    for _ in range(2):
        assert agreement(texts, likeness) == mean
    if texts:
        sums = [math.fsum(similarity(one, other) for other in texts) for one in texts]
        assert medoid(texts, likeness) == sums.index(max(sums))
    assert not LEXICAL.memo


def test_a_thousand_instances_are_compared_in_seconds():
    chance = random.Random(0)
    answers = [" ".join(f"w{chance.randrange(900)}" for _ in range(40)) for _ in range(300)]
    texts = [chance.choice(answers) for _ in range(1000)]
    likeness = Likeness()
    started = time.thread_time()
    agreement(texts, likeness)
    medoid(texts, likeness)
    assert time.thread_time() - started < 4
