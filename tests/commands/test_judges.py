"""`consensus judges check`: figures in both orders, a verdict on adversarial pairs, and a person's own pairs."""

import json

import pytest

from consensus_flows.blocks.check_judges import ADVERSARIAL, CheckJudgesConfig
from consensus_flows.flows.check_judges import pairs_of, run_check_judges
from consensus_flows.tasks.errors import ConfigurationError, QuorumError
from consensus_flows.tasks.labelled_pairs import read_pairs, shipped_pairs
from tests.kits.command_kit import commands
from tests.kits.judges_kit import BETTER, by
from tests.vendors import faults, json_reply

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
OWN = {"question": "Why?", "a": "Because.", "b": "Because of the rain that fell.", "better": "b"}


@pytest.fixture
def consensus(vendors, monkeypatch, capsys):
    return commands(monkeypatch, capsys)


def config(*members, **settings):
    return CheckJudgesConfig.model_validate({"members": members or ["openai/knowing"]} | settings)


@pytest.fixture
def judges(vendors):
    vendors.script("knowing", then=by(lambda text: text in BETTER))
    vendors.script("wordy", then=by(len))
    vendors.script("lazy", then=json_reply({"analysis": "", "better": "first"}))
    return vendors


def test_the_pairs_that_come_along_are_balanced():
    for kind, longer in (("natural", 10), (ADVERSARIAL, 4)):
        own = [pair for pair in shipped_pairs() if pair.kind == kind]
        better = [(getattr(pair, pair.better), pair.b if pair.better == "a" else pair.a) for pair in own]
        assert len({pair.question for pair in own}) == len(own) == 20
        assert sum(pair.better == "a" for pair in own) == 10
        assert sum(len(one) > len(other) for one, other in better) == longer


async def test_three_kinds_of_judges_are_told_apart(judges):
    report = await run_check_judges(config("openai/knowing", "openai/wordy", "openai/lazy"))
    assert report.calls == judges.count() == 3 * 40 * 2
    knowing, wordy, lazy = report.judges
    assert [one.kinds[ADVERSARIAL].accuracy for one in report.judges] == [1.0, 0.2, 0.5]
    assert [one.kinds["natural"].accuracy for one in report.judges] == [1.0, 0.5, 0.5]
    assert report.refused == ["openai/wordy", "openai/lazy"]
    assert knowing.kinds["natural"].consistent == wordy.kinds["natural"].consistent == 20
    found = lazy.kinds["natural"]
    assert (found.flips, found.flips_to_the_one_shown_first, found.right_in_the_first_order) == (20, 20, 10)
    assert (wordy.kinds["natural"].right_where_longer, wordy.kinds["natural"].label_is_the_longer) == (10, 10)


async def test_a_judge_that_cannot_be_reached_is_refused_and_one_that_is_alone_fails_the_check(judges):
    judges.script("dead", then=faults.unauthorized())
    own = {"pairs": [OWN]}
    report = await run_check_judges(config("openai/knowing", "openai/dead", **own))
    assert (report.refused, report.judges[1].kinds["own"].unread) == (["openai/dead"], 1)
    with pytest.raises(QuorumError, match="openai/dead: auth"):
        await run_check_judges(config("openai/dead", **own))


async def test_where_the_budget_ends_nobody_is_refused(judges):
    report = await run_check_judges(config("openai/lazy", budget={"max_calls": 4}, fresh=True))
    assert (report.budget_ended, report.refused, judges.count()) == (True, [], 4)


def test_own_pairs_replace_the_natural_ones_and_are_counted_by_kind(judges, consensus, tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text(
        "id,question,a,b,better,kind\n1,Why?,Because.,Because of rain.,B,\n2,How?,Thus.,So.,a,short\n", encoding="utf-8"
    )
    ran = consensus("judges", "check", "-m", "openai/wordy", "--pairs", file, "--json")
    assert ran.code == 6
    (judge,) = json.loads(ran.out)["judges"]
    assert {kind: (one["n"], one["right_ties_half"]) for kind, one in judge["kinds"].items()} == {
        "own": (1, 1),
        "short": (1, 1),
        ADVERSARIAL: (20, 4),
    }
    ran = consensus("judges", "check", "-m", "openai/knowing")
    assert ran.code == 0
    assert "openai/knowing: accepted: right on 100%" in ran.out


def test_what_is_wrong_with_a_pair_is_said_before_any_call(judges, consensus, tmp_path):
    file = tmp_path / "pairs.jsonl"
    for row, wrong in (
        (OWN | {"better": "tie"}, "row 1: better: Input should be 'a' or 'b'"),
        ({"question": "Why?", "a": "Because.", "better": "a"}, "row 1: b: Field required"),
    ):
        file.write_text(json.dumps(row) + "\n", encoding="utf-8")
        ran = consensus("judges", "check", "-m", "openai/knowing", "--pairs", file)
        assert ran.code == 2
        assert wrong in ran.err
    assert consensus("judges", "check", "-m", "openai/knowing", "--pairs", tmp_path / "none.csv").code == 2
    assert judges.count() == 0
    with pytest.raises(ConfigurationError, match=r"none\.csv"):
        read_pairs(str(tmp_path / "none.csv"))
    assert len(pairs_of(config(pairs=[OWN]))) == 21
