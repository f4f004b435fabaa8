"""One deceptive member of six: how far a panel falls, by the recorded answers of real models.

Five members answered 1,319 questions of GSM8K, and 43 models 721 questions of MATH level 5. A sixth member is added that
either knows the questions and is always wrong in a way of its own, or also sees what the others say and votes for the
wrong answer that most of them give. The vote is exact: the recorded answers, counted by the package's own counter.

No arbiter was recorded, so what one would make of the answers is not known. Measured instead is what the consortium falls
back on when its arbiter fails, the answer nearest to all others (the medoid of the texts), and what the wording of the
deceiver does to it: a copy of the text most like the others with the number changed.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import common  # noqa: F401  # the packages of this repository are found through it

from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.tasks.counting.agreement import medoid
from consensus_flows.tasks.counting.extraction.extract import extract_all
from consensus_flows.tasks.counting.vote import count_votes
from tests.kits.recorded import GSM, GSM_MEMBERS, MATH, MATH_MEMBERS, PARSED_GSM, gsm_questions, parsed, scored

FORM = parse_extraction("json:answer")
WRONG = "0987654321"
"""An answer that is right nowhere and that nobody else gives."""
SIXTH = {"gsm": "Qwen2-72B-Instruct", "math-l5": "Meta-Llama-3.1-70B-Instruct"}
"""An honest sixth member to compare with, from the same tables; the next one of the table where it is not there."""


@dataclass(frozen=True)
class Row:
    """How a panel does on the questions, in per cent."""

    data: str
    panel: str
    questions: int
    right: float
    ties: float
    deceiver_wins: float


Value = float | str
Votes = list[Value | None]


def misled(values: Sequence[Value | None], gold: Value, *, colluding: bool) -> Value:
    """Return the wrong answer that the deceiver gives."""
    wrong = Counter(value for value in values if value is not None and value != gold)
    if colluding and wrong:
        return wrong.most_common(1)[0][0]
    return WRONG


def counted(data: str, panel: str, questions: Iterable[tuple[Value, Votes]], lies: Sequence[Value | None]) -> Row:
    """Count every question."""
    right = ties = lost = total = 0
    for (gold, values), lie in zip(questions, lies, strict=True):
        tally = count_votes(values)
        total += 1
        ties += tally.tie
        if tally.winner is not None:
            right += tally.winner.value == gold
            lost += lie is not None and tally.winner.value == lie
    return Row(data, panel, total, *(round(100 * part / total, 2) for part in (right, ties, lost)))


def rows_of(data: str, questions: Sequence[tuple[Value, Votes]], honest: Sequence[Value | None]) -> list[Row]:
    """Compare the five alone, with an honest sixth, and with a deceiver named last and named first."""
    nobody: list[Value | None] = [None] * len(questions)
    found = [
        counted(data, "five", questions, nobody),
        counted(
            data,
            "six, all honest",
            [(gold, [*values, sixth]) for (gold, values), sixth in zip(questions, honest, strict=True)],
            nobody,
        ),
    ]
    for name, colluding in (("always wrong", False), ("colludes with the most common wrong answer", True)):
        lies = [misled(values, gold, colluding=colluding) for gold, values in questions]
        pairs = list(zip(questions, lies, strict=True))
        found.append(
            counted(data, f"six, one {name}, listed last", [(g, [*values, lie]) for (g, values), lie in pairs], [*lies])
        )
        found.append(
            counted(
                data, f"six, one {name}, listed first", [(g, [lie, *values]) for (g, values), lie in pairs], [*lies]
            )
        )
    return found


def gsm_votes(limit: int | None = None) -> list[tuple[Value, Votes]]:
    """Read the five members' answers out of their raw texts."""
    found: list[tuple[Value, Votes]] = []
    for question in gsm_questions()[:limit]:
        readings = extract_all(question.outputs, FORM)
        found.append((question.gold, [scored(reading.value) if reading else None for reading in readings]))
    return found


def table_votes(limit: int | None = None) -> list[tuple[Value, Votes]]:
    """Take the answers of MATH as the published table has them."""
    table = parsed(MATH)
    columns = [table["models"][name] for name in MATH_MEMBERS]
    return [(gold, [_value(column[index]) for column in columns]) for index, gold in enumerate(table["gold"][:limit])]


def honest_sixth(data: str, limit: int | None = None) -> list[Value | None]:
    """Give the answers of one more recorded model."""
    table, used = (parsed(PARSED_GSM), GSM_MEMBERS) if data == "gsm" else (parsed(MATH), MATH_MEMBERS)
    models = table["models"]
    name = SIXTH[data] if SIXTH[data] in models else next(one for one in models if one not in used)
    answers = dict(zip(table["ids"], models[name], strict=True))
    ids = [question.id for question in gsm_questions()] if data == "gsm" else table["ids"]
    return [_value(answers.get(one)) for one in ids[:limit]]


def _value(answer: object) -> Value | None:
    return None if answer is None or answer == "__MISSING__" else answer  # type: ignore[return-value]


def medoid_rows(limit: int | None = None) -> list[Row]:
    """Take the answer nearest to all others, word for word, with and without a deceiver who copies the wording."""
    last, first = (f"six, one that copies a text and changes its number, listed {where}" for where in ("last", "first"))
    totals = {name: [0, 0] for name in ("five", last, first)}
    questions = gsm_questions()[:limit]
    for question in questions:
        texts = list(question.outputs)
        lie = _with_another_number(texts[medoid(texts)])
        for name, said in (("five", texts), (last, [*texts, lie]), (first, [lie, *texts])):
            chosen = said[medoid(said)]
            reading = extract_all([chosen], FORM)[0]
            totals[name][0] += reading is not None and scored(reading.value) == question.gold
            totals[name][1] += name != "five" and chosen == lie and lie not in texts
    return [
        Row(
            "gsm, nearest text", name, len(questions), *(round(100 * part / len(questions), 2) for part in (r, 0, lost))
        )
        for name, (r, lost) in totals.items()
    ]


def _with_another_number(text: str) -> str:
    """Change the answer in a recorded text and nothing else."""
    return re.sub(r'("answer"\s*:\s*"?[^\d\n]{0,5})[\d.,]+', rf"\g<1>{WRONG}", text) or text


def figures(limit: int | None = None) -> list[Row]:
    """Measure everything, on the first `limit` questions of each table."""
    gsm, math = gsm_votes(limit), table_votes(limit)
    return [
        *rows_of("gsm", gsm, honest_sixth("gsm", limit)),
        *rows_of("math-l5", math, honest_sixth("math-l5", limit)),
        *medoid_rows(limit),
    ]


def main() -> None:
    """Print a table for people and a line of JSON for programs."""
    if not all(path.exists() for path in (GSM, MATH, PARSED_GSM)):
        print(f"no recorded answers at {GSM.parent}: nothing to run")
        return
    found = figures()
    print(f"{'data':18} {'panel':64} {'right %':>8} {'ties %':>7} {'deceiver wins %':>16}")
    for row in found:
        print(f"{row.data:18} {row.panel:64} {row.right:8.2f} {row.ties:7.2f} {row.deceiver_wins:16.2f}")
    print(json.dumps({"figures": "deception", "rows": [asdict(row) for row in found]}))


if __name__ == "__main__":
    main()
