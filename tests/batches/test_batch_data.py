"""The recorded answers of five real models to GSM8K as a batch: the published figures, over HTTP."""

import json
import random
from pathlib import Path

import pytest

from consensus_flows.flows.batch import batch
from consensus_flows.tasks.counting.extraction.extract import extract_all
from consensus_flows.tasks.counting.vote import count_votes
from consensus_flows.tasks.watch import watched_by
from tests.counting.test_vote_data import FORM
from tests.kits.batch_kit import environment_of, kill_when, read, start
from tests.kits.recorded import GSM, GSM_MEMBERS, gsm_questions, scored, serve

pytestmark = [
    pytest.mark.skipif(not GSM.exists(), reason=f"the recorded answers are not in {GSM.parent}"),
    pytest.mark.usefixtures("results"),
]
MEMBERS = [f"openai/{name}" for name in GSM_MEMBERS]
CONFIG = {"members": MEMBERS, "extract": "json:answer"}
SAMPLE = 30


class Ties:
    """Counts the votes that were tied."""

    def __init__(self) -> None:
        self.count = 0

    async def on_event(self, event, value):
        self.count += event == "ended" and bool(value.tie)


def write(path: Path, questions) -> Path:
    path.write_text(
        "".join(json.dumps({"id": one.id, "question": one.text, "gold": one.gold}) + "\n" for one in questions)
    )
    return path


def right(path: Path) -> int:
    return sum(scored(row["answer"]) == row["gold"] for row in read(path))


async def test_a_sample(vendors, tmp_path):
    serve(vendors)
    questions = random.Random(7).sample(gsm_questions(), SAMPLE)
    counts = {one.id: count_votes([r and r.value for r in extract_all(one.outputs, FORM)]) for one in questions}
    ties = Ties()
    out = tmp_path / "out.jsonl"
    with watched_by(ties):
        summary = await batch(str(write(tmp_path / "in.jsonl", questions)), str(out), flow="vote", config=CONFIG)
    assert (summary.rows, summary.done, summary.calls) == (SAMPLE, SAMPLE, 5 * SAMPLE) and vendors.count() == 5 * SAMPLE
    assert {row["id"]: scored(row["answer"]) for row in read(out)} == {
        name: scored(tally.winner.value) for name, tally in counts.items()
    }
    assert ties.count == sum(tally.tie for tally in counts.values())
    assert sum(summary.agreement) == SAMPLE


@pytest.mark.chaos
@pytest.mark.timeout(2400)
async def test_all_killed_twice_and_resumed(vendors, tmp_path):
    serve(vendors)
    questions = gsm_questions()
    source, out = write(tmp_path / "in.jsonl", questions), tmp_path / "out.jsonl"
    members = [part for name in MEMBERS for part in ("-m", name)]
    arguments = [
        source,
        "-o",
        out,
        "--flow",
        "vote",
        *members,
        "--extract",
        "json:answer",
        "--concurrency",
        16,
        "--json",
    ]
    environment = environment_of(tmp_path)
    for moment in (2000, 4500):
        assert kill_when(start(arguments, environment), lambda m=moment: vendors.count() >= m, seconds=900)
    process = start(arguments, environment)
    printed, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err.decode()
    summary = json.loads(printed)
    assert (summary["rows"], summary["done"]) == (1319, 1319)
    assert round(100 * right(out) / 1319, 2) == 91.74
    assert 5 * 1319 <= vendors.count() <= 5 * 1319 + 2 * 16 * 5
    ties = Ties()
    with watched_by(ties):
        await batch(str(source), str(tmp_path / "again.jsonl"), flow="vote", config=CONFIG, concurrency=16)
    print(json.dumps({"gsm8k": summary | {"bad_rows": None}, "requests": vendors.count(), "ties": ties.count}))
    assert ties.count == 51 and right(tmp_path / "again.jsonl") == right(out)
