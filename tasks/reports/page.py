"""What was measured as one HTML page that opens offline: a sentence, the figures, charts and a table."""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

from pydantic import BaseModel

from consensus_flows.tasks.files import atomic_write
from consensus_flows.tasks.plain_text import visible
from consensus_flows.tasks.reports.charts import Chart
from consensus_flows.tasks.reports.findings import Findings

_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d5d9e0, #3a404b); --dim: light-dark(#5b6472, #9aa4b2); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  background: light-dark(#fff, #14171c); color: light-dark(#1a1d22, #e8ebf0); }
h1 { font-size: 1.5rem; margin: 0; } * + h1 { margin-top: 3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 0; } p { margin: .3rem 0; }
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


def write_report(folder: Path, name: str, made: BaseModel, page: Callable[[Path], None]) -> None:
    """Write what was measured into a folder: NAME.html, to read, and NAME.json.

    Args:
        folder: The folder; it is made if there is none.
        name: Of the files.
        made: What was measured.
        page: Writes the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / f"{name}.json") as file:
        file.write_text(made.model_dump_json() + "\n", encoding="utf-8")
    with atomic_write(folder / f"{name}.html") as file:
        page(file)


def write_page(
    path: Path,
    parts: Sequence[tuple[Findings, Iterable[Chart]]],
    *,
    title: str,
    date: dt.date,
    below: Iterable[str] = (),
) -> None:
    """Write what was measured as a page.

    Args:
        path: The file.
        parts: What was measured, and drawings of it.
        title: What was asked.
        date: The day on which it was measured.
        below: What follows, as HTML.
    """
    from plotly.offline import get_plotlyjs

    path.write_text(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; """
        """script-src 'unsafe-inline'; img-src data: blob:">\n"""
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{as_html(title)}</title><style>{_STYLE}</style><script>{get_plotlyjs()}</script></head><body>\n"
        + "".join(_part(found, charts, f"{title}, {date}") for found, charts in parts)
        + "".join(below)
        + f"<script>{_FOLLOW}</script></body></html>\n",
        encoding="utf-8",
        errors="replace",
    )


def _part(found: Findings, charts: Iterable[Chart], about: str) -> str:
    return (
        f"<h1>{as_html(found.sentence)}</h1><p class=dim>{as_html(about)}</p>\n"
        f"{''.join(_table(('', ''), found.facts))}\n"
        + "".join(f"<p>{as_html(one)}</p>\n" for one in found.more)
        + "".join(map(_section, charts))
        + (f"<h2>{as_html(found.title)}</h2>{''.join(_table(found.header, found.rows))}\n" if found.rows else "")
    )


def _section(chart: Chart) -> str:
    drawing = chart.figure.to_html(
        full_html=False, include_plotlyjs=False, config={"displayModeBar": False, "responsive": True}
    )
    return f"<h2>{as_html(chart.title)}</h2><p class=dim>{as_html(chart.says)}</p>{drawing}\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "<div class=scroll><table>"
    if any(header):
        yield f"<tr>{''.join(f'<th>{as_html(cell)}</th>' for cell in header)}</tr>"
    for row in rows:
        yield f"<tr>{''.join(f'<td>{as_html(cell)}</td>' for cell in row)}</tr>\n"
    yield "</table></div>"


def as_html(text: object) -> str:
    """Return a text as HTML that shows it."""
    return escape(visible(str(text)))
