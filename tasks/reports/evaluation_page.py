"""An evaluation as one HTML page that opens offline: worth and price of every plan, and where the panel wins and loses."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from consensus_flows.tasks.evaluation.evaluation import SINGLE, Evaluation, RowResult
from consensus_flows.tasks.evaluation.reliability import grouped
from consensus_flows.tasks.reports.charts import Chart, Point, by_category, matrix, reliability, won_and_lost, worth
from consensus_flows.tasks.reports.evaluation_report import findings
from consensus_flows.tasks.reports.page import write_page

LEARNED = "learned"
"""The plan that states a probability for each answer."""


def charts(made: Evaluation) -> Iterator[Chart]:
    """Draw an evaluation; a chart for which there is nothing is left out."""
    of, panel = made.test, made.verdict.plan
    singles = [
        Point(one.member, 1000 * one.cost_usd / of, one.accuracy, *one.ci) for one in made.members if one.cost_usd
    ]
    plans = [
        Point(one.plan, 1000 * one.cost_usd / of, one.accuracy, *one.ci)
        for one in made.plans
        if one.cost_usd and not one.plan.startswith(SINGLE)
    ]
    if singles or plans:
        yield worth(singles, plans)
    outcomes = [row.plans[LEARNED] for row in made.row_results if LEARNED in row.plans]
    if sure := [(one.confidence, one.right) for one in outcomes if one.confidence is not None]:
        yield reliability(grouped(sure), f"probability that {LEARNED} states")
    if shares := [
        (max(votes.values()) / len(row.readings), row.plans[panel].right)
        for row in made.row_results
        if (votes := Counter(one.answer for one in row.readings.values() if one.answer is not None))
    ]:
        yield reliability(grouped(shares), "share of the members that agree")
    yield matrix([one.member for one in made.members], made.agreement)
    compared = [one for one in made.plans if not one.plan.startswith(SINGLE)]
    yield won_and_lost([(one.plan, one.better, one.worse) for one in sorted(compared, key=lambda one: -one.right)])
    groups: dict[str, list[RowResult]] = defaultdict(list)
    for row in made.row_results:
        if row.group is not None:
            groups[row.group].append(row)
    if groups:
        yield by_category(
            [
                (
                    name,
                    len(rows),
                    fmean(row.plans[panel].right for row in rows),
                    fmean(row.plans[SINGLE].right for row in rows),
                )
                for name, rows in sorted(groups.items())
            ],
            panel,
        )


def write_evaluation(path: Path, made: Evaluation, *, title: str) -> None:
    """Write an evaluation as a page: the verdict, the figures, the charts, the table of the plans.

    Args:
        path: The file.
        made: The evaluation, with its rows.
        title: What was evaluated.
    """
    write_page(path, [(findings(made), charts(made))], title=title, date=made.date)
