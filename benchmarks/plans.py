"""What every way to ask a panel is worth on nine recorded rosters, beside the published figures. No call is made.

For each plan: right answers, calls and US dollars on the half of the rows that it was not fitted on, split 0; the mean
accuracy of 20 splits; and the same as published. A figure that differs is marked, and the exit code is then 1.

With `calibrate`, each roster is calibrated by goal on one half, and the panel is judged on the other.
"""

import statistics
import sys

from common import ROOT  # noqa: F401  # puts the checkout on the path

from consensus_flows.tasks.evaluation.calibrating import Goal, choose, fitted_choice, part
from consensus_flows.tasks.evaluation.plans import Totals, fit_plans, score
from consensus_flows.tasks.evaluation.split import halves
from tests.kits.rosters import TARGETS, roster_rows, targets

SEEDS = 20


def replayed(position: int) -> int:
    """Print the plans of a roster; returns how many figures differ from the published ones."""
    roster = targets()[position]
    published, means = roster["seed_0"]["methods"], roster["mean_of_seeds_0_to_19"]
    found = {}
    accuracy: dict[str, list[float]] = {name: [] for name in published}
    for seed in range(SEEDS):
        calibration, test = halves(roster_rows(position), seed)
        totals = Totals(test)
        for name, plan in fit_plans(calibration, roster["members"], names=list(published)).items():
            result = totals.score(plan)
            accuracy[name].append(100 * result.right / len(test))
            if seed == 0:
                found[name] = result
    print(f"{roster['dataset']} {roster['roster']}, {roster['seed_0']['n']} rows")
    print(f"  {'plan':18}{'right':>6}{'calls':>7}{'US$':>13}{'mean %':>10}   published")
    differ = 0
    for name, own in found.items():
        target, mean = published[name], round(statistics.fmean(accuracy[name]), 4)
        assert own.cost_usd is not None
        same = (own.right, own.calls, mean) == (target["right"], target["calls"], means[name]["accuracy"])
        same = same and abs(own.cost_usd - target["cost_usd"]) < 1e-8
        differ += not same
        print(
            f"  {name:18}{own.right:>6}{own.calls:>7}{own.cost_usd:>13.8f}{mean:>10.4f}   "
            f"{target['right']:>4}{target['calls']:>6}{target['cost_usd']:>13.8f}{means[name]['accuracy']:>9.4f}"
            f"{'' if same else '   DIFFERS'}"
        )
    return differ


def calibrated(position: int) -> None:
    """Calibrate a roster on one half and print what it is worth on the other."""
    roster = targets()[position]
    calibration, test = halves(roster_rows(position))
    members = roster["members"]
    single = fit_plans(calibration, members, names=["single"])["single"]
    alone = score(test, map(single.replay, test))
    assert alone.cost_usd
    print(f"{roster['dataset']} {roster['roster']}: best member {100 * alone.right / len(test):.2f} %")
    for goal in (Goal("accuracy"), Goal("cost"), Goal("budget", usd=alone.cost_usd / len(test) / 2)):
        choice = choose(calibration, members, goal)
        plan = fitted_choice(calibration, members, choice)
        rows = [part(row, choice.kept) for row in test]
        own = score(rows, map(plan.replay, rows))
        assert own.cost_usd is not None
        gain = 100 * (own.right - alone.right) / len(test)
        print(
            f"  {goal.kind:9}{100 * own.right / len(test):6.2f} % ({gain:+.2f}) at {own.cost_usd / alone.cost_usd:5.2f} "
            f"of its price, {own.calls / len(test):.2f} calls: {choice.plan}"
        )


def main() -> int:
    """Print the tables."""
    if not TARGETS.exists():
        print(f"no recorded answers at {TARGETS.parent}: nothing to replay")
        return 0
    rosters = range(len(targets()))
    if sys.argv[1:] == ["calibrate"]:
        for position in rosters:
            calibrated(position)
        return 0
    differ = sum(map(replayed, rosters))
    print("all figures are the published ones" if not differ else f"{differ} plans differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
