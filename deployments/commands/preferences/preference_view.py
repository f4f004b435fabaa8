"""What a person sees of rankings: tables, on whichever stream they belong."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from consensus_flows.deployments.terminal import put
from consensus_flows.deployments.view import summary
from consensus_flows.tasks.record import JudgeRanking, Record, Scores
from consensus_flows.tasks.reports.preference_report import number_text, said_by, scores_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def console(*, stderr: bool = False) -> "Console":
    """Return where tables are printed: wide where no terminal sets the width, so that a pipe gets whole names."""
    from rich.console import Console

    made = Console(stderr=stderr)
    return made if made.is_terminal else Console(stderr=stderr, width=max(made.width, 200))


def show_record(record: Record, ui_url: str) -> None:
    """Print the answer on stdout, and the rankings on stderr."""
    if record.answer is not None:
        put(record.answer)
    if record.rankings and record.scores:
        screen = console(stderr=True)
        for part in (judges_table(record.rankings), members_table(record.scores)):
            screen.print()
            screen.print(part)
        say_scores(screen, record.scores)
    summary(record, ui_url)


def say_scores(screen: "Console", scores: Scores) -> None:
    """Print what all rankings come to."""
    for line in scores_lines(scores):
        screen.print(f"  {line}", markup=False, highlight=False)


def judges_table(entries: Sequence[JudgeRanking]) -> "Table":
    """Return what each judge said, one row each."""
    return table(
        "Rankings",
        ["round", "judge", "saw", "ranks"],
        [[str(entry.round), entry.judge, ", ".join(entry.order), said_by(entry)] for entry in entries],
    )


def members_table(scores: Scores) -> "Table":
    """Return the members, best first."""
    rows = [
        [
            member,
            number_text(one.borda, 1),
            number_text(one.mean_rank),
            str(one.wins),
            str(one.first_places),
            number_text(one.rank_by_self),
            number_text(one.rank_by_others),
        ]
        for member, one in scores.members.items()
    ]
    return table("Scores", ["member", "Borda", "mean rank", "beats", "first", "rank by itself", "rank by others"], rows)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    """Return a table of plain texts: what models or files are called is never taken for markup."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in header:
        made.add_column(Text(column), overflow="fold")
    for row in rows:
        made.add_row(*(Text(value) for value in row))
    return made
