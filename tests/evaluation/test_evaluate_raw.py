"""A roster of raw texts: read by ours, and asked over HTTP, it comes to what was published of the answers that others read."""

import random

import pytest

from consensus_flows.flows.evaluate import evaluate, from_recorded
from tests.kits.evaluation_kit import PRICES, write_rows
from tests.kits.recorded import GSM, GSM_MEMBERS, gsm_questions
from tests.kits.rosters import recorded_table, targets
from tests.vendors import ANY, Reply, Usage

pytestmark = pytest.mark.skipif(not GSM.exists(), reason=f"the recorded answers are not in {GSM.parent}")
CLOCK = "gsm8k-main-test-#1001"
"""Asks for a time of day. Published is the first number of `2:00 pm`; ours is the whole of it."""
SAMPLE = 40


def rows(questions):
    ids, _, _, read, written = recorded_table("gsm")
    places = {name: place for place, name in enumerate(ids)}
    for one in questions:
        place = places[one.id]
        said = {
            f"openai/{name}": {"text": text, "input_tokens": read[place], "output_tokens": written[name][place]}
            for name, text in zip(GSM_MEMBERS, one.outputs, strict=True)
        }
        gold = "2:00 pm" if one.id == CLOCK else one.gold
        yield {"id": one.id, "question": one.text, "gold": gold, "answers": said}


def test_raw_texts_come_to_the_published_figures(tmp_path):
    roster = next(one for one in targets() if (one["dataset"], one["roster"]) == ("gsm", "small"))
    path = write_rows(tmp_path / "raw.jsonl", rows(gsm_questions()))
    made = from_recorded(str(path), "gold", extract="json:answer", prices=PRICES, split="half")
    for name, wanted in roster["seed_0"]["methods"].items():
        one = made.plan(name)
        if name in {"single", "majority", "majority-listed", "log-odds", "log-odds-q", "dawid-skene", "cascade-2-vote"}:
            assert (one.right, one.calls, one.better, one.worse) == tuple(
                wanted[key] for key in ("right", "calls", "better_than_single", "worse_than_single")
            ), name
        # Two texts are read otherwise than published, which others notice that do not ask everybody.
        assert abs(one.right - wanted["right"]) <= 2, name
        assert one.calls == pytest.approx(wanted["calls"], abs=8), name
        assert one.cost_usd == pytest.approx(wanted["cost_usd"], rel=0.01), name


@pytest.mark.usefixtures("results")
async def test_asked_over_http_they_come_to_the_same(vendors, tmp_path):
    sample = list(rows(random.Random(3).sample(gsm_questions(), SAMPLE)))
    said = {row["question"]: row["answers"] for row in sample}

    def answer(seen):
        one = said[seen.prompt][f"openai/{seen.model}"]
        return Reply(text=one["text"], usage=Usage(input=one["input_tokens"], output=one["output_tokens"]))

    vendors.script(ANY, then=answer)
    members = [f"openai/{name}" for name in GSM_MEMBERS]
    listed = targets()[0]["prices_usd_per_million"]
    config = {
        "members": members,
        "extract": "json:answer",
        "prices": [f"openai/{name}={read}/{written}" for name, (read, written) in listed.items()],
    }
    labeled = [{key: row[key] for key in ("id", "question", "gold")} for row in sample]
    asked = await evaluate(str(write_rows(tmp_path / "in.jsonl", labeled)), "gold", config=config, split="half")
    recorded = write_rows(tmp_path / "out.jsonl", sample)
    read = from_recorded(str(recorded), "gold", extract="json:answer", prices=PRICES, split="half")
    assert vendors.count() == SAMPLE * len(members)
    for one, other in zip(asked.plans, read.plans, strict=True):
        assert one.cost_usd == pytest.approx(other.cost_usd)
        assert one.model_copy(update={"cost_usd": None}) == other.model_copy(update={"cost_usd": None})
