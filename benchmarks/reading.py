"""How many answers of real models are read as they were published: raw texts against the table, by model.

The recorded texts are read by `extract_all`, as a vote reads them; the published table holds what the benchmarks' own
parsers read. `same` counts the readings that are equal, `right` the answers that are.
"""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import common  # noqa: F401  # finds the checkout

from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.tasks.counting.extraction.extract import Reading, extract, extract_label
from tests.kits.recorded import FOLDER, PARSED_GSM


class Recorded(NamedTuple):
    """Raw texts, the table of what was published for them, and the ways to read them."""

    texts: Path
    table: Path
    forms: tuple[str, ...]
    written: Callable[[Any], str]
    """How a published answer is written."""


RECORDED = (
    Recorded(
        FOLDER / "gsm8k_five_models.jsonl.gz", PARSED_GSM, ("json:answer", "number"), lambda value: f"{value:.15g}"
    ),
    Recorded(
        FOLDER / "mmlu_pro_five_models.jsonl.gz", FOLDER / "mmlu_pro_answers.json.gz", ("choice", "choice:A-J"), str
    ),
)


def values(readings: list[Reading | None]) -> list[object]:
    """Return what is compared."""
    return [reading and reading.value for reading in readings]


def show(recorded: Recorded) -> None:
    """Print the table of one file."""
    with gzip.open(recorded.texts, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    with gzip.open(recorded.table, "rt", encoding="utf-8") as file:
        table = json.load(file)
    at = {name: index for index, name in enumerate(table["ids"])}
    print(f"{recorded.texts.name}, {len(rows)} rows, per cent")
    print(f"{'':30} {'published':>9}" + "".join(f"{form:>14} {'same':>6} {'unread':>6}" for form in recorded.forms))
    for model in rows[0]["outputs"]:
        column = table["models"][model]
        answers = column["answers"] if isinstance(column, dict) else column
        line, whole = "", len(rows)
        published = [answers[at[row["id"]]] for row in rows]
        gold = [table["gold"][at[row["id"]]] for row in rows]
        for name in recorded.forms:
            form = parse_extraction(name)
            read = values([extract(row["outputs"][model], form) for row in rows])

            def labels(listed: list[Any], form: Any = form) -> list[object]:
                return values([None if one is None else extract_label(recorded.written(one), form) for one in listed])

            right = sum(one is not None and one == other for one, other in zip(read, labels(gold), strict=True))
            same = sum(one == other for one, other in zip(read, labels(published), strict=True))
            line += f"{100 * right / whole:14.2f} {100 * same / whole:6.2f} {100 * read.count(None) / whole:6.2f}"
        right = sum(one == other for one, other in zip(published, gold, strict=True))
        print(f"{model:30} {100 * right / whole:9.2f}{line}")
    print()


def main() -> None:
    """Print a table for each file of recorded texts."""
    for recorded in RECORDED:
        if recorded.texts.exists():
            show(recorded)
        else:
            print(f"no recorded answers at {recorded.texts}: nothing to read")


if __name__ == "__main__":
    main()
