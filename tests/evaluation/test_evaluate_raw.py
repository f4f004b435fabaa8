"""A roster of raw texts through loopback HTTP: the same figures as of the answers that were read when they were published."""

import json

import pytest

from consensus_flows.flows.evaluate import evaluate
from tests.kits.evaluation_kit import write_rows
from tests.kits.recorded import GSM, GSM_MEMBERS, gsm_questions
from tests.kits.rosters import recorded_table, targets
from tests.vendors import ANY, Reply, Usage

pytestmark = [
    pytest.mark.skipif(not GSM.exists(), reason=f"the recorded answers are not in {GSM.parent}"),
    pytest.mark.usefixtures("results"),
]


@pytest.mark.chaos
@pytest.mark.timeout(2400)
async def test_raw_texts_over_http_come_to_the_published_figures(vendors, tmp_path):
    """1,319 questions of five models, with the tokens and prices of the targets."""
    roster = next(one for one in targets() if (one["dataset"], one["roster"]) == ("gsm", "small"))
    ids, _, _, read, written = recorded_table("gsm")
    places = {name: place for place, name in enumerate(ids)}
    questions = {one.text: one for one in gsm_questions()}

    def answer(seen):
        one = questions[seen.prompt]
        place = places[one.id]
        text = dict(zip(GSM_MEMBERS, one.outputs, strict=True))[seen.model]
        return Reply(text=text, usage=Usage(input=read[place], output=written[seen.model][place]))

    vendors.script(ANY, then=answer)
    rows = [{"id": one.id, "question": one.text, "gold": one.gold} for one in questions.values()]
    prices = [f"openai/{name}={a}/{b}" for name, (a, b) in roster["prices_usd_per_million"].items()]
    config = {"members": [f"openai/{name}" for name in roster["members"]], "extract": "json:answer", "prices": prices}
    made = await evaluate(
        str(write_rows(tmp_path / "in.jsonl", rows)), "gold", config=config, split="half", concurrency=16
    )
    assert vendors.count() == 5 * len(rows) == 6595
    figures = {one.plan: one for one in made.plans}
    for name, wanted in roster["seed_0"]["methods"].items():
        one = figures[name]
        assert (one.right, one.calls, one.better, one.worse) == tuple(
            wanted[key] for key in ("right", "calls", "better_than_single", "worse_than_single")
        ), name
        assert one.cost_usd == pytest.approx(wanted["cost_usd"], abs=1e-8), name
    print(json.dumps({"gsm": made.model_dump(mode="json", include={"rows", "test", "recommended", "verdict"})}))
