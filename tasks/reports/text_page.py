"""An evaluation of free text as one HTML page that opens offline: win rates and prices, the judges, and the rows won and lost."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from consensus_flows.tasks.evaluation.free_text import FreeTextEvaluation, JudgedRow, JudgeOfText, WinRate
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
from consensus_flows.tasks.reports.text_report import HEADER, JUDGES, facts, judges, sentence, table

if TYPE_CHECKING:
    import plotly.graph_objects as go

SHOWN = 100
"""Rows on the page: those that the panel does worst on. The file of the results has all."""
_RESULTS = {"first": "won", "second": "lost", "tie": "tied", None: "unread"}


def worth(members: Sequence[WinRate], price: float | None) -> Chart:
    """Draw the panel's win rate at equal length against the price of the member that it is compared with.

    Args:
        members: The members, each with its price.
        price: That of the panel.
    """
    figure = new_figure("US dollars for 1,000 answers of the member", "The panel wins, at equal length")
    figure.update_yaxes(tickformat=".0%", range=[0, 1])
    figure.update_xaxes(rangemode="tozero")
    figure.add_hline(y=0.5, line={"color": GRAY, "dash": "dot"})
    if price is not None:
        figure.add_vline(
            x=price, line={"color": ORANGE, "width": 3}, annotation={"text": "price of the panel", "textangle": 0}
        )
    figure.add_scatter(
        x=[one.usd_per_1000 for one in members],
        y=[one.length_controlled for one in members],
        text=[one.member for one in members],
        mode="markers+text",
        textposition="top center",
        marker={"color": BLUE, "size": 10},
        error_y={
            "array": [one.length_controlled_interval[1] - one.length_controlled for one in members],
            "arrayminus": [one.length_controlled - one.length_controlled_interval[0] for one in members],
            "thickness": 1,
            "color": BLUE,
        },
        hovertemplate="%{text}<br>%{y:.1%} at $%{x:.3g}<extra></extra>",
        showlegend=False,
    )
    return Chart(
        "Win rate and price",
        "Bars are 95 % intervals. A panel is worth nothing beside a member below the dotted line, at a lower price.",
        figure,
    )


def won_and_lost(members: Sequence[WinRate]) -> Chart:
    """Draw the questions won, tied and lost against each member."""
    shares = [("won", BLUE, [one.wins for one in members]), ("tied", GRAY, [one.ties for one in members])]
    shares.append(("lost", ORANGE, [one.losses for one in members]))
    figure = _bars("Questions", [one.member for one in members], shares)
    return Chart(
        "Won and lost against each member",
        "As the judges found in both orders; a tie where the verdict depends on the order.",
        figure,
    )


def steadiness(found: Sequence[JudgeOfText]) -> Chart:
    """Draw how often each judge said the same in both orders."""
    first = [one.flips_to_the_one_shown_first for one in found]
    shares = [
        ("consistent", BLUE, [one.consistent for one in found]),
        ("flips to the one shown first", ORANGE, first),
        ("flips to the other", "#ffbb88", [one.flips - flips for one, flips in zip(found, first, strict=True)]),
        ("unread", GRAY, [one.unread for one in found]),
    ]
    figure = _bars("Pairs", [one.judge for one in found], shares)
    return Chart(
        "How steady the judges are", "A judge that flips goes by the order in which it sees the answers.", figure
    )


def _bars(unit: str, names: Sequence[str], shares: Sequence[tuple[str, str, Sequence[int]]]) -> "go.Figure":
    figure = new_figure(unit, "", height=160 + 30 * len(names))
    for name, color, counts in shares:
        figure.add_bar(x=counts, y=names, text=counts, orientation="h", marker_color=color, name=name)
    figure.update_layout(barmode="stack")
    figure.update_yaxes(autorange="reversed")
    return figure


def charts(made: FreeTextEvaluation) -> Iterator[Chart]:
    """Draw an evaluation; a chart for which there is nothing is left out."""
    if priced := [one for one in made.members if one.usd_per_1000 is not None]:
        yield worth(priced, made.usd_per_1000)
    if made.members:
        yield won_and_lost(made.members)
    if made.judges:
        yield steadiness(made.judges)


def write_text_evaluation(path: Path, made: FreeTextEvaluation, *, title: str) -> None:
    """Write an evaluation of free text as a page: the figures, the charts, and the rows that the panel does worst on.

    Args:
        path: The file.
        made: The evaluation, with its rows.
        title: What was evaluated.
    """
    parts = [
        *html_table(("", ""), facts(made)),
        *html_table(HEADER, table(made)),
        *map(section, charts(made)),
        *html_table(JUDGES, judges(made)),
        *_rows(made.row_results),
    ]
    write_page(path, sentence(made), title, made.date, parts)


def _rows(rows: Sequence[JudgedRow]) -> Iterator[str]:
    """Yield the rows that the panel does worst on, with what each has said."""
    judged = [(won, row) for row in rows if (won := row.won(row.results)) is not None]
    if not judged:
        return
    yield f"<h2>Rows, the worst first</h2><p class=dim>{min(SHOWN, len(judged))} of {len(judged)}; evaluation.json has all.</p>"
    for _, row in sorted(judged, key=lambda one: one[0])[:SHOWN]:
        results = ", ".join(f"{_RESULTS[result]} against {member}" for member, result in row.results.items())
        yield f"<details><summary>{text(row.id)}: {text(results)}</summary><p>{text(row.question)}</p>"
        for name, said in {"panel": row.panel, **row.members}.items():
            yield f"<p class=dim>{text(name)}</p><pre>{text(said)}</pre>"
        yield "</details>\n"
