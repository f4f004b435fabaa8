"""Charts of evaluations, for a page that opens offline: worth and price, reliability, agreement, won and lost, categories."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from consensus_flows.tasks.evaluation.reliability import Bin

if TYPE_CHECKING:
    import plotly.graph_objects as go

_BLUE, _ORANGE, _GRAY, _GRID = (
    "#4477aa",
    "#ee7733",
    "#888888",
    "rgba(128, 128, 128, 0.25)",
)  # told apart by the color-blind (Tol 2021)


class Point(NamedTuple):
    """A way to ask: what it costs, and how good it is."""

    name: str
    dollars: float
    """For 1,000 questions."""
    accuracy: float
    low: float
    high: float


class Chart(NamedTuple):
    """A chart with what it shows in words."""

    title: str
    says: str
    figure: "go.Figure"


def worth(singles: Sequence[Point], plans: Sequence[Point]) -> Chart:
    """Draw accuracy against dollars: the models alone with their convex hull, the plans, and the front of both."""
    figure = _figure("US dollars for 1,000 questions", "Accuracy")
    figure.update_xaxes(type="log")
    figure.update_yaxes(tickformat=".0%")
    _line(figure, _mixes(upper_hull(singles)), "random mixes of single models", color=_GRAY, dash="dot")
    _line(figure, front([*singles, *plans]), "best at its price", color=_ORANGE, width=3)
    _points(figure, singles, "single models", color=_BLUE, symbol="circle-open")
    _points(figure, plans, "plans", color=_BLUE, symbol="circle")
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


def reliability(groups: Sequence[Bin], what: str) -> Chart:
    """Draw how often an answer is right against how sure the panel was of it.

    Args:
        groups: Answers by how sure the panel was.
        what: How that was stated: `probability` or `share of the votes`.
    """
    figure = _figure(what.capitalize(), "Right")
    figure.update_xaxes(tickformat=".0%", range=[0, 1.03])
    figure.update_yaxes(tickformat=".0%", range=[0, 1.03])
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"color": _GRAY, "dash": "dot"}, name="as stated")
    rows = sum(one.rows for one in groups)
    figure.add_scatter(
        x=[one.stated for one in groups],
        y=[one.right for one in groups],
        text=[f"{one.rows} rows" for one in groups],
        mode="lines+markers",
        marker={"color": _BLUE, "size": [6 + 20 * (one.rows / rows) ** 0.5 for one in groups]},
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
    figure = _figure("", "", height=120 + 60 * len(members))
    figure.add_heatmap(
        z=shares,
        x=members,
        y=members,
        texttemplate="%{z:.0%}",
        colorscale=[[0, "#eef3f8"], [1, _BLUE]],
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
    figure = _figure("Rows", "", height=160 + 26 * len(plans))
    names = [name for name, _, _ in plans]
    for at, title, color, sign in ((1, "won", _BLUE, 1), (2, "lost", _ORANGE, -1)):
        counts = [plan[at] for plan in plans]
        figure.add_bar(
            x=[sign * count for count in counts], y=names, text=counts, orientation="h", marker_color=color, name=title
        )
    figure.update_layout(barmode="relative")
    figure.update_yaxes(autorange="reversed")
    return Chart("Won and lost against the best single model", "Rows that only one of the two gets right.", figure)


def by_category(categories: Sequence[tuple[str, int, float, float]], plan: str) -> Chart:
    """Draw the accuracy of a plan and of the best single model by category: its name, rows, and both accuracies."""
    figure = _figure("", "Accuracy")
    figure.update_yaxes(tickformat=".0%")
    names = [f"{name} ({rows})" for name, rows, _, _ in categories]
    for at, title, color in ((2, plan, _BLUE), (3, "best single model", _GRAY)):
        figure.add_bar(x=names, y=[one[at] for one in categories], name=title, marker_color=color)
    return Chart("By category", "With the number of rows.", figure)


def win_rates(members: Sequence[Point], price: float | None) -> Chart:
    """Draw how often a panel's answer is better than a member's against what the member's answers cost.

    Args:
        members: The members; their accuracy is the win rate of the panel.
        price: US dollars for 1,000 answers of the panel, if that is known.
    """
    figure = _figure("US dollars for 1,000 answers of the member", "The panel wins, at equal length")
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(tickformat=".0%", range=[0, 1])
    figure.add_hline(y=0.5, line={"color": _GRAY, "dash": "dot"})
    if price is not None:
        line = {"color": _ORANGE, "width": 3}
        figure.add_scatter(x=[price, price], y=[0, 1], mode="lines", line=line, name="price of the panel")
    _points(figure, members, "members", color=_BLUE, symbol="circle")
    return Chart(
        "Win rate and price",
        "Bars are 95 % intervals. Beside a member below the dotted line and left of the panel's price, the panel is worth nothing.",
        figure,
    )


def counts(title: str, says: str, unit: str, names: Sequence[str], kinds: Sequence[tuple[str, Sequence[int]]]) -> Chart:
    """Draw a bar for each name, of how many there are of each kind.

    Args:
        title: Of the chart.
        says: What it shows.
        unit: What is counted.
        names: One for each bar.
        kinds: A name, and how many of it there are in each bar.
    """
    figure = _figure(unit, "", height=160 + 30 * len(names))
    for (kind, numbers), color in zip(kinds, (_BLUE, _GRAY, _ORANGE, "#ffbb88"), strict=False):
        figure.add_bar(x=numbers, y=names, text=numbers, orientation="h", marker_color=color, name=kind)
    figure.update_layout(barmode="stack")
    figure.update_yaxes(autorange="reversed")
    return Chart(title, says, figure)


def _figure(x: str, y: str, *, height: int = 420) -> "go.Figure":
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(
        height=height,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": 1.1},
    )
    figure.update_xaxes(title=x, automargin=True, zeroline=False, gridcolor=_GRID)
    figure.update_yaxes(title=y, automargin=True, zeroline=False, gridcolor=_GRID)
    return figure


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
