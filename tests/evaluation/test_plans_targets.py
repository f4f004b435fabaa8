"""Every plan on nine recorded rosters: right answers, calls and dollars as published, to the digit."""

import statistics
from functools import cache

import pytest
from scipy.stats import binomtest

from consensus_flows.tasks.evaluation.fits import fit_members, fit_without_labels
from consensus_flows.tasks.evaluation.learned import fit_learned
from consensus_flows.tasks.evaluation.plans import Totals, fit_plans, score
from consensus_flows.tasks.evaluation.split import halves
from tests.kits.rosters import LEARNED_TARGETS, TARGETS, learned_targets, roster_rows, targets

pytestmark = pytest.mark.skipif(
    not (TARGETS.exists() and LEARNED_TARGETS.exists()), reason=f"the recorded answers are not in {TARGETS.parent}"
)
ROSTERS = range(9)


@cache
def half_and_plans(position, seed):
    roster = targets()[position]
    calibration, test = halves(roster_rows(position), seed)
    return test, fit_plans(calibration, roster["members"], names=[*roster["seed_0"]["methods"], "learned"])


@pytest.mark.parametrize("position", ROSTERS)
def test_the_members_are_measured_as_published(position):
    roster = targets()[position]
    calibration, test = halves(roster_rows(position))
    expected = roster["seed_0"]["fit"]
    assert (len(calibration), len(test)) == (roster["seed_0"]["calibration"], roster["seed_0"]["n"])
    in_file = [row.id for row in roster_rows(position) if row in test]
    assert in_file[:3] == [str(one) for one in roster["seed_0"]["first_test_ids"]]

    fits = fit_members(calibration, 5)
    names = roster["members"]
    assert fits.accuracy == pytest.approx(expected["accuracy"], abs=1e-12)
    assert fits.cost == pytest.approx(expected["cost_usd"], rel=1e-12)
    assert fits.p == pytest.approx(expected["p"], rel=1e-12)
    assert fits.q == pytest.approx(expected["q"], rel=1e-12)
    assert fits.weights == pytest.approx(expected["weights_log_odds"], rel=1e-12)
    assert fits.weights_q == pytest.approx(expected["weights_log_odds_q"], rel=1e-12)
    assert [names[one] for one in fits.cheapest_first] == expected["cheapest_first"]
    assert [names[one] for one in fits.best_first] == expected["best_first"]
    assert fit_without_labels(calibration, 5) == pytest.approx(expected["dawid_skene_p"], abs=1e-8)


@pytest.mark.parametrize("position", ROSTERS)
def test_every_plan_comes_to_the_published_digits_of_one_split(position):
    test, plans = half_and_plans(position, 0)
    for name, expected in targets()[position]["seed_0"]["methods"].items():
        found = score(test, map(plans[name].replay, test))
        assert (name, found.right, found.calls) == (name, expected["right"], expected["calls"])
        assert found.cost_usd == pytest.approx(expected["cost_usd"], abs=1e-8), name
        better, worse = Totals(test).compare(plans[name], plans["single"])
        assert (better, worse) == (expected["better_than_single"], expected["worse_than_single"]), name
        p = binomtest(better, better + worse).pvalue if better + worse else 1
        assert round(p, 6) == expected["mcnemar_p"], name


@pytest.mark.parametrize("position", ROSTERS)
def test_every_plan_comes_to_the_published_means_of_twenty_splits(position):
    expected = targets()[position]["mean_of_seeds_0_to_19"]
    accuracy, calls, cost = ({name: [] for name in (*expected, "learned")} for _ in range(3))
    for seed in range(20):
        test, plans = half_and_plans(position, seed)
        totals = Totals(test)
        for name in accuracy:
            found = totals.score(plans[name])
            accuracy[name].append(100 * found.right / len(test))
            calls[name].append(found.calls / len(test))
            cost[name].append(found.cost_usd / len(test))
    for name, one in expected.items():
        assert (name, round(statistics.fmean(accuracy[name]), 4)) == (name, one["accuracy"])
        assert round(statistics.stdev(accuracy[name]), 4) == one["sd"], name
        assert round(statistics.fmean(calls[name]), 6) == one["calls"], name
        assert statistics.fmean(cost[name]) == pytest.approx(one["cost_usd"], abs=1e-12), name

    learned = learned_targets()[targets()[position]["dataset"], targets()[position]["roster"]]
    assert statistics.fmean(accuracy["learned"]) == pytest.approx(learned["mean_of_seeds_0_to_19"], abs=0.02)


@pytest.mark.parametrize("position", ROSTERS)
def test_the_learned_vote_has_the_published_coefficients(position):
    roster = targets()[position]
    expected = learned_targets()[roster["dataset"], roster["roster"]]["seed_0"]
    learned = fit_learned(halves(roster_rows(position))[0], roster["members"])
    names = roster["members"]
    # Published in the order of the second of each pair.
    pairs = [learned.pairs[f"{a} & {b}"] for second, b in enumerate(names) for a in names[:second]]
    found = [*learned.members.values(), learned.share, learned.two_or_more, learned.unanimous, *pairs]
    assert found == pytest.approx(expected["coefficients"], abs=1e-3)
    assert learned.intercept == pytest.approx(expected["intercept"], abs=1e-3)

    test, plans = half_and_plans(position, 0)
    assert Totals(test).score(plans["learned"]).right == expected["right"]
