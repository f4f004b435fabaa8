"""Recorded answers of real models, served over loopback HTTP as if the models answered now."""

import gzip
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tests.vendors import LoopbackVendors, Reply, SeenRequest
from tests.vendors.ledger import ANY

FOLDER = Path(__file__).resolve().parent.parent.parent.parent / "shared" / "data"
GSM = FOLDER / "gsm8k_five_models.jsonl.gz"
MATH = FOLDER / "zeroeval_math-l5_answers.json.gz"
PARSED_GSM = FOLDER / "zeroeval_gsm_answers.json.gz"

GSM_MEMBERS = (
    "gemma-2-9b-it",
    "Meta-Llama-3.1-8B-Instruct",
    "Mistral-Nemo-Instruct-2407",
    "Qwen2-7B-Instruct",
    "Meta-Llama-3-8B-Instruct",
)
MATH_MEMBERS = (
    "Qwen2.5-72B-Instruct",
    "gpt-4o-2024-08-06",
    "claude-3-5-sonnet-20241022",
    "Mistral-Large-2",
    "grok-2-1212",
)


class Question(NamedTuple):
    """A question, its right answer, and what each member wrote, in the order of the members."""

    id: str
    text: str
    gold: float
    outputs: tuple[str, ...]


def table_number(text: str) -> float | None:
    """Return the first number of a text after `,` and `$` are dropped, `a/b` evaluated: how the published tables read it."""
    found = re.search(r"((?<!\w)-)?(\d+(?:\.\d+)?|\.\d+)(?:\s*/\s*(\d+(?:\.\d+)?))?", re.sub("[,$]", "", text))
    if found is None:
        return None
    value = float(found[2]) / float(found[3] or 1)
    return -value if found[1] else value


def scored(value: object) -> float | None:
    """Return an answer that was read as the published tables score it: of a text such as `2:00 pm` the first number."""
    return value if value is None else table_number(value) if isinstance(value, str) else float(value)  # type: ignore[arg-type,return-value]


@cache
def gsm_questions() -> list[Question]:
    """Read all recorded questions of GSM8K."""
    with gzip.open(GSM, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    found = []
    for row in rows:
        gold = table_number(row["gold"])
        assert gold is not None
        found.append(Question(row["id"], row["question"], gold, tuple(row["outputs"][name] for name in GSM_MEMBERS)))
    return found


@cache
def parsed(path: Path) -> dict[str, Any]:
    """Read a table of answers that were parsed already."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        table: dict[str, Any] = json.load(file)
    return table


def serve(vendors: LoopbackVendors) -> None:
    """Let the models answer each question with what they wrote when they were recorded."""
    texts = {one.text: dict(zip(GSM_MEMBERS, one.outputs, strict=True)) for one in gsm_questions()}

    def answer(seen: SeenRequest) -> Reply:
        return Reply(text=texts[seen.prompt][seen.model])

    vendors.script(ANY, then=answer)
