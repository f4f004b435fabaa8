"""An evaluation of free text as one HTML page that opens offline: win rates and prices, the judges, and the rows won and lost."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from consensus_flows.tasks.evaluation.free_text import FreeTextEvaluation, JudgedRow
from consensus_flows.tasks.reports.charts import Chart, Point, counts, win_rates
from consensus_flows.tasks.reports.page import as_html, write_page
from consensus_flows.tasks.reports.text_report import findings

SHOWN = 100
"""Rows on the page: those that the panel does worst on. The file of the results has all."""
_RESULTS = {"first": "won", "second": "lost", "tie": "tied", None: "unread"}


def charts(made: FreeTextEvaluation) -> Iterator[Chart]:
    """Draw an evaluation; a chart for which there is nothing is left out."""
    if priced := [
        Point(one.member, one.usd_per_1000, one.length_controlled, *one.length_controlled_interval)
        for one in made.members
        if one.usd_per_1000 is not None
    ]:
        yield win_rates(priced, made.usd_per_1000)
    if found := made.members:
        yield counts(
            "Won and lost against each member",
            "As the judges found in both orders; tied where the verdict depends on the order.",
            "Questions",
            [one.member for one in found],
            [
                ("won", [one.wins for one in found]),
                ("tied", [one.ties for one in found]),
                ("lost", [one.losses for one in found]),
            ],
        )
    if judges := made.judges:
        yield counts(
            "How steady the judges are",
            "A judge that flips goes by the order in which it sees the answers.",
            "Pairs",
            [one.judge for one in judges],
            [
                ("consistent", [one.consistent for one in judges]),
                ("unread", [one.unread for one in judges]),
                ("flips to the one shown first", [one.flips_to_the_one_shown_first for one in judges]),
                ("flips to the other", [one.flips - one.flips_to_the_one_shown_first for one in judges]),
            ],
        )


def write_text_evaluation(path: Path, made: FreeTextEvaluation, *, title: str) -> None:
    """Write an evaluation of free text as a page: the figures, the charts, and the rows that the panel does worst on.

    Args:
        path: The file.
        made: The evaluation, with its rows.
        title: What was evaluated.
    """
    write_page(path, [(findings(made), charts(made))], title=title, date=made.date, below=_rows(made.row_results))


def _rows(rows: Sequence[JudgedRow]) -> Iterator[str]:
    """Yield the rows that the panel does worst on, with what each has said."""
    judged = [(won, row) for row in rows if (won := row.won(row.results)) is not None]
    if not judged:
        return
    shown = min(SHOWN, len(judged))
    yield f"<h2>Rows, the worst first</h2><p class=dim>{shown} of {len(judged)}; evaluation.json has all.</p>"
    for _, row in sorted(judged, key=lambda one: one[0])[:SHOWN]:
        results = ", ".join(f"{_RESULTS[result]} against {member}" for member, result in row.results.items())
        yield f"<details><summary>{as_html(row.id)}: {as_html(results)}</summary><p>{as_html(row.question)}</p>"
        for name, said in {"panel": row.panel, **row.members}.items():
            yield f"<p class=dim>{as_html(name)}</p><pre>{as_html(said)}</pre>"
        yield "</details>\n"
