"""Tables of the command line: on a terminal as much as its width has room for; in a pipe what scripts need, as `gh` has it.

That is one tab-separated line a row, every column, no header, and times in UTC.
"""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from consensus_flows.deployments.terminal import put

WIDE = 16
"""Least width of the column that is cut."""


def put_rows(header: Sequence[str], rows: Iterable[Sequence[str]], *, wide: str, least: Sequence[str] = ()) -> None:
    """Print rows on stdout. On a terminal the id comes last, whole.

    Args:
        header: Names of the columns, for a terminal.
        rows: Their texts.
        wide: The column that is cut where the terminal is too narrow.
        least: Columns that are left out where it is narrower still, the first ones first.
    """
    if not sys.stdout.isatty():
        for row in rows:
            put("\t".join(one_line(text) for text in row))
        return
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    lines = [[one_line(text) for text in row] for row in rows]
    columns = {name: [line[at] for line in lines] for at, name in enumerate(header)}
    if "id" in columns:
        columns["id"] = columns.pop("id")
    widths = {name: max(cell_len(text) for text in [name, *texts]) for name, texts in columns.items()}

    def room() -> int:
        return console.width - sum(width + 2 for name, width in widths.items() if name != wide)

    for name in least:
        if room() < min(WIDE, widths[wide]):
            del widths[name], columns[name]
    widths[wide] = max(1, min(widths[wide], room()))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True, overflow="ellipsis", width=widths[name])
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, row))
    console.print(table)


def one_line(text: str, limit: int | None = None) -> str:
    """Return a text on one line and without what a terminal would act on, cut at `limit` characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if limit is None or len(line) <= limit else f"{line[: limit - 1]}…"


LOCAL = "%Y-%m-%d %H:%M:%S"


def local_time(moment: str) -> str:
    """Return a point in time as this place's clock shows it."""
    return datetime.fromisoformat(moment).astimezone().strftime(LOCAL)


def clock(moment: str, local: str = LOCAL) -> str:
    """Return a point in time for stdout: on a terminal as this place's clock shows it, in a pipe as 2026-01-31T02:00:00Z.

    Args:
        moment: In ISO 8601.
        local: How a terminal shows it.
    """
    when = datetime.fromisoformat(moment)
    return (
        when.astimezone().strftime(local)
        if sys.stdout.isatty()
        else when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    )


def figure(value: float | None, digits: int = 2) -> str:
    """Return a figure, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"
