"""Labeled rows for the tests of evaluations: made ones, and those of the recorded data in the shape of a batch's output."""

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.kits.recorded import FOLDER, parsed

TARGETS = FOLDER / "targets.json"
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


def recorded_roster(folder: Path, dataset: str, members: Iterable[str]) -> Path:
    """Write a roster of the recorded data as a batch would have, compressed."""
    if dataset == "mmlu-pro-b":
        table = parsed(FOLDER / "mmlu_pro_answers.json.gz")
        said = {name: table["models"][name] for name in members}
        answers = {name: one["answers"] for name, one in said.items()}
        read = table["input_tokens"]
        written = {name: one["output_tokens"] for name, one in said.items()}
    else:
        table = parsed(FOLDER / f"zeroeval_{dataset}_answers.json.gz")
        tokens = parsed(FOLDER / f"zeroeval_{dataset}_tokens.json.gz")
        places = {str(one): place for place, one in enumerate(tokens["ids"])}
        order = [places[str(one)] for one in table["ids"]]
        answers = {name: table["models"][name] for name in members}
        read = [tokens["input_tokens"][place] for place in order]
        written = {name: [tokens["output_tokens"][name][place] for place in order] for name in answers}
    path = folder / f"{dataset}.jsonl.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        for place, (name, gold) in enumerate(zip(table["ids"], table["gold"], strict=True)):
            said = {
                f"recorded/{member}": {
                    "answer": None if (answer := answers[member][place]) == "__MISSING__" else answer,
                    "input_tokens": read[place],
                    "output_tokens": written[member][place] or 0,
                }
                for member in answers
            }
            file.write(json.dumps({"id": name, GOLD: gold, "answers": said}) + "\n")
    return path
