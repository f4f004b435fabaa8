"""Labeled rows for the tests of evaluations: made ones, and those of the recorded data in the shape of a batch's output."""

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.kits.recorded import FOLDER
from tests.kits.rosters import recorded_table

PRICES = FOLDER / "prices.json"
GOLD = "gold"


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recorded_rows(path: Path, answers: dict[str, Callable[[int], Any]], rows: int = 40, **more: Any) -> Path:
    """Write rows with the right answer 7, and what each member says to the row of a number."""
    return write_rows(
        path,
        (
            {"id": f"r{n}", "gold": 7, "answers": {name: {"answer": said(n), **more} for name, said in answers.items()}}
            for n in range(rows)
        ),
    )


def recorded_roster(folder: Path, roster: dict[str, Any]) -> Path:
    """Write a roster of the recorded data as a batch would have, compressed."""
    ids, gold, answers, read, written = recorded_table(roster["dataset"])
    path = folder / "answers.jsonl.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        for row, (name, right) in enumerate(zip(ids, gold, strict=True)):
            said = {
                f"recorded/{member}": {
                    "answer": None if (answer := answers[member][row]) == "__MISSING__" else answer,
                    "input_tokens": read[row],
                    "output_tokens": written[member][row],
                }
                for member in roster["members"]
            }
            file.write(json.dumps({"id": name, GOLD: right, "answers": said}) + "\n")
    return path
