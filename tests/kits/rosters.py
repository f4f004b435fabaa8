"""Recorded panels with labels: nine rosters of three data sets, and what every plan is worth on them."""

import gzip
import json
from functools import cache
from typing import Any

from consensus_flows.tasks.evaluation.rows import LabelledRow, MemberReading
from tests.kits.recorded import FOLDER

TARGETS = FOLDER / "targets.json"
LEARNED_TARGETS = FOLDER / "stack_targets.json"


@cache
def targets() -> list[dict[str, Any]]:
    """Read the rosters and what their plans must come to."""
    found: list[dict[str, Any]] = json.loads(TARGETS.read_text(encoding="utf-8"))
    return found


@cache
def learned_targets() -> dict[tuple[str, str], dict[str, Any]]:
    """Read what the learned vote must come to, by data set and roster."""
    return {(one["dataset"], one["roster"]): one for one in json.loads(LEARNED_TARGETS.read_text(encoding="utf-8"))}


@cache
def recorded_table(dataset: str) -> tuple[list[Any], list[Any], dict[str, list[Any]], list[int], dict[str, list[int]]]:
    """Return the ids, the right answers, the answers by model, the input tokens and the output tokens by model."""

    def read(name: str) -> Any:
        with gzip.open(FOLDER / f"{name}.json.gz", "rt", encoding="utf-8") as file:
            return json.load(file)

    if dataset.startswith("mmlu-pro"):
        table = read("mmlu_pro_answers")
        answers = {name: one["answers"] for name, one in table["models"].items()}
        tokens, written = table, {name: one["output_tokens"] for name, one in table["models"].items()}
    else:
        table, tokens = read(f"zeroeval_{dataset}_answers"), read(f"zeroeval_{dataset}_tokens")
        answers, written = table["models"], tokens["output_tokens"]
    return table["ids"], table["gold"], answers, tokens["input_tokens"], written


@cache
def roster_rows(position: int) -> list[LabelledRow]:
    """Return the labeled rows of the roster at a position of `targets`."""
    roster = targets()[position]
    ids, gold, answers, read, written = recorded_table(roster["dataset"])
    prices = roster["prices_usd_per_million"]

    def reading(row: int, member: str) -> MemberReading:
        per_input, per_output = prices[member]
        cost = (read[row] * per_input + written[member][row] * per_output) / 1_000_000
        return MemberReading(answers[member][row], cost_usd=cost)

    return [
        LabelledRow(str(id_), gold[row], tuple(reading(row, member) for member in roster["members"]))
        for row, id_ in enumerate(ids)
    ]
