"""The rows to look at as one HTML page that can be sent around: no script, nothing loaded, all that a model wrote is text."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from consensus_flows.tasks.batches.review import WORDS
from consensus_flows.tasks.plain_text import visible
from consensus_flows.tasks.record import CALIBRATED, LOW_SHARE

MOST = 500
"""Rows on the page; all of them are in the file beside it."""
LONG = 600
"""Characters of a text above which it is folded."""
_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d5d9e0, #3a404b); --soft: light-dark(#f4f6f9, #1d2128);
  --mark: light-dark(#8a4b00, #ffc46b); --dim: light-dark(#5b6472, #9aa4b2); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  background: light-dark(#fff, #14171c); color: light-dark(#1a1d22, #e8ebf0); }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1rem; margin: 0; } p { margin: .3rem 0; }
article { border: 1px solid var(--line); border-radius: .5rem; padding: 1rem; margin: 1rem 0; }
.dim, th { color: var(--dim); font-weight: 400; } .mark { color: var(--mark); }
pre { font: inherit; white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; }
.question { background: var(--soft); padding: .5rem .75rem; border-radius: .25rem; }
table { border-collapse: collapse; width: 100%; margin-top: .5rem; }
th, td { text-align: left; vertical-align: top; border-top: 1px solid var(--line); padding: .4rem .75rem .4rem 0; }
th { width: 14rem; overflow-wrap: anywhere; }
"""


def write_page(path: Path, rows: Iterable[Mapping[str, Any]], *, title: str, file: str, of: int) -> None:
    """Write the page.

    Args:
        path: The file.
        rows: Rows of the review file, with their `answers` nested.
        title: What the batch is called.
        file: Where decisions are written; empty where there is no such file.
        of: How many rows the batch has.
    """
    shown, counts, number = [], Counter[str](), 0
    for number, row in enumerate(rows, 1):
        counts.update(row["reasons"])
        if number <= MOST:
            shown.append("".join(_article(row)))
    parts = ", ".join(f"{WORDS[kind]}: {count}" for kind, count in counts.most_common())  # type: ignore[index]
    how = f"Write decisions into the column <code>decision</code> of {_text(file)}, then run <code>consensus review apply {_text(file)}</code>."
    more = f"<p>The first {MOST} rows are shown.</p>" if number > MOST else ""
    path.write_text(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">\n"""
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Review of {_text(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{number} of {of} rows to review</h1><p class=dim>{_text(title)}</p><p>{_text(parts)}</p>{more}\n"
        f"{f'<p class=dim>{how}</p>' if file else ''}\n{chr(10).join(shown)}\n</body></html>\n",
        encoding="utf-8",
        errors="replace",
    )


def _article(row: Mapping[str, Any]) -> Iterator[str]:
    words = ", ".join(WORDS[kind] for kind in row["reasons"])
    yield f"<article><h2>Row {_text(row['id'])} <span class=mark>{_text(words)}</span></h2>"
    yield f"<div class=question>{_folded(row['question'])}</div>"
    answer = row["answer"]
    yield "<p><b>No answer</b></p>" if answer is None else f"<p><b>Answer</b></p>{_folded(answer)}"
    if row["panel_answer"] is not None:
        yield f"<p class=dim>The panel answered:</p>{_folded(row['panel_answer'])}"
    if row["confidence"] is not None:
        measure = "Probability" if row["confidence_measure"] == CALIBRATED else "Confidence"
        yield f"<p class=dim>{measure}: {100 * row['confidence']:.0f} %</p>"
    if row["votes"]:
        yield f"<p class=dim>Votes: {_text(', '.join(f'{votes} for {said}' for said, votes in row['votes'].items()))}</p>"
    for name, votes in (row.get("fields") or {}).items():
        if votes["tie"] or votes["agreement"] < LOW_SHARE:
            said = ", ".join(f"{number:g} for {value}" for value, number in votes["votes"].items())
            yield f"<p class=mark>{_text(name)}: {_text(said)}</p>"
    yield "<table>"
    for member, said in (row["answers"] or {}).items():
        yield f"<tr><th>{_text(member)}</th><td>{_said(said)}</td></tr>"
    yield "</table>"
    for name, title in (("dissent", "Dissent"), ("error", "Error"), ("warnings", "Warnings")):
        if row[name]:
            yield f"<p class=dim>{title}</p>{_folded(row[name])}"
    if row["decision"]:
        yield f"<p><b>Decision</b></p>{_folded(row['decision'])}"
    yield "</article>"


def _said(said: Mapping[str, Any]) -> str:
    if said["error"]:
        return f"<span class=mark>{_text(said['error']['kind'])}</span> {_folded(said['error']['message'])}"
    text = said["text"] or ""
    if said["answer"] is None or said["answer"] == text:
        return _folded(text)
    return f"<b>{_text(said['answer'])}</b>{_folded(text)}"


def _folded(text: str) -> str:
    if len(text) <= LONG:
        return f"<pre>{_text(text)}</pre>"
    return f"<details><summary>{_text(text[: LONG // 4])}…</summary><pre>{_text(text)}</pre></details>"


def _text(text: object) -> str:
    return escape(visible(str(text)))
