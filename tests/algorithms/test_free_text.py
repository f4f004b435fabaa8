"""A panel's free text is judged beside each member's: by whom, in which order, and by whom where they differ."""

import pytest

from consensus_flows.blocks.check_judges import FreeTextConfig
from consensus_flows.flows.free_text import compare_free_text
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.evaluation.free_text import FreeTextRow
from tests.kits.consortium_kit import asked
from tests.kits.judges_kit import BETTER, by
from tests.vendors import json_reply

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
A, B = "openai/a", "openai/b"
ROWS = [
    FreeTextRow("1", "Why?", "panel good", {A: "member bad, at length", B: "panel good"}),
    FreeTextRow("2", "How?", "panel bad", {A: "member good", B: "member bad"}),
]


def config(*judges, **settings):
    return FreeTextConfig.model_validate({"members": judges} | settings)


@pytest.fixture
def judges(vendors):
    good = by(lambda text: text in BETTER or "good" in text)
    vendors.script("good", then=good)
    vendors.script("lazy", then=json_reply({"analysis": "", "better": "first"}))
    vendors.script("wordy", then=by(len))
    vendors.script("strong", then=good)
    return vendors


async def test_pairs_are_judged_in_both_orders_and_equal_texts_tie_without_a_call(judges):
    made = await compare_free_text(ROWS, config("openai/good"))
    assert judges.count() == made.calls == 2 * (20 + 3), "the adversarial pairs, and three of the four"
    assert {one.member: (one.wins, one.ties, one.losses, one.win_rate) for one in made.members} == {
        A: (1, 0, 1, 0.5),
        B: (0, 2, 0, 0.5),
    }
    assert (made.adversarial, made.refused, made.unread) == (1.0, False, 0)
    (judge,) = made.judges
    assert (judge.judge, judge.n, judge.consistent, judge.flips) == ("openai/good", 3, 2, 1)


async def test_a_strong_judge_decides_only_where_the_others_differ_or_depend_on_the_order(judges):
    made = await compare_free_text(ROWS, config("openai/good", "openai/wordy", strong_judge="openai/strong"))
    assert made.decided_by_strong_judge == 2, "of two of the three pairs: one is a matter of length, one of order"
    assert [one.n for one in made.judges] == [3, 3, 2]
    assert len(asked(judges, "strong")) == 2 * 2 + 2 * 16, "the adversarial pairs on which they differ, too"
    assert {one.member: one.win_rate for one in made.members} == {A: 0.5, B: 0.5}


async def test_judges_that_fall_for_what_only_looks_better_are_refused(judges):
    made = await compare_free_text(ROWS, config("openai/wordy"))
    assert (made.refused, made.adversarial, made.members, judges.count()) == (True, 0.2, [], 40)
    made = await compare_free_text(ROWS, config("openai/wordy"), anyway=True)
    assert (made.refused, len(made.members)) == (False, 2)


async def test_where_the_budget_ends_there_is_no_win_rate(judges):
    made = await compare_free_text(ROWS, config("openai/good", fresh=True, budget={"max_calls": 42}))
    assert (made.budget_ended, made.members, judges.count()) == (True, [], 42)


async def test_a_member_is_no_judge(judges):
    with pytest.raises(ConfigurationError, match="judge: openai/b is a member"):
        await compare_free_text(ROWS, config("openai/good", strong_judge="openai/b"))
    with pytest.raises(ValueError, match="none of the other judges"):
        config("openai/good", strong_judge="openai/good")
    assert judges.count() == 0
