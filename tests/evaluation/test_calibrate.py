"""`consensus calibrate`: from labeled rows to a saved panel."""

import json
import re

import pytest

from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.calibrate import fit, from_recorded, goal_of, names_of, planned_for
from consensus_flows.tasks.batches.source import Source
from consensus_flows.tasks.calibration import prompts_digest
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.evaluation.labelled import read_answers, read_recorded
from consensus_flows.tasks.reports.calibration_report import facts, findings, more, sentence
from consensus_flows.tasks.reports.findings import markdown
from tests.kits.command_kit import commands
from tests.kits.evaluation_kit import GOLD, write_rows
from tests.vendors import Reply

MEMBERS = {"a/cheap": 3, "a/other": 4, "a/strong": 50}


def recorded(path, rows):
    """Three members: the dear one is nearly always right, the cheap ones err apart from each other."""
    return write_rows(
        path,
        (
            {
                "id": f"r{n}",
                GOLD: 7,
                "kind": "big" if n % 3 else "small",
                "answers": {
                    name: {"answer": 7 if n % every else f"{every}{n % 2}", "cost_usd": cost}
                    for (name, every), cost in zip(MEMBERS.items(), (0.001, 0.001, 0.02), strict=True)
                },
            }
            for n in range(rows)
        ),
    )


@pytest.mark.parametrize(("rows", "stage"), [(40, "weights"), (120, "gain"), (240, "goal")])
def test_what_is_fitted_depends_on_the_number_of_labels(rows, stage, tmp_path):
    (panel,) = from_recorded(
        str(recorded(tmp_path / "rows.jsonl", rows)), GOLD, goal_of("accuracy", 0.01), extract="number"
    )
    assert panel.found.stage == stage
    assert panel.config.calibration is not None
    assert (panel.config.calibration.rows, panel.config.calibration.extract) == (rows, "number")
    assert panel.config == VoteConfig.model_validate(panel.config.model_dump(mode="json")), "it can be saved"
    assert panel.config.gives_probability()
    assert panel.found.plan in sentence(panel.found)
    assert dict(facts(panel.found))["plan"] == panel.found.plan
    assert list(more(panel.found))
    assert markdown(findings(None, panel.found)).startswith("# ")


def test_a_cheap_panel_loses_no_more_than_the_margin(tmp_path):
    rows = recorded(tmp_path / "rows.jsonl", 300)
    (panel,) = from_recorded(str(rows), GOLD, goal_of("cost", 0.01), extract="number")
    figures, single = panel.found.figures, panel.found.single
    assert single.plan == "single:a/strong"
    assert figures.cost_usd < single.cost_usd
    assert figures.gain >= -0.01
    assert panel.config.cascade is not None


def test_a_category_with_enough_rows_has_a_panel_of_its_own(tmp_path):
    rows = recorded(tmp_path / "rows.jsonl", 240)
    panels = from_recorded(str(rows), GOLD, goal_of("accuracy", 0.01), extract="number", by="kind")
    assert [(one.category, one.config.calibration.rows) for one in panels] == [(None, 240), ("big", 160)]
    assert names_of("night", [one.category for one in panels]) == {None: "night", "big": "night-big"}


def test_every_category_is_saved_under_a_valid_name_of_its_own():
    names = names_of("night", [None, "Law & order", "法律", "物理", "C", "C++"])
    assert (names[None], names["Law & order"]) == ("night", "night-law-order")
    assert len({*names.values()}) == len(names)
    assert all(re.fullmatch("night(-[a-z0-9]+)*", name) for name in names.values())


def test_the_price_of_a_member_that_is_left_out_goes_with_it(tmp_path):
    rows = read_recorded(str(recorded(tmp_path / "rows.jsonl", 240)), GOLD, "number", None, None)
    prices = [f"{name}=1/2" for name in MEMBERS]
    given = VoteConfig(members=list(MEMBERS), extract="number", prices=prices)
    answered = read_answers(rows, list(MEMBERS), "number")
    (panel,) = fit(answered, given, goal_of("budget=0.0015", 0.01), prompts=None, by=False)
    asked = set(panel.found.settings["members"])
    assert asked < {*MEMBERS}, "one member is left out"
    assert panel.config.prices == [f"{name}=1/2" for name in MEMBERS if name in asked]


async def test_a_judge_of_pairs_is_refused_before_any_call(tmp_path):
    config = VoteConfig(members=["openai/one", "openai/two"], pairwise_judge="openai/judge")
    file = tmp_path / "rows.csv"
    file.write_text("prompt,gold\n" + "".join(f"What is {n} modulo eight?,7\n" for n in range(12)))
    with pytest.raises(ConfigurationError, match="pairwise_judge"):
        await planned_for(Source(str(file)), GOLD, config)


@pytest.mark.parametrize("goal", ["speed", "accuracy=1", "budget", "budget=0", "budget=nan", "cost=2"])
def test_a_goal_that_is_none_is_refused(goal):
    with pytest.raises(ConfigurationError, match="goal"):
        goal_of(goal, 0.01)


def test_what_cannot_be_calibrated_is_said(tmp_path):
    few = recorded(tmp_path / "few.jsonl", 5)
    with pytest.raises(ConfigurationError, match="at least 10 are needed"):
        from_recorded(str(few), GOLD, goal_of("accuracy", 0.01), extract="number")
    rows = recorded(tmp_path / "rows.jsonl", 60)
    with pytest.raises(ConfigurationError, match="extract"):
        from_recorded(str(rows), GOLD, goal_of("accuracy", 0.01), extract=None)


@pytest.mark.usefixtures("results")
def test_a_panel_is_asked_calibrated_saved_and_used(vendors, monkeypatch, capsys, tmp_path):
    """Each member is asked once a row; the saved panel then asks as it was calibrated."""
    consensus = commands(monkeypatch, capsys)
    said = {"one": "7", "two": "7", "three": "8"}
    for model, text in said.items():
        vendors.script(model, then=Reply(text))
    rows = tmp_path / "rows.csv"
    rows.write_text("prompt,gold\n" + "".join(f"What is {n} modulo eight?,7\n" for n in range(12)))
    members = [part for model in said for part in ("-m", f"openai/{model}")]
    asked = ("calibrate", str(rows), "--label", "gold", "--extract", "number", "--json", *members)
    code, out, err = consensus(*asked, "--save", "calibrated-sevens")
    assert code == 0, err
    assert vendors.count() == 36
    (made,) = json.loads(out)
    assert made["found"]["stage"] == "weights"
    shown = json.loads(consensus("show", "calibrated-sevens")[1])
    assert shown["calibration"]["rows"] == 12
    assert shown["calibration"]["prompts"] == prompts_digest(VoteConfig(members=["openai/one"]))
    assert shown["weights"]["openai/one"] > shown["weights"]["openai/three"]
    listed = consensus("list")[1]
    assert "calibration on 12 rows, " in listed and "{" not in listed
    record = json.loads(consensus("What is it?", "--name", "calibrated-sevens", "--json")[1])
    assert (record["answer"], record["confidence_measure"]) == ("7", "calibrated")
    assert record["confidence"] == record["tally"][0]["probability"] > 0.8
    assert consensus(*asked, "--fresh", "--save", "No Name")[0] == 2
    assert vendors.count() == 39, "a bad name is found before the first call"
