"""A calibrated panel: what the number of labels allows, what the goal asks for, and a vote that asks as was replayed."""

import asyncio
import datetime as dt
import random

import pytest
from prefect.context import AsyncClientContext

from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.vote import run_vote
from consensus_flows.tasks.evaluation.calibrating import (
    Goal,
    by_group,
    calibrate,
    choose,
    probability_of,
    settings_of,
    stage_of,
)
from consensus_flows.tasks.evaluation.plans import PlanFitter, fit_plans, score
from consensus_flows.tasks.evaluation.reliability import calibration_error, grouped
from consensus_flows.tasks.evaluation.rows import LabelledRow, MemberReading
from consensus_flows.tasks.evaluation.split import halves
from tests.kits.rosters import TARGETS, roster_rows, targets
from tests.vendors import Reply
from tests.vendors.ledger import ANY

MEMBERS = ["openai/cheap", "openai/fair", "openai/good", "openai/noise"]
SKILL = [0.7, 0.75, 0.85, 0.2]
COST = [0.001, 0.002, 0.01, 0.02]
ABOUT = {"extract": "number", "ids_digest": "0" * 64, "date": dt.date(2026, 11, 27)}
ACCURACY = Goal("accuracy")


def made_up(count, seed=0):
    """Questions whose answer is 0: each member is right as often as its skill says, now and then without an answer."""
    chance = random.Random(seed)

    def reading(skill, cost):
        said = 0 if chance.random() < skill else chance.choice([1, 1, 2, 3, None])
        return MemberReading(said, cost_usd=cost)

    return [
        LabelledRow(f"row-{number}", 0, tuple(map(reading, SKILL, COST)), group="a" if number % 3 else "b")
        for number in range(count)
    ]


def calibrated(rows, goal=ACCURACY):
    found = calibrate(rows, MEMBERS, goal, **ABOUT)
    # A vote takes them, and its form shows them.
    VoteConfig.model_validate({"extract": "number"} | found.settings)
    return found


@pytest.mark.parametrize(("count", "stage"), [(49, "weights"), (50, "gain"), (199, "gain"), (200, "goal")])
def test_the_number_of_labels_says_what_is_fitted(count, stage):
    assert stage_of(count) == stage


def test_few_labels_give_weights_and_a_tie_order_only():
    found = calibrated(made_up(40))
    assert (found.stage, found.plan, found.dropped, found.tried) == ("weights", "log-odds", [], [])
    assert set(found.settings) == {"members", "weights", "tie_order", "calibration"}
    assert found.settings["members"] == MEMBERS
    assert found.settings["weights"]["openai/good"] > found.settings["weights"]["openai/noise"] == 0.01


def test_with_more_labels_a_plan_must_gain_more_than_its_standard_error():
    found = calibrated(made_up(150))
    assert found.stage == "gain"
    chosen = next(one for one in found.tried if one.plan == found.plan)
    assert chosen.gain > chosen.gain_se
    assert not any("learned" in one.plan for one in found.tried)


def test_many_labels_allow_a_learned_vote_which_says_how_sure_it_is():
    rows = made_up(600)
    fitted = fit_plans(rows, MEMBERS, names=["learned"])["learned"]
    settings = settings_of(fitted)
    record = calibrated(rows).settings["calibration"]
    config = VoteConfig.model_validate({"extract": "number", "calibration": record} | settings)
    assert config.learned is not None
    assert list(config.learned.members) == MEMBERS
    outcomes = list(map(fitted.replay, made_up(600, seed=1)))
    sure = [one for one in outcomes if one.confidence is not None and one.confidence >= 0.9]
    assert len(sure) > 100
    assert sum(one.right for one in sure) / len(sure) >= 0.9
    stated = sum(one.confidence or 0 for one in outcomes) / len(outcomes)
    assert stated == pytest.approx(sum(one.right for one in outcomes) / len(outcomes), abs=0.05)


def test_a_member_that_adds_nothing_is_dropped_and_said():
    rows = [LabelledRow(row.id, row.label, (*row.answers[:3], MemberReading(9, cost_usd=0.02))) for row in made_up(400)]
    choice = choose(rows, MEMBERS, ACCURACY)
    (useless,) = (one for one in choice.dropped if one.member == "openai/noise")
    assert useless.right_with is None or useless.right_without >= useless.right_with
    assert "openai/noise" not in calibrated(rows).members


def test_goals_of_cost_and_budget():
    rows = made_up(600)
    accuracy, cost = calibrated(rows), calibrated(rows, Goal("cost", margin=0.02))
    assert cost.figures.cost_usd < accuracy.figures.cost_usd
    chosen = next(one for one in cost.tried if one.plan == cost.plan)
    assert chosen.gain - 1.64 * chosen.gain_se >= -0.02

    budget = calibrated(rows, Goal("budget", usd=0.004))
    chosen = next(one for one in budget.tried if one.plan == budget.plan)
    assert chosen.cost_usd <= 0.004
    assert all(one.right <= chosen.right for one in budget.tried if one.cost_usd <= 0.004)


def test_the_record_is_of_rows_that_nothing_was_fitted_on():
    found = calibrated(made_up(400))
    record = found.calibration
    assert (record.rows, record.extract, record.ids_digest) == (400, "number", "0" * 64)
    assert record.interval[0] < record.accuracy == found.figures.accuracy < record.interval[1]
    assert record.accuracy == pytest.approx(found.single.accuracy + found.figures.gain)
    assert record.cost_usd == found.figures.cost_usd


def test_prices_may_be_unknown():
    rows = [
        LabelledRow(row.id, row.label, tuple(MemberReading(one.answer, cost_usd=None) for one in row.answers))
        for row in made_up(250)
    ]
    found = calibrated(rows)
    assert found.calibration.cost_usd is None
    assert found.figures.right > 0


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="9 labeled rows are too few"):
        calibrate(made_up(9), MEMBERS, ACCURACY, **ABOUT)


@pytest.mark.parametrize("count", [40, 100, 300])
def test_a_budget_that_pays_for_no_plan_is_refused(count):
    with pytest.raises(ValueError, match=r"budget: 0\.0005 US dollars a question pay for no plan"):
        calibrate(made_up(count), MEMBERS, Goal("budget", usd=0.0005), **ABOUT)


def test_categories_with_enough_rows_are_apart():
    groups = by_group(made_up(240))
    assert {name: len(rows) for name, rows in groups.items()} == {"a": 160, None: 80}


def test_instances_of_one_model_keep_their_own_numbers():
    members = ["openai/a#1", "openai/a#2", "openai/b"]
    rows = [LabelledRow(row.id, row.label, row.answers[:3]) for row in made_up(300)]
    settings = settings_of(fit_plans(rows, members, names=["log-odds"])["log-odds"])
    assert settings["members"] == ["openai/a", "openai/a", "openai/b"]
    assert list(settings["weights"]) == members
    # The second instance alone is the first one of its panel.
    cascade = settings_of(PlanFitter(rows, members).plan("cascade:openai/a#2,openai/b>openai/a#1"))
    assert cascade["members"] == ["openai/a", "openai/b", "openai/a"]
    assert cascade["cascade"] == {"ask": ["openai/a#1", "openai/b"], "agree": 2, "then": "openai/a#2"}


def test_a_plan_that_is_none_is_named():
    rows = made_up(60)
    with pytest.raises(ValueError, match="'cascade-9' is not a plan for 4 members"):
        fit_plans(rows, MEMBERS, names=["cascade-9"])
    with pytest.raises(ValueError, match="'nobody' is not a member"):
        fit_plans(rows, MEMBERS, names=["single:nobody"])
    with pytest.raises(ValueError, match="sequential"):
        settings_of(fit_plans(rows, MEMBERS, names=["sequential-0.9"])["sequential-0.9"])


PLANS = (
    "majority",
    "log-odds-q",
    "learned",
    "stop-2",
    "stop-2-best-first",
    "sequential-learned-0.9",
    "cascade-2",
    "cascade-2-vote",
    "cascade-vote:openai/cheap,openai/fair,openai/good",
)


@pytest.mark.usefixtures("results")
@pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted")
async def test_a_vote_with_these_settings_asks_and_answers_as_the_replay(vendors):
    rows = made_up(300)
    record = calibrated(rows, Goal("cost")).settings["calibration"]
    # Every way to agree, but no row in which hardly anybody answers: there a run wants a quorum, and a replay does not.
    by_pattern = {row.pattern: row for row in rows if row.pattern.count(None) < 2}
    asked_rows = {f"question {row.id}": row for row in list(by_pattern.values())[:8]}

    def answer(seen):
        said = asked_rows[seen.prompt].answers[MEMBERS.index(f"openai/{seen.model}")].answer
        return Reply(text="I cannot tell." if said is None else str(said))

    vendors.script(ANY, then=answer)
    plans = fit_plans(rows, MEMBERS, names=PLANS)
    async with AsyncClientContext.get_or_create():
        for name, bare in plans.items():
            plan = bare.with_probability(rows)
            fitted = record | probability_of(plan)
            config = VoteConfig.model_validate(
                {"extract": "number", "quorum": 1, "calibration": fitted} | settings_of(plan)
            )
            records = await asyncio.gather(*(run_vote(prompt, config) for prompt in asked_rows))
            for found, row in zip(records, asked_rows.values(), strict=True):
                outcome = plan.replay(row)
                who = [response.member for one in found.iterations for response in one.responses]
                assert [name.partition("#")[0] for name in who] == [MEMBERS[one] for one in outcome.asked], name
                assert found.answer == (None if outcome.answer is None else str(outcome.answer)), (name, row.pattern)
                assert found.confidence == (outcome.confidence and pytest.approx(outcome.confidence, abs=1e-3)), name
                assert found.confidence_measure == (outcome.confidence and "calibrated"), name


@pytest.mark.skipif(not TARGETS.exists(), reason=f"the recorded answers are not in {TARGETS.parent}")
def test_a_recorded_panel_gets_a_plan_at_a_third_of_the_price_and_a_point_above_the_best_member():
    members = [f"local/{name}" for name in targets()[1]["members"]]
    calibration, test = halves(roster_rows(1))
    choice = choose(calibration, members, Goal("cost"))
    kept = [members[one] for one in choice.kept]

    def left(rows):
        return [LabelledRow(row.id, row.label, tuple(row.answers[one] for one in choice.kept)) for row in rows]

    plan = fit_plans(left(calibration), kept, names=[choice.plan])[choice.plan]
    single = fit_plans(calibration, members, names=["single"])["single"]
    found, alone = score(left(test), map(plan.replay, left(test))), score(test, map(single.replay, test))
    assert (choice.plan, found.right, alone.right, len(test)) == ("stop-2", 640, 630, 660)
    assert found.cost_usd / alone.cost_usd == pytest.approx(0.2999, abs=1e-4)


@pytest.mark.parametrize("goal", [ACCURACY, Goal("cost", margin=0.02), Goal("budget", usd=0.04)])
@pytest.mark.parametrize("count", [40, 150, 600])
def test_whatever_is_chosen_says_how_probable_its_answer_is(goal, count):
    found = calibrate(made_up(count), MEMBERS, goal, **ABOUT)
    config = VoteConfig.model_validate({"extract": "number"} | found.settings)
    assert config.gives_probability()
    assert sum(one.rows for one in found.reliability) >= 0.9 * count
    if config.learned is None:
        assert set(config.calibration.probability.members) == set(config.members)
        assert not config.model_copy(update={"tie_order": config.members[:1], "weights": {}}).gives_probability()


@pytest.mark.parametrize("name", [name for name in PLANS if "learned" not in name])
def test_the_stated_probability_holds_on_other_rows(name):
    rows = made_up(800)
    plan = fit_plans(rows, MEMBERS, names=[name])[name].with_probability(rows)
    outcomes = [one for one in map(plan.replay, made_up(2000, seed=1)) if one.confidence is not None]
    groups = grouped((one.confidence, one.right) for one in outcomes)
    assert len(groups) > 1
    assert calibration_error(groups) < 0.05


def test_nothing_is_certain_however_few_rows_there_are():
    rows = [LabelledRow(str(n), 1, (MemberReading(1), MemberReading(1))) for n in range(10)]
    plan = fit_plans(rows, ["a/a", "a/b"], names=["majority"])["majority"].with_probability(rows)
    assert plan.replay(rows[0]).confidence == pytest.approx(11 / 12, abs=0.01)
