"""`consensus tally`: many recorded preferences as a table, as CSV and as a picture."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from consensus_flows.deployments.commands.preferences.preference_view import console, members_table, say_scores, table
from consensus_flows.deployments.terminal import Exit, Stop, checked_output, put_json, say, write_whole
from consensus_flows.tasks.reports.pictures import picture as draw
from consensus_flows.tasks.reports.record_files import read_preferences
from consensus_flows.tasks.reports.tally import Tally, rank_rows, table_rows
from consensus_flows.tasks.reports.tally import tally as put_together


def tally(
    folder: Path,
    *,
    csv: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    ranks_csv: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    picture: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> Exit:
    """Aggregate recorded preferences: the first choice of each judge for each prompt, and where they disagree.

    Other files are skipped with a message.

    Args:
        folder: Folder of records (*.json) written by `consensus prefer --output`.
        csv: CSV file for the table of first choices and its totals.
        ranks_csv: CSV file with one row per ranked answer, for statistics.
        picture: File for a chart: .svg, or .png if cairosvg is installed.
        json: Print everything as JSON.
    """
    for path, option in ((csv, "--csv"), (ranks_csv, "--ranks-csv"), (picture, "--picture")):
        _check(path, option)
    as_png = _png_writer() if picture is not None and picture.suffix.lower() == ".png" else None
    good, bad = read_preferences(folder)
    for name, problem in bad.items():
        say(f"  ! {name} {problem}: left out")
    if not good:
        raise Stop(f"no file in {folder} is a record of prefer")
    found = put_together(good)
    if csv is not None:
        write_whole(csv, _csv(table_rows(found)))
    if ranks_csv is not None:
        write_whole(ranks_csv, _csv(rank_rows(good)))
    if picture is not None:
        svg = draw(found)
        if as_png is None:
            write_whole(picture, svg)
        else:
            as_png(bytestring=svg.encode("utf-8", "replace"), write_to=str(picture))
    if json:
        put_json(
            {
                "rows": [asdict(row) for row in found.rows],
                "disagreements": found.disagreements,
                "scores": found.scores.model_dump(mode="json"),
                "condorcet_wins": found.condorcet_wins,
                "answers": found.answers,
                "mean_rank_by_judge": found.matrix,
                "left_out": bad,
            }
        )
    else:
        _show(found)
    return Exit.ANSWER


def _show(found: Tally) -> None:
    screen = console()
    (_, *header), *rows = table_rows(found)
    prompts = [rest for kind, *rest in rows if kind == "prompt"]
    totals = [[name, *rest] for kind, name, _, *rest in rows if kind == "total"]
    if all(row.round == 1 for row in found.rows):
        header, prompts = [header[0], *header[2:]], [[name, *rest] for name, _, *rest in prompts]
    screen.print(table("Whom each judge puts first", header, prompts))
    screen.print()
    screen.print(table("How often", ["member", *found.judges, "agreed"], totals))
    screen.print()
    screen.print(members_table(found.scores))
    screen.print()
    say_scores(screen, found.scores)
    for title, counts in (("best by Borda", found.answers), ("Condorcet winner", found.condorcet_wins)):
        text = ", ".join(f"{member} {count}" for member, count in counts.items())
        screen.print(f"  prompts as {title}: {text}", markup=False, highlight=False)


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _png_writer() -> Callable[..., Any]:
    """Return what turns SVG into PNG.

    Raises:
        Stop: If it is not installed.
    """
    try:
        from cairosvg import svg2png  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except (ImportError, OSError):  # OSError: the package is there, but not the library cairo behind it
        raise Stop(
            "--picture: a .png needs cairosvg and the library cairo (pip install cairosvg); "
            "a .svg needs nothing, and every browser shows it"
        ) from None
    return svg2png  # type: ignore[no-any-return, unused-ignore]


def _check(path: Path | None, option: str) -> None:
    try:
        checked_output(path)
    except Stop as stop:
        raise Stop(stop.message.replace("--output", option, 1)) from None
    if option == "--picture" and path is not None and path.suffix.lower() not in {".svg", ".png"}:
        raise Stop(f"--picture {path}: the name must end in .svg or .png")
