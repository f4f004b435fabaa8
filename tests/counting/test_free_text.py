"""Win rates of free text, as they are and at equal length; and how several judges come to one verdict."""

import gzip
import json
import math
import random

import pytest

from consensus_flows.tasks.counting.judges import JudgedPair, longer
from consensus_flows.tasks.evaluation.free_text import (
    Bout,
    JudgedRow,
    drift,
    majority,
    outcome,
    settled,
    usd_per_1000,
    win_rate,
)
from consensus_flows.tasks.record import Comparison
from tests.kits.recorded import FOLDER


def test_where_length_says_nothing_both_rates_are_the_same():
    bouts = [Bout(result, 100, 100) for result in [1.0] * 60 + [0.0] * 30 + [0.5] * 10]
    found = win_rate("a/b", bouts)
    assert (found.n, found.wins, found.losses, found.ties, found.win_rate, found.longer) == (100, 60, 30, 10, 0.65, 0)
    assert found.length_controlled == pytest.approx(0.65, abs=1e-4)
    low, high = found.interval
    assert low == pytest.approx(0.65 - 1.96 * 0.45 / 10, abs=0.02)
    assert high == pytest.approx(0.65 + 1.96 * 0.45 / 10, abs=0.02)
    assert found.length_controlled_interval == pytest.approx(found.interval, abs=1e-3)


def test_a_judge_that_goes_by_length_alone_gives_a_long_panel_a_win_rate_and_none_at_equal_length():
    draw = random.Random(1)
    bouts = []
    for _ in range(400):
        ratio = draw.gauss(0.5, 0.5)
        chance = 1 / (1 + math.exp(-4 * ratio))
        bouts.append(Bout(float(draw.random() < chance), round(1000 * math.exp(ratio)), 1000))
    found = win_rate("a/b", bouts)
    assert found.win_rate > 0.7
    low, high = found.length_controlled_interval
    assert low < 0.5 < high


def test_the_regression_finds_what_an_optimizer_finds():
    np = pytest.importorskip("numpy")
    optimize = pytest.importorskip("scipy.optimize")
    draw = random.Random(2)
    bouts = [Bout(draw.choice([0.0, 0.5, 1.0]), draw.randint(50, 500), draw.randint(50, 500)) for _ in range(80)]
    lengths = np.array([math.log(one.panel_length / one.member_length) for one in bouts])
    lengths, results = lengths / np.sqrt((lengths**2).mean()), np.array([one.result for one in bouts])

    def loss(values):
        logits = values[0] + values[1] * lengths
        likelihood = (results * logits - np.logaddexp(0, logits)).sum()
        return -likelihood + 0.5 * (1e-3 * values[0] ** 2 + values[1] ** 2)

    intercept, _ = optimize.minimize(loss, np.zeros(2)).x
    assert win_rate("a/b", bouts).length_controlled == pytest.approx(1 / (1 + math.exp(-intercept)), abs=1e-5)


def test_where_all_answers_differ_alike_in_length_nothing_can_be_said_of_length():
    bouts = [Bout(result, 101 + number, 1000) for number, result in enumerate([1.0, 0.5, 0.0, 0.5, 0.0, 0.0] * 5)]
    found = win_rate("a/b", bouts)
    assert found.length_controlled == pytest.approx(found.win_rate, abs=0.05)


@pytest.mark.parametrize("result", [0.0, 1.0])
def test_where_every_question_is_won_or_lost_the_rates_are_finite(result):
    found = win_rate("a/b", [Bout(result, 10 * number, 50) for number in range(1, 11)])
    assert found.win_rate == result
    assert 0 < found.length_controlled < 1
    assert abs(found.length_controlled - result) < 0.05


def test_two_cheap_judges_with_a_strong_one_behind_them_replay_what_was_recorded():
    if not (FOLDER / "judges_llmbar.json.gz").exists():
        pytest.skip("the recorded verdicts are not beside the checkout")
    sides = {1: "first", 2: "second", None: None}
    pairs = json.loads(gzip.decompress((FOLDER / "judges_llmbar.json.gz").read_bytes()))["pairs"]
    right = asked = alone = 0.0
    natural = [pair for pair in pairs if pair["id"].startswith("Natural")]
    for pair in natural:
        found = {
            judge: outcome(Comparison(pair=("1", "2"), said=tuple(sides[one] for one in said)))
            for judge, said in pair["verdicts"].items()
        }
        cheap = [found["ChatGPT"], found["PaLM2"]]
        verdict = cheap[0] if settled(cheap) else majority([found["GPT-4"]])
        asked += 0 if settled(cheap) else 2
        label, long = sides[pair["label"]], longer(pair["output_1"], pair["output_2"])
        right += JudgedPair(label, long, (verdict, verdict)).right
        three = majority([*cheap, found["LLaMA2"]])
        alone += JudgedPair(label, long, (three, three)).right
    assert (right / len(natural), asked / len(natural)) == (0.935, 0.84), "as right as the strong judge alone"
    assert alone / len(natural) == 0.885, "three cheap ones by majority"


def rows(results):
    return [
        JudgedRow(id=str(number), question="Why?", panel="p", members={"a/b": "m"}, results={"a/b": result})
        for number, result in enumerate(results)
    ]


def test_a_win_rate_has_fallen_only_where_it_is_more_than_chance():
    before = rows(["first"] * 20)
    few = drift(rows(["second"] * 3 + ["first"] * 17), before)
    assert (few.rows, few.win_rate, few.win_rate_before, few.fell) == (20, 0.85, 1.0, False)
    assert few.p == pytest.approx(2 / 2**3), "exact: three changes, all of one direction"
    many = drift(rows(["second"] * 8 + ["first"] * 12), before)
    assert (many.p, many.fell) == (pytest.approx(2 / 2**8), True)
    assert drift(before, rows(["second"] * 8 + ["first"] * 12)).fell is False, "it has risen"
    assert (drift(before, before).p, drift(before, before).fell) == (1, False)


def test_win_rates_are_compared_on_the_questions_and_members_of_both():
    now = [
        JudgedRow(id="0", question="", panel="", members={}, results={"a/b": "first", "new": "second"}),
        JudgedRow(id="1", question="", panel="", members={}, results={"a/b": None}),
        JudgedRow(id="9", question="", panel="", members={}, results={"a/b": "second"}),
    ]
    found = drift(now, rows(["tie", "first"]))
    assert (found.rows, found.members, found.win_rate, found.win_rate_before) == (1, ["a/b"], 1, 0.5)
    assert drift(now, []) is None


def test_a_price_is_the_mean_of_those_that_are_known():
    assert usd_per_1000([0.001, None, 0.003]) == pytest.approx(2)
    assert usd_per_1000([None]) is None
