"""An evaluation as one HTML page that opens offline: worth and price of every plan, and where the panel wins and loses."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from consensus_flows.tasks.evaluation.evaluation import SINGLE, Evaluation, RowResult
from consensus_flows.tasks.reports.chart_page import (
    BLUE,
    GRAY,
    ORANGE,
    Chart,
    html_table,
    new_figure,
    section,
    text,
    write_page,
)
from consensus_flows.tasks.reports.evaluation_report import HEADER, facts, more, sentence, table

if TYPE_CHECKING:
    import plotly.graph_objects as go

LEARNED = "learned"
"""The plan that states a probability for each answer."""


class Point(NamedTuple):
    """A way to ask: what it costs, and how good it is."""

    name: str
    dollars: float
    """For 1,000 questions."""
    accuracy: float
    low: float
    high: float


def worth(singles: Sequence[Point], plans: Sequence[Point]) -> Chart:
    """Draw accuracy against dollars: the models alone with their convex hull, the plans, and the front of both."""
    figure = new_figure("US dollars for 1,000 questions", "Accuracy")
    figure.update_xaxes(type="log")
    figure.update_yaxes(tickformat=".0%")
    _line(figure, _mixes(upper_hull(singles)), "random mixes of single models", color=GRAY, dash="dot")
    _line(figure, front([*singles, *plans]), "best at its price", color=ORANGE, width=3)
    _points(figure, singles, "single models", color=BLUE, symbol="circle-open")
    _points(figure, plans, "plans", color=BLUE, symbol="circle")
    return Chart(
        "Accuracy and price",
        "Bars are 95 % intervals. A plan below the dotted line is worth nothing: a random mix of two single models is as good.",
        figure,
    )


def front(points: Iterable[Point]) -> list[Point]:
    """Return the points that no other one beats at its price or below, cheapest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda one: (one.dollars, -one.accuracy)):
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return best


def upper_hull(points: Iterable[Point]) -> list[Point]:
    """Return the corners of the upper convex hull of the front, cheapest first: what random mixes of two of them reach."""
    hull: list[Point] = []
    for point in front(points):
        while len(hull) > 1 and _above(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _above(first: Point, middle: Point, last: Point) -> bool:
    """Whether the line from the first to the last passes above the one between."""
    return (middle.accuracy - first.accuracy) * (last.dollars - first.dollars) <= (last.accuracy - first.accuracy) * (
        middle.dollars - first.dollars
    )


def _mixes(corners: Sequence[Point], steps: int = 20) -> list[Point]:
    """Return points on the lines between the corners: straight in dollars, which the axis does not show."""
    mixes = [
        Point("", one + (other - one) * step / steps, low + (high - low) * step / steps, 0, 0)
        for (_, one, low, *_), (_, other, high, *_) in pairwise(corners)
        for step in range(steps)
    ]
    return [*mixes, *corners[-1:]]


def reliability(stated: Sequence[tuple[float, bool]], what: str) -> Chart:
    """Draw how often an answer is right against how sure the panel was of it.

    Args:
        stated: For each row the confidence or the share of votes, 0 to 1, and whether the answer was right.
        what: What the first one is: `probability` or `share of the votes`.
    """
    bins: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for sure, right in stated:
        bins[min(int(sure * 10), 9)].append((sure, right))
    figure = new_figure(what.capitalize(), "Right")
    figure.update_xaxes(tickformat=".0%", range=[0, 1.03])
    figure.update_yaxes(tickformat=".0%", range=[0, 1.03])
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"color": GRAY, "dash": "dot"}, name="as stated")
    groups = [bins[number] for number in sorted(bins)]
    figure.add_scatter(
        x=[fmean(sure for sure, _ in group) for group in groups],
        y=[fmean(right for _, right in group) for group in groups],
        text=[f"{len(group)} rows" for group in groups],
        mode="lines+markers",
        marker={"color": BLUE, "size": [6 + 20 * (len(group) / len(stated)) ** 0.5 for group in groups]},
        name="rows",
    )
    return Chart(
        f"How right, by {what}",
        "Each dot is a group of rows, by size. On the dotted line it is right as often as stated.",
        figure,
    )


def matrix(members: Sequence[str], shares: Sequence[Sequence[float]]) -> Chart:
    """Draw how often two members give the same answer.

    Args:
        members: The names.
        shares: For each member and each member, the share of rows on which both give the same answer, 0 to 1.
    """
    figure = new_figure("", "", height=120 + 60 * len(members))
    figure.add_heatmap(
        z=shares,
        x=members,
        y=members,
        texttemplate="%{z:.0%}",
        colorscale=[[0, "#eef3f8"], [1, BLUE]],
        showscale=False,
    )
    figure.update_yaxes(autorange="reversed")
    return Chart(
        "Who agrees with whom",
        "Share of the rows on which both give the same answer. Members that always agree add nothing.",
        figure,
    )


def won_and_lost(plans: Sequence[tuple[str, int, int]]) -> Chart:
    """Draw for each plan the rows that it alone, and the best single model alone, gets right."""
    figure = new_figure("Rows", "", height=160 + 26 * len(plans))
    names = [name for name, _, _ in plans]
    for at, title, color, sign in ((1, "won", BLUE, 1), (2, "lost", ORANGE, -1)):
        counts = [plan[at] for plan in plans]
        figure.add_bar(
            x=[sign * count for count in counts], y=names, text=counts, orientation="h", marker_color=color, name=title
        )
    figure.update_layout(barmode="relative")
    figure.update_yaxes(autorange="reversed")
    return Chart("Won and lost against the best single model", "Rows that only one of the two gets right.", figure)


def by_category(categories: Sequence[tuple[str, int, float, float]], plan: str) -> Chart:
    """Draw the accuracy of a plan and of the best single model by category: its name, rows, and both accuracies."""
    figure = new_figure("", "Accuracy")
    figure.update_yaxes(tickformat=".0%")
    names = [f"{name} ({rows})" for name, rows, _, _ in categories]
    for at, title, color in ((2, plan, BLUE), (3, "best single model", GRAY)):
        figure.add_bar(x=names, y=[one[at] for one in categories], name=title, marker_color=color)
    return Chart("By category", "With the number of rows.", figure)


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
        yield reliability(sure, f"probability that {LEARNED} states")
    if shares := [
        (max(votes.values()) / len(row.readings), row.plans[panel].right)
        for row in made.row_results
        if (votes := Counter(one.answer for one in row.readings.values() if one.answer is not None))
    ]:
        yield reliability(shares, "share of the members that agree")
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
    write_page(
        path,
        sentence(made.verdict),
        title,
        made.date,
        [
            *html_table(("", ""), facts(made)),
            "\n",
            *(f"<p>{text(one)}</p>\n" for one in more(made)),
            *map(section, charts(made)),
            "<h2>All plans</h2>",
            *html_table(HEADER, table(made)),
            "\n",
        ],
    )


def _line(figure: "go.Figure", points: Sequence[Point], name: str, **line: object) -> None:
    figure.add_scatter(
        x=[one.dollars for one in points],
        y=[one.accuracy for one in points],
        mode="lines",
        line=line,
        name=name,
        hoverinfo="skip",
    )


def _points(figure: "go.Figure", points: Sequence[Point], name: str, *, color: str, symbol: str) -> None:
    figure.add_scatter(
        x=[one.dollars for one in points],
        y=[one.accuracy for one in points],
        text=[one.name for one in points],
        mode="markers",
        marker={"color": color, "symbol": symbol, "size": 10},
        error_y={
            "array": [one.high - one.accuracy for one in points],
            "arrayminus": [one.accuracy - one.low for one in points],
            "thickness": 1,
            "color": color,
        },
        hovertemplate="%{text}<br>%{y:.1%} at $%{x:.3g}<extra></extra>",
        name=name,
    )
