"""The capability check: every candidate gets what the flow would send it, and a failure is no answer."""

import json

import pytest
from prefect.client.orchestration import get_client
from pydantic import ValidationError

from consensus_flows.blocks.check_models import CheckCase, CheckModelsConfig
from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from consensus_flows.flows.check_models import check_models, run_check_models
from consensus_flows.flows.mixture_of_agents import run_mixture_of_agents
from consensus_flows.tasks.check_cases import as_expected, read_cases, shipped_cases
from consensus_flows.tasks.errors import ConfigurationError, QuorumError
from consensus_flows.tasks.reports.recorded import Recorded, numbered
from tests.kits.command_kit import commands
from tests.kits.consortium_kit import asked, say
from tests.kits.mixture_kit import answers_of
from tests.vendors import Reply, faults

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]

WRONG = {"prompt": "Which gas do plants take in?", "answers": ["Oxygen.", "Helium."], "expected": "carbon dioxide"}


@pytest.fixture
def consensus(vendors, monkeypatch, capsys):
    return commands(monkeypatch, capsys)


def config(**settings):
    return CheckModelsConfig.model_validate({"members": ["openai/a", "openai/b"]} | settings)


async def test_a_proposer_is_asked_as_the_first_layer_would_be(vendors):
    settings = {"system": "Be brief.", "sampling": {"temperature": 0.3, "max_output_tokens": 50}}
    report = await run_check_models(config(cases=[{"prompt": "Why?"}, {"prompt": "How?"}], **settings))
    assert vendors.count() == 4
    assert set(report.answers()) == {"Why?", "How?"}
    mixture = {"layers": ["openai/a"], "aggregator": "openai/e", "fresh": True} | settings
    await run_mixture_of_agents("Why?", MixtureOfAgentsConfig.model_validate(mixture))
    tried = [seen.params for seen in asked(vendors, "a")]
    assert tried[-1] in tried[:2], "the check measures what the flow sends"


async def test_an_aggregator_is_shown_the_prepared_answers_as_the_flow_would_show_them(vendors):
    say(vendors, a="It is carbon dioxide.", b="It is oxygen.")
    report = await run_check_models(config(role="aggregator", cases=[WRONG], sampling={"temperature": 0}))
    (a,), (b,) = asked(vendors, "a"), asked(vendors, "b")
    assert set(answers_of(a)) == {"Oxygen.", "Helium."}
    assert (a.prompt, a.system) == (b.prompt, b.system), "all candidates see the same"
    recorded = Recorded(answers=numbered(WRONG["answers"]))
    made = MixtureOfAgentsConfig.model_validate({"aggregator": "openai/e", "sampling": {"temperature": 0}})
    await run_mixture_of_agents(WRONG["prompt"], made, reference=recorded)
    (flow,) = asked(vendors, "e")
    assert flow.system == a.system
    assert flow.prompt.startswith(WRONG["prompt"])
    assert report.answers() == {WRONG["prompt"]: {"openai/a": "It is carbon dioxide.", "openai/b": "It is oxygen."}}


async def test_failures_are_told_apart_from_answers(vendors):
    vendors.script("a", then=faults.refusal("I will not."))
    vendors.script("b", then=Reply(text=lambda seen: seen.prompt))
    report = await run_check_models(config(role="aggregator", cases=[WRONG]))
    found = report.answers()[WRONG["prompt"]]
    assert found["openai/a"]["error"]["kind"] == "content_filter"
    assert found["openai/b"]["error"]["kind"] == "malformed", "who repeats the quotations has not aggregated"


async def test_one_flow_run_with_a_progress_artifact_and_a_table(vendors):
    cases = [{"prompt": f"Question {number}?", "expected": "yes"} for number in range(3)]
    say(vendors, a="yes")
    report = await check_models(config(cases=cases))
    assert report.flow_run_id
    async with get_client() as client:
        body = {"artifacts": {"flow_run_id": {"any_": [report.flow_run_id]}}}
        artifacts = (await client.request("POST", "/artifacts/filter", json=body)).json()
    found = {one["key"]: one["data"] for one in artifacts}
    assert float(found["batch-progress"]) == 100
    table = json.loads(found["check-models"])
    assert [row["as expected"] for row in table] == ["yes", "no"] * 3
    state = await check_models(config(cases=cases), return_state=True)
    assert state.message == "6 of 6 calls answered; 3 of 6 as expected"
    again = await state.result()
    assert (vendors.count(), again.answers()) == (6, report.answers()), "the second run is taken from the cache"


async def test_instances_are_named_apart_and_the_budget_holds(vendors):
    made = config(members=["openai/a:2", "openai/b"], cases=[{"prompt": "Why?"}, {"prompt": "How?"}])
    report = await run_check_models(made)
    assert report.labels() == ["openai/a#1", "openai/a#2", "openai/b"]
    vendors.reset()
    report = await run_check_models(
        made.model_copy(update={"fresh": True, "budget": made.budget.model_copy(update={"max_calls": 4})})
    )
    assert vendors.count() == 4
    kinds = [r.error.kind for responses in report.responses for r in responses if r.error]
    assert kinds == ["budget", "budget"]


async def test_when_no_candidate_answers_the_run_fails_with_every_cause(vendors):
    for model in "ab":
        vendors.script(model, then=faults.unauthorized())
    with pytest.raises(QuorumError, match=r"no candidate has answered\. openai/a: auth.*openai/b: auth") as raised:
        await check_models(config(cases=[{"prompt": "Why?"}]))
    state = await check_models(config(cases=[{"prompt": "Why?"}]), return_state=True)
    assert state.is_failed() and state.message.startswith("no candidate has answered. ")
    assert "error" in raised.value.report.answers()["Why?"]["openai/a"]


def test_the_lists_that_come_along():
    assert len(shipped_cases("proposer")) >= 5
    sets = shipped_cases("aggregator")
    assert all(case.answers for case in sets)
    wrong = [case for case in sets if case.expected and not any(as_expected(text, case) for text in case.answers)]
    assert len(wrong) == 1, "one set is all wrong"
    for role in ("proposer", "aggregator"):
        CheckModelsConfig(members=["openai/a"], role=role, cases=list(shipped_cases(role)))


@pytest.mark.parametrize(
    ("text", "prompts", "answers"),
    [
        ("Why?\n\nHow?\n", ["Why?", "How?"], ()),
        ('["Why?", {"prompt": "How?"}]', ["Why?", "How?"], ()),
        ('{"Why?": ["x", "y"]}', ["Why?"], ("x", "y")),
        ('[{"prompt": "Why?", "answers": ["x"], "expected": "z"}]', ["Why?"], ("x",)),
    ],
)
def test_files_of_prompts(text, prompts, answers):
    cases = read_cases(text)
    assert [case.prompt for case in cases] == prompts
    assert cases[0].answers == answers


@pytest.mark.parametrize(
    "text", ["[1]", "[", '[{"answers": []}]', '{"Why?": "x"}', '[""]', '[{"prompt": "a", "x": 1}]']
)
def test_a_wrong_file_of_prompts_is_named(text):
    with pytest.raises(ConfigurationError, match="prompts: "):
        read_cases(text)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"cases": [{"prompt": "Why?"}, {"prompt": "Why?"}]}, "is a duplicate"),
        ({"cases": [{"prompt": "Why?"}], "role": "aggregator"}, "number 1 has no answers"),
        ({"cases": [{"prompt": "  "}]}, "pattern"),
        ({"members": []}, "members"),
    ],
)
def test_a_wrong_configuration_says_what_is_wrong(values, told):
    with pytest.raises(ValidationError, match=told):
        config(**values)


def test_expected_words_are_whole_words():
    def found(text, **case):
        return as_expected(text, CheckCase(prompt="Why?", **case))

    assert found("It is **145** minutes.", expected="145") is True
    assert found("It is 1450.", expected="145") is False
    assert found("I know nothing.", expected="no") is False
    assert found("anything") is None
    said = "Yes, a bloop can: all bloops are razzies, and no razzie is a lazzie."
    assert found(said, expected="no", extract="label:yes,no") is False
    assert found("**No**, because no razzie is one.", expected="no", extract="label:yes,no") is True
    assert found("3 euros for 12 pencils, so it is 8.", expected="12", extract="number") is False
    assert found('{"answer": "$8.00"}', expected="8", extract="json:answer") is True
    with pytest.raises(ValidationError, match="a check asks no other model"):
        CheckCase(prompt="Why?", expected="no", extract="llm")


def test_the_commands_write_answers_by_prompt_and_model(consensus, vendors, tmp_path):
    vendors.script("a", then=Reply(text="carbon dioxide"))
    vendors.script("b", then=faults.unauthorized())
    prompts, output = tmp_path / "prompts.json", tmp_path / "found.json"
    prompts.write_text(json.dumps([WRONG]))
    given = ("moa", "check-aggregator", "-m", "openai/a", "-m", "openai/b", "--prompts", prompts, "--output", output)
    ran = consensus(*given)
    assert ran.code == 0
    assert "failed: openai/b: auth" in " ".join(ran.out.split())
    found = json.loads(output.read_text())
    assert found[WRONG["prompt"]]["openai/a"] == "carbon dioxide"
    assert found[WRONG["prompt"]]["openai/b"]["error"]["kind"] == "auth"
    ran = consensus(*given, "--json")
    assert json.loads(ran.out) == found
    assert "carbon dioxide" in ran.err
    lines = tmp_path / "prompts.txt"
    lines.write_text("Why?\nHow?\n")
    ran = consensus("moa", "check-proposer", "-m", "openai/a", "--prompts", lines, "--json")
    assert json.loads(ran.out) == {"Why?": {"openai/a": "carbon dioxide"}, "How?": {"openai/a": "carbon dioxide"}}
    ran = consensus("moa", "check-proposer", "-m", "openai/a", "--json")
    assert set(json.loads(ran.out)) == {case.prompt for case in shipped_cases("proposer")}
    ran = consensus("moa", "check-proposer", "-m", "openai/b", "--prompts", lines, "--raw")
    assert ran.code == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "-m provider/model"),
        (["-m", "justaname"], "provider/model"),
        (["-m", "openai/a", "--prompts", "/nowhere.json"], "--prompts"),
        (["-m", "openai/a", "--output", "/nowhere/at/all.json"], "--output"),
    ],
)
def test_bad_input_is_exit_2_and_calls_nobody(consensus, vendors, arguments, named):
    for role in ("check-proposer", "check-aggregator"):
        ran = consensus("moa", role, *arguments)
        assert (ran.code, ran.out, named in ran.err, vendors.count()) == (2, "", True, 0)
