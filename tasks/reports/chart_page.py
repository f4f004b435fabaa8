"""A page of charts that opens offline, in light and dark: what all reports of this kind share."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from consensus_flows.tasks.plain_text import visible

if TYPE_CHECKING:
    import plotly.graph_objects as go

BLUE, ORANGE, GRAY, GRID = (
    "#4477aa",
    "#ee7733",
    "#888888",
    "rgba(128, 128, 128, 0.25)",
)  # told apart by the color-blind (Tol 2021)
_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d5d9e0, #3a404b); --dim: light-dark(#5b6472, #9aa4b2); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  background: light-dark(#fff, #14171c); color: light-dark(#1a1d22, #e8ebf0); }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 0; } p { margin: .3rem 0; }
.dim, th { color: var(--dim); font-weight: 400; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin-top: .5rem; }
th, td { text-align: right; border-top: 1px solid var(--line); padding: .3rem 0 .3rem .75rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0; overflow-wrap: anywhere; }
details { border-top: 1px solid var(--line); padding: .3rem 0; } pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
"""
# Plotly writes colors into its drawing, so its text follows the page by script.
_FOLLOW = """
function follow() {
  for (const chart of document.querySelectorAll('.js-plotly-plot'))
    Plotly.relayout(chart, {'font.color': getComputedStyle(document.body).color});
}
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', follow);
follow();
"""


class Chart(NamedTuple):
    """A chart with what it shows in words."""

    title: str
    says: str
    figure: "go.Figure"


def write_page(path: Path, heading: str, title: str, day: date, parts: Iterable[str]) -> None:
    """Write a page.

    Args:
        path: The file.
        heading: What it says, in a sentence.
        title: What it is about.
        day: The day of it.
        parts: What is below, as HTML.
    """
    from plotly.offline import get_plotlyjs

    path.write_text(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; """
        """script-src 'unsafe-inline'; img-src data: blob:">\n"""
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title><style>{_STYLE}</style><script>{get_plotlyjs()}</script></head><body>\n"
        f"<h1>{text(heading)}</h1><p class=dim>{text(title)}, {day}</p>\n"
        f"{''.join(parts)}"
        f"<script>{_FOLLOW}</script></body></html>\n",
        encoding="utf-8",
        errors="replace",
    )


def section(chart: Chart) -> str:
    """Return a chart as HTML."""
    drawing = chart.figure.to_html(
        full_html=False, include_plotlyjs=False, config={"displayModeBar": False, "responsive": True}
    )
    return f"<h2>{text(chart.title)}</h2><p class=dim>{text(chart.says)}</p>{drawing}\n"


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a table as HTML, without a first line where the header is empty."""
    yield "<div class=scroll><table>"
    if any(header):
        yield f"<tr>{''.join(f'<th>{text(cell)}</th>' for cell in header)}</tr>"
    for row in rows:
        yield f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>\n"
    yield "</table></div>"


def new_figure(x: str, y: str, *, height: int = 420) -> "go.Figure":
    """Return an empty chart.

    Args:
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
        height: Pixels.
    """
    import plotly.graph_objects as go

    made = go.Figure()
    made.update_layout(
        height=height,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": 1.1},
    )
    made.update_xaxes(title=x, automargin=True, zeroline=False, gridcolor=GRID)
    made.update_yaxes(title=y, automargin=True, zeroline=False, gridcolor=GRID)
    return made


def text(value: object) -> str:
    """Return a text as HTML that shows it."""
    return escape(visible(str(value)))
