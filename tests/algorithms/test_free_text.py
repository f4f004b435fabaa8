"""A panel's free text is judged beside each member's: by whom, in which order, and by whom where they differ."""

import json

import pytest

from consensus_flows.blocks.check_judges import FreeTextConfig
from consensus_flows.flows.free_text import compare_free_text, evaluate_text
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.evaluation.free_text import FreeTextRow
from tests.kits.consortium_kit import asked, judged, say
from tests.kits.judges_kit import BETTER, by
from tests.vendors import ANY, faults, json_reply

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
    with pytest.raises(ConfigurationError, match="judge: openai/b is in the panel"):
        await compare_free_text(ROWS, config("openai/good", strong_judge="openai/b"))
    with pytest.raises(ValueError, match="none of the other judges"):
        config("openai/good", strong_judge="openai/good")
    assert judges.count() == 0


PANEL = {"members": [A, B], "arbiter": "openai/arbiter", "max_iterations": 2, "system": "Be brief."}


async def test_a_panel_is_asked_and_judged_beside_what_its_members_said_at_first(judges, tmp_path):
    (tmp_path / "prompts.csv").write_text("id,prompt\nx,Why?\ny,How?\n", encoding="utf-8")
    say(judges, a="bad at first", b="bad, too")
    judges.script("arbiter", then=judged(10, "a good synthesis"))
    made = await evaluate_text(
        str(tmp_path / "prompts.csv"), config("openai/good"), flow="consortium", config=PANEL, probe=False
    )
    assert (made.rows, made.left_out) == (2, 0)
    assert {one.member: (one.wins, one.n) for one in made.members} == {A: (2, 2), B: (2, 2)}
    shown = asked(judges, "good")[-1].prompt
    assert "Be brief." in shown, "the judge knows the instructions of the members"
    assert made.flow_run_id


@pytest.mark.parametrize(("judge", "why"), [("anthropic/claude", "no key for anthropic"), ("openai/goood", "goood")])
async def test_a_judge_that_cannot_answer_is_found_before_the_panel_is_asked(judges, tmp_path, monkeypatch, judge, why):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    (tmp_path / "prompts.csv").write_text("id,prompt\nx,Why?\n", encoding="utf-8")
    monkeypatch.setattr(judges, "models", ["a", "b", "arbiter"])
    judges.script(ANY, then=faults.not_found())
    with pytest.raises(ConfigurationError, match=why):
        await evaluate_text(str(tmp_path / "prompts.csv"), config(judge), flow="consortium", config=PANEL)
    assert not asked(judges, "a")


async def test_the_output_of_a_batch_is_judged_and_the_panel_is_not_asked(judges, tmp_path):
    rows = [
        {"id": row.id, "question": row.question, "answer": row.panel}
        | {"answers": {member: {"text": text} for member, text in row.members.items()}}
        for row in ROWS
    ]
    rows.append({"id": "3", "question": "Who?", "answer": None, "answers": {A: {"text": None}, B: {"text": "I"}}})
    file = tmp_path / "out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made = await evaluate_text(str(file), config("openai/good"))
    assert (made.rows, made.left_out, judges.count("a"), judges.count("b")) == (2, 1, 0, 0)
    assert {one.member: one.win_rate for one in made.members} == {A: 0.5, B: 0.5}
    with pytest.raises(ConfigurationError, match="prompt_column: row 1 has no 'text'"):
        await evaluate_text(str(file), config("openai/good"), prompt_column="text")


async def test_a_judge_that_belongs_to_the_panel_is_refused_before_the_panel_is_asked(judges, tmp_path):
    (tmp_path / "prompts.csv").write_text("prompt\nWhy?\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="openai/arbiter is in the panel"):
        await evaluate_text(str(tmp_path / "prompts.csv"), config("openai/arbiter"), flow="consortium", config=PANEL)
    assert judges.count() == 0
