"""Rows for a person or for a program: a table on a terminal, tab-separated lines in a pipe."""

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime

from consensus_flows.deployments.terminal import put


def put_rows(header: Sequence[str], rows: Iterable[Sequence[str]], *, wide: str = "") -> None:
    """Print rows on stdout.

    Args:
        header: Names of the columns, for a terminal.
        rows: Their texts.
        wide: The column that is cut where the terminal is too narrow.
    """
    if not sys.stdout.isatty():
        for row in rows:
            put("\t".join(one_line(text) for text in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in header:
        table.add_column(name, no_wrap=True, overflow="ellipsis", ratio=1 if name == wide else None)
    for row in rows:
        table.add_row(*(Text(one_line(text)) for text in row))
    Console().print(table)


def one_line(text: str, limit: int | None = None) -> str:
    """Return a text on one line and without what a terminal would act on, cut at `limit` characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if limit is None or len(line) <= limit else f"{line[: limit - 1]}…"


def local_time(moment: str) -> str:
    """Return a point in time as this place's clock shows it, to the second."""
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def figure(value: float | None, digits: int = 2) -> str:
    """Return a figure, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"
