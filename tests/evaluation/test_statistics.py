"""Paired statistics, against known figures."""

import pytest

from consensus_flows.tasks.evaluation.statistics import (
    bootstrap,
    clopper_pearson,
    holm,
    least_difference,
    mcnemar,
    rows_needed,
)


def test_mcnemar_counts_only_rows_on_which_the_two_differ():
    found = mcnemar([True] * 14 + [False] + [True] * 5, [False] * 14 + [True] * 6)
    assert (found.better, found.worse) == (14, 1)
    assert found.p == pytest.approx(0.0009765625)


def test_mcnemar_of_two_that_never_differ():
    assert mcnemar([True, False], [True, False]) == (0, 0, 1.0)


def test_holm_is_monotone_and_at_most_one():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.9}) == pytest.approx(
        {"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.9}
    )
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize(("gain", "differ", "rows"), [(0.01, 0.06, 4703), (0.02, 0.06, 1170), (0.03, 0.06, 516)])
def test_rows_needed(gain, differ, rows):
    assert rows_needed(gain, differ) == rows


@pytest.mark.parametrize(("gain", "differ"), [(0.0, 0.06), (0.05, 0.04)])
def test_a_gain_that_no_number_of_rows_shows(gain, differ):
    assert rows_needed(gain, differ) is None


def test_clopper_pearson():
    assert clopper_pearson(0, 20) == pytest.approx((0, 0.16843), abs=1e-5)
    assert clopper_pearson(166, 200)[1] == pytest.approx(0.8793, abs=1e-4)


def test_the_bootstrap_is_paired_and_seeded():
    """Two ways that are always right and wrong together differ by nothing, however the questions are drawn."""
    hits = [1.0, 0.0] * 50
    found = bootstrap({"a": hits, "difference": [0.0] * 100})
    assert found["difference"] == (0, 0)
    assert found["a"] == pytest.approx((0.4, 0.6), abs=0.015)
    assert bootstrap({"a": hits}) == bootstrap({"a": hits})
    assert bootstrap({"a": hits}, seed=1) != bootstrap({"a": hits})


def test_few_rows_without_a_loss_do_not_mean_that_there_is_none():
    assert least_difference(0, 0, 20) == pytest.approx(-0.089, abs=1e-3)
    assert -0.01 < least_difference(0, 0, 660) < 0
    assert least_difference(30, 10, 1000) == pytest.approx(0.0073, abs=1e-3)
