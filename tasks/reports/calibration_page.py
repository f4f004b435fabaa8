"""A calibration as one HTML page that opens offline: worth and price of the plans among which was chosen."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from consensus_flows.tasks.evaluation.calibrating import SINGLE, Calibrated, PlanFigures
from consensus_flows.tasks.evaluation.statistics import clopper_pearson
from consensus_flows.tasks.reports.calibration_report import findings
from consensus_flows.tasks.reports.charts import Chart, Point, reliability, worth
from consensus_flows.tasks.reports.page import write_page


def write_calibrations(path: Path, panels: Sequence[tuple[str | None, Calibrated]], *, title: str) -> None:
    """Write what came of a calibration as a page, the panel of each category below that of all rows.

    Args:
        path: The file.
        panels: The panels, each with its category.
        title: What they were calibrated on.
    """
    parts = [(findings(category, found), charts(found)) for category, found in panels]
    write_page(path, parts, title=title, date=panels[0][1].calibration.date)


def charts(found: Calibrated) -> Iterator[Chart]:
    """Draw a calibration; a chart for which there is nothing is left out."""
    singles = [one for one in found.tried if one.plan.startswith(SINGLE)]
    plans = [one for one in found.tried if not one.plan.startswith(SINGLE)]
    rows = found.calibration.rows
    if any(one.cost_usd for one in found.tried):
        yield worth(_points(singles, rows), _points(plans, rows))
    if found.reliability:
        yield reliability(found.reliability, "probability that the panel states")


def _points(plans: Sequence[PlanFigures], rows: int) -> list[Point]:
    return [
        Point(one.plan, 1000 * one.cost_usd, one.accuracy, *clopper_pearson(one.right, rows))
        for one in plans
        if one.cost_usd
    ]
