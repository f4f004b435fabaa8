"""What was measured, in words and figures: the same for the terminal, the artifact in the UI, and the page."""

from collections.abc import Iterable
from dataclasses import dataclass

from consensus_flows.tasks.reports.markdown import cell


@dataclass(frozen=True)
class Findings:
    """What was measured.

    Attributes:
        sentence: What a person should know first.
        facts: The figures that a person needs first, each with its name.
        title: What the table shows.
        header: Of the table.
        rows: Of the table; there may be none.
        more: What else is worth knowing, a sentence each.
    """

    sentence: str
    facts: list[tuple[str, str]]
    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    more: list[str]


def markdown(found: Findings) -> str:
    """Describe what was measured for the UI."""
    parts = [f"# {cell(found.sentence)}", _table(("", ""), found.facts)]
    if found.rows:
        parts.append(_table(found.header, found.rows))
    return "\n\n".join([*parts, "\n".join(f"- {cell(one)}" for one in found.more)])


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *(tuple(map(cell, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
