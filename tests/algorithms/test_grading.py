"""How much panel a question gets: what is easy is answered by one model alone, and the record says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow_async
from prefect.utilities.callables import parameter_schema

from consensus_flows.blocks.consortium import ConsortiumConfig
from consensus_flows.blocks.grading import Grading
from consensus_flows.blocks.settings import Budget
from consensus_flows.blocks.vote import Vote, VoteConfig
from consensus_flows.flows.algorithms import algorithm
from consensus_flows.flows.consortium import consortium
from consensus_flows.flows.saved_algorithm import with_panels
from consensus_flows.flows.vote import vote
from consensus_flows.tasks.errors import ConfigurationError, QuorumError
from consensus_flows.tasks.history.writing import close_writers
from consensus_flows.tasks.record import NoAnswerError
from tests.kits.batch_kit import read
from tests.kits.command_kit import commands
from tests.kits.consortium_kit import asked, config, judged, say
from tests.vendors import LoopbackVendors, Reply, SeenRequest, Usage, faults

MEMBERS = ["openai/one", "openai/two", "openai/three"]
GRADING = {"model": "openai/grader", "easy": "openai/small"}


def grades(seen: SeenRequest) -> Reply:
    """A grader that goes by the words of the question."""
    level = "easy" if "capital" in seen.prompt else "medium" if "stages" in seen.prompt else "hard"
    return Reply(text=json.dumps({"reason": f"it is {level}", "level": level}))


@pytest.fixture
def panel(results: str, vendors: LoopbackVendors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{tmp_path / 'history.db'}")
    say(vendors, one="42", two="42", three="41", small="It is 7.", middle="It is 8.")
    vendors.script("arbiter", then=judged(90, "the synthesis"))
    vendors.script("grader", then=grades)
    yield vendors
    close_writers()


async def test_an_easy_question_is_answered_by_one_model(panel: LoopbackVendors) -> None:
    record = await consortium("The capital of France?", config(grading=GRADING))
    assert record.answer == "It is 7."
    assert record.grade is not None
    assert (record.grade.level, record.grade.reason, record.grade.model) == ("easy", "it is easy", "openai/grader")
    assert (record.grade.answered_by, record.grade.flow, record.flow) == ("openai/small", "consortium", "pump")
    assert (panel.count("one"), panel.count("arbiter"), panel.count("grader")) == (0, 0, 1)
    assert record.calls == 2  # the grade is one of them


async def test_a_hard_question_gets_the_whole_panel(panel: LoopbackVendors) -> None:
    record = await consortium("Prove it.", config(grading=GRADING))
    assert record.answer == "the synthesis"
    assert record.grade is not None
    assert (record.grade.level, record.grade.answered_by) == ("hard", None)
    assert record.calls == 5
    assert panel.count("small") == 0


async def test_a_medium_question_has_a_model_of_its_own_or_the_panel(panel: LoopbackVendors) -> None:
    record = await consortium("It takes four stages.", config(grading=GRADING))
    assert record.answer == "the synthesis"
    both = GRADING | {"medium": "openai/middle"}
    record = await consortium("It takes four stages.", config(grading=both))
    assert record.answer == "It is 8."


async def test_the_answer_of_a_vote_is_read_as_the_panels(panel: LoopbackVendors) -> None:
    settings = VoteConfig(members=MEMBERS, extract="number", grading=Grading.model_validate(GRADING))
    record = await vote("How many, in the capital?", settings)
    assert (record.answer, record.flow, [one.member for one in record.votes]) == ("7", "vote", ["openai/small#1"])


@pytest.mark.parametrize("failure", ["refused", "unreadable"])
async def test_a_grade_that_fails_takes_the_whole_panel(failure: str, panel: LoopbackVendors) -> None:
    panel.script("grader", then=faults.unauthorized() if failure == "refused" else Reply(text='{"level": "trivial"}'))
    record = await consortium("The capital of France?", config(grading=GRADING))
    assert record.answer == "the synthesis"
    assert record.grade is not None
    assert record.grade.level is None
    assert "not_graded" in {one.kind for one in record.warnings}
    assert len(record.grade.calls) == (1 if failure == "refused" else 2)


async def test_the_grade_is_cached_and_inside_the_budget(panel: LoopbackVendors) -> None:
    await consortium("The capital of France?", config(grading=GRADING))
    record = await consortium("The capital of France?", config(grading=GRADING))
    assert (record.cached_calls, panel.count("grader")) == (2, 1)
    with pytest.raises((NoAnswerError, QuorumError)):
        await consortium("Another capital?", config(grading=GRADING, budget=Budget(max_calls=1)))
    assert (panel.count("grader"), panel.count("small")) == (2, 1)


async def test_every_model_is_checked_before_the_grade(panel: LoopbackVendors) -> None:
    with pytest.raises(ConfigurationError, match="unknown provider 'nobody'"):
        await consortium("Why?", config(grading=GRADING | {"easy": "nobody/small"}))
    assert panel.count() == 0


@pytest.mark.parametrize(
    ("grading", "cause"),
    [
        ({"easy": "openai/a"}, "--grade"),
        ({"model": "openai/a"}, "--easy"),
        ({"model": "openai/a:2", "easy": "openai/b"}, "must not have a count"),
        ({"model": "panel/a", "easy": "openai/b"}, "a single model grades"),
    ],
)
def test_what_is_missing(grading: dict[str, str], cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        ConsortiumConfig.model_validate({"members": MEMBERS, "arbiter": "openai/arbiter", "grading": grading})


def test_the_plan_is_that_of_an_easy_question_at_least_and_of_all_at_most() -> None:
    plans = algorithm("vote").plan(VoteConfig(members=MEMBERS, grading=Grading.model_validate(GRADING)))
    assert {(str(one.model), one.task): (one.least, one.most) for one in plans} == {
        ("openai/grader", "grader"): (1, 1),
        ("openai/small", "member"): (1, 1),
        **{(name, "member"): (0, 1) for name in MEMBERS},
    }


def test_a_batch_whose_easy_rows_cost_a_tenth(
    panel: LoopbackVendors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for model in ("one", "two", "three", "small", "grader"):
        reply = grades if model == "grader" else None
        answered = Usage(input=100, output=100)

        def step(seen: SeenRequest, reply=reply, answered=answered) -> Reply:
            text = reply(seen).text if reply else "It is 42."
            return Reply(text=text, usage=answered)

        panel.script(model, then=step)
    rows = tmp_path / "rows.csv"
    rows.write_text("id,prompt\neasy,The capital of France?\nhard,Prove it.\n")
    prices = [f"{name}=10/10" for name in MEMBERS] + ["openai/small=1/1", "openai/grader=1/1"]
    ran = commands(monkeypatch, capsys)(
        *("batch", rows, "--flow", "vote", "--extract", "number", "--grade", "openai/grader", "--easy", "openai/small"),
        *(word for name in MEMBERS for word in ("-m", name)),
        *(word for price in prices for word in ("--price", price)),
        *("-o", tmp_path / "out.jsonl"),
    )
    assert ran.code == 0, ran.err
    easy, hard = read(tmp_path / "out.jsonl")
    assert (easy["grade"], easy["answered_by"], easy["grade_reason"]) == ("easy", "openai/small", "it is easy")
    assert (hard["grade"], hard["answered_by"]) == ("hard", None)
    assert easy["grade_cost_usd"] == pytest.approx(0.0002)
    assert (easy["cost_usd"], hard["cost_usd"]) == (pytest.approx(0.0004), pytest.approx(0.0062))
    assert easy["cost_usd"] < hard["cost_usd"] / 10
    assert [seen.model for seen in asked(panel, "grader")] == ["grader", "grader"]


@pytest.mark.parametrize("command", [["-m", "openai/one", "--arbiter", "openai/arbiter"], ["pump", "-m", "openai/one"]])
def test_the_command_line_says_who_answered(
    command: list[str], panel: LoopbackVendors, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--grade", "openai/grader", "--easy", "openai/small", "--no-stdin"]
    ran = commands(monkeypatch, capsys)(*command, "-p", "The capital of France?", *options)
    assert ran.code == 0
    assert "graded easy by openai/grader: openai/small answered alone (it is easy)" in ran.err
    assert ran.out.count("It is 7.") == 1
    assert "level" not in ran.out


async def test_a_saved_panel_answers_what_is_easy(panel: LoopbackVendors) -> None:
    await Vote(config=VoteConfig(members=["openai/small"], extract="number")).save("cheap", overwrite=True)
    try:
        record = await consortium("The capital of France?", config(grading=GRADING | {"easy": "panel/cheap"}))
        plans = algorithm("consortium").plan(await with_panels(config(grading=GRADING | {"easy": "panel/cheap"})))
    finally:
        await Vote.adelete("cheap")
    assert (record.answer, record.calls) == ("7", 2)
    assert record.grade is not None
    assert record.grade.answered_by == "panel/cheap"
    assert ("openai/small", 1, 1) in {(str(one.model), one.least, one.most) for one in plans}


async def test_a_run_of_a_deployment_grades(panel: LoopbackVendors) -> None:
    """As the form sends it: the server checks the parameters against the schema of the flow first."""
    given = config(grading=GRADING | {"medium": "openai/middle"}).model_dump(mode="json", exclude_defaults=True)
    async with get_client() as client:
        deployment = await client.create_deployment(
            flow_id=await client.create_flow(consortium),
            name="graded",
            parameter_openapi_schema=parameter_schema(consortium).model_dump_for_openapi(),
            enforce_parameter_schema=True,
        )
        for prompt, level, answer in (
            ("The capital of France?", "easy", "It is 7."),
            ("It takes four stages.", "medium", "It is 8."),
            ("Prove it.", "hard", "the synthesis"),
        ):
            made = await client.create_flow_run_from_deployment(
                deployment, parameters={"prompt": prompt, "config": given}
            )
            state = await run_flow_async(consortium, flow_run=made, parameters=made.parameters, return_type="state")
            record = await state.result()
            assert (record.grade.level, record.answer) == (level, answer)
        await client.delete_deployment(deployment)
