"""A batch of a calibrated panel: which answers are probable, which a person should look at, and when that is not to be trusted."""

import json
import math

import pytest

from consensus_flows.blocks.calibration import Calibration
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.algorithms import algorithm
from consensus_flows.tasks.batches.estimate import estimate
from consensus_flows.tasks.batches.results import RowResult
from consensus_flows.tasks.batches.review import reasons, unsure
from consensus_flows.tasks.batches.summary import BatchSummary, fewer_unanimous, how_sure
from consensus_flows.tasks.calibration import differences, has_fallen, prompts_digest
from tests.kits.batch_kit import read
from tests.kits.command_kit import Command, commands
from tests.vendors import LoopbackVendors, Reply

CALIBRATION = {
    "rows": 200,
    "ids_digest": "0" * 64,
    "date": "2026-11-27",
    "extract": "number",
    "accuracy": 0.9,
    "interval": [0.85, 0.93],
    "calls": 2.25,
    "cost_usd": 0.002,
    "unanimous": 0.8,
    "sure": 0.7,
    "sure_accuracy": 0.964,
}
PANEL = {
    "members": ["openai/one", "anthropic/two", "google/three"],
    "extract": "number",
    "learned": {
        "intercept": -2.0,
        "members": {"openai/one": 1.0, "anthropic/two": 1.0, "google/three": 1.0},
        "share": 2.0,
        "two_or_more": 0.5,
        "unanimous": 1.0,
        "pairs": {},
    },
    "calibration": CALIBRATION,
}


def result(**fields):
    return RowResult.model_validate({"id": "1", "answer": "A", "status": "finished"} | fields).model_dump(mode="json")


def config(**settings):
    return VoteConfig.model_validate(PANEL | settings)


def test_an_answer_that_is_not_probable_enough_is_unsure():
    row = result(confidence=0.9, confidence_measure="calibrated")
    assert unsure(row, None) == unsure(row, 0.9) == row
    assert unsure(row, 0.91)["status"] == "unsure" and reasons(unsure(row, 0.91)) == ["unsure"]
    assert unsure(result(), 0.5)["status"] == "unsure", "nobody knows how probable it is"
    assert unsure(result(answer=None, status="failed"), 0.5)["status"] == "failed"


@pytest.mark.parametrize(
    ("unanimous", "rows", "fallen"),
    [(700, 1000, False), (690, 1000, True), (0, 0, False), (6, 10, False), (1000, 1000, False)],
)
def test_unanimity_has_fallen_by_more_than_ten_points_and_more_than_chance(unanimous, rows, fallen):
    assert has_fallen(unanimous, rows, Calibration.model_validate(CALIBRATION)) is fallen


def test_the_summary_counts_what_is_sure_and_what_was_spared():
    summary = BatchSummary(calibration=Calibration.model_validate(CALIBRATION), gives_probability=True)
    voted = {"votes": {"A": 2}, "answers": {"a/x": {"answer": "A"}, "b/y": {"answer": "A"}}}
    calibrated = {"confidence_measure": "calibrated", "calls_not_made": 1}
    summary.add(result(confidence=0.95, **calibrated, **voted))
    summary.add(result(confidence=0.5, status="unsure", **calibrated, votes={"A": 1, "B": 1}, answers=voted["answers"]))
    summary.add(result(confidence=0.95))
    summary.add(result(votes={"A": 1}, answers={"a/x": {"answer": "A"}, "b/y": {}}))
    assert (summary.sure, summary.unsure, summary.calls_not_made) == (1, 1, 2)
    assert (summary.unanimous, summary.counted) == (1, 3)
    assert how_sure(summary).startswith(
        "1 of 4 rows have a probability of 90 % or more; on the 200 labeled rows 70 % had, and 96.4 %"
    )
    assert how_sure(BatchSummary(calibration=summary.calibration)) is None, (
        "without a learned vote there is no probability"
    )
    summary.unanimous = 2
    assert fewer_unanimous(summary) is None, "2 of 3 may be chance"
    summary.counted, summary.unanimous = 100, 60
    assert "in 60 % of the rows, in the calibration in 80 %" in fewer_unanimous(summary)


def test_what_differs_from_the_calibration_is_named():
    own = CALIBRATION | {"prompts": prompts_digest(config())}
    assert list(differences(config(calibration=own))) == []
    assert len(list(differences(config(calibration=own, extract="choice")))) == 1
    assert len(list(differences(config(calibration=own, system="Be brief.")))) == 1
    assert len(list(differences(config(calibration=own, prompt_set="chain-of-thought", extract="text")))) == 2
    assert list(differences(config(system="Be brief."))) == [], "the prompts of the calibration are not known"


async def test_the_estimate_says_what_is_expected(results, vendors):
    found = await estimate(
        config(stop_at_confidence=0.7), algorithm("vote").plan(config(stop_at_confidence=0.7)), 40, 400
    )
    assert (found.calls_least, found.calls_expected, found.calls_most) == (80, 90, 120)
    assert found.cost_usd_expected == pytest.approx(0.08)
    plain = config(learned=None, calibration=None)
    assert (await estimate(plain, algorithm("vote").plan(plain), 40, 400)).calls_expected is None


@pytest.fixture
def consensus(results: str, vendors: LoopbackVendors, monkeypatch, capsys) -> Command:
    return commands(monkeypatch, capsys)


def test_rows_below_a_probability_are_in_the_review(consensus, vendors, tmp_path):
    for name, number in (("one", 7), ("two", 7), ("three", 9)):
        vendors.script(name, then=lambda seen, number=number: Reply(text=str(number if "split" in seen.prompt else 7)))
    source, out, review, panel = (tmp_path / name for name in ("in.csv", "out.jsonl", "review.csv", "panel.json"))
    source.write_text("id,prompt\na,split\nb,same\n")
    panel.write_text(json.dumps(PANEL))
    batch = [
        "batch",
        source,
        "-o",
        out,
        "--flow",
        "vote",
        "--config",
        panel,
        "--review",
        review,
        "--review-below",
        "0.9",
    ]
    ran = consensus(*batch, "--json")
    summary = json.loads(ran.out)
    assert (ran.code, summary["done"], summary["sure"], summary["unsure"], summary["to_review"]) == (0, 2, 1, 1, 1)
    assert summary["calibration"]["rows"] == 200
    first, second = read(out)
    assert (first["status"], first["answer"], first["confidence_measure"]) == ("unsure", "7", "calibrated")
    assert first["confidence"] == pytest.approx(1 / (1 + math.exp(2 - 1 - 1 - 4 / 3 - 0.5)))
    assert (second["status"], second["confidence"] > 0.9) == ("finished", True)
    assert [(row["id"], row["reasons"], row["confidence"][:4]) for row in read(review)] == [("a", "unsure", "0.86")]
    assert "Probability: 86 %" in review.with_suffix(".html").read_text()
    told = consensus(*batch)
    assert "1 of 2 rows have a probability of 90 % or more" in told.err and "96.4 % of these were right" in told.err

    refused = consensus(
        *batch[:4], "--flow", "vote", "-m", "openai/one", "--extract", "number", "--review-below", "0.9"
    )
    assert refused.code == 2 and "--review-below" in refused.err and "consensus calibrate" in refused.err


def test_a_calibrated_cascade_has_a_probability_as_long_as_it_asks_as_it_was_calibrated(consensus, vendors, tmp_path):
    for name, number in (("one", 7), ("two", 7), ("three", 9)):
        vendors.script(name, then=lambda seen, number=number: Reply(text=str(number if "split" in seen.prompt else 7)))
    source, out, panel = (tmp_path / name for name in ("in.csv", "out.jsonl", "panel.json"))
    source.write_text("id,prompt\na,split\nb,same\n")
    cascade = {"members": PANEL["members"], "cascade": "one,three>two"}
    fitted = PANEL["learned"] | {"members": PANEL["learned"]["members"] | {"google/three": 2.5}}
    record = CALIBRATION | {"probability": fitted, "rule": VoteConfig.model_validate(cascade).rule_digest()}
    panel.write_text(json.dumps(cascade | {"extract": "number", "calibration": record}))
    batch = ["batch", source, "-o", out, "--flow", "vote", "--config", panel, "--review-below", "0.9", "--json"]
    ran = consensus(*batch)
    assert (ran.code, json.loads(ran.out)["sure"], json.loads(ran.out)["unsure"]) == (0, 1, 1), ran.err
    first, second = read(out)
    # One and two gave the answer to the first row, one and three to the second.
    assert first["confidence"] == pytest.approx(1 / (1 + math.exp(2 - 1 - 1 - 4 / 3 - 0.5)))
    assert second["confidence"] == pytest.approx(1 / (1 + math.exp(2 - 1 - 2.5 - 4 / 3 - 0.5)))
    assert [row["status"] for row in (first, second)] == ["unsure", "agreed"]
    other = consensus(*batch, "--cascade", "one,two>three")
    assert other.code == 2 and "have no probability" in other.err


def test_a_cascade_in_a_batch_counts_the_calls_that_it_spares(consensus, vendors, tmp_path):
    for name in ("one", "two", "three"):
        vendors.script(name, then=Reply(text="7"))
    vendors.script("two", then=lambda seen: Reply(text="8" if "split" in seen.prompt else "7"))
    source, out = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text("id,prompt\na,split\nb,same\nc,same again\n")
    members = ["-m", "openai/one", "-m", "openai/two", "-m", "openai/three", "--extract", "number"]
    batch = ["batch", source, "-o", out, "--flow", "vote", *members, "--cascade", "one,two>three"]
    estimated = consensus(*batch, "--dry-run")
    assert "3 rows: 6 to 9 calls" in estimated.out
    ran = consensus(*batch, "--json")
    assert (ran.code, json.loads(ran.out)["calls_not_made"], vendors.count("three")) == (0, 2, 1)
    assert [(row["status"], row["calls"], row["calls_not_made"]) for row in read(out)] == [
        ("finished", 3, 0),
        ("agreed", 2, 1),
        ("agreed", 2, 1),
    ]
