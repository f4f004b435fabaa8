"""Who answers when no judge can: in every algorithm that has one, the model that `stand_in` names."""

import pytest

from consensus_flows.flows.algorithms import algorithm
from tests.kits.consortium_kit import asked, say
from tests.kits.kinds import kinds
from tests.kits.preference_kit import is_judge
from tests.vendors import Reply, faults, json_reply

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
MEMBERS = ["openai/one", "openai/two", "openai/three"]
PANEL = {"members": MEMBERS}
JUDGED = {
    "consortium": PANEL | {"arbiter": "openai/judge"},
    "consensus-learning": PANEL | {"aggregator": "openai/judge", "iterations": 0},
    "mixture-of-agents": {"layers": [MEMBERS], "aggregator": "openai/judge"},
    "vote": PANEL | {"pairwise_judge": "openai/judge"},
    "prefer": PANEL,
}
"""A configuration of every algorithm in which a model judges."""


@pytest.fixture(params=JUDGED)
def run(request, vendors):
    """Run an algorithm whose judges all fail; the answer nearest to the others is that of the first member."""
    for model, text in {"one": "the sky is blue today", "two": "the sky is blue", "three": "I like fish"}.items():
        vendors.script(
            model, then=lambda seen, text=text: json_reply({"can_rank": False}) if is_judge(seen) else Reply(text=text)
        )
    vendors.script("judge", then=faults.unauthorized())

    async def run(**settings):
        one = algorithm(request.param)
        return await one.run()("What?", one.config_class().model_validate(JUDGED[one.name] | settings))

    return run


async def test_another_model_is_asked_the_question(vendors, run):
    say(vendors, best="a good answer")
    record = await run(stand_in="openai/best")
    last = record.iterations[-1]
    assert (record.answer, record.status, record.degraded) == ("a good answer", "finished", True)
    assert (last.synthesis.chosen, last.synthesis.method, last.synthesis.arbiter) == ("openai/best#1", "stand-in", None)
    assert last.judgements[-1].member == "openai/best#1", "its call is in the record, and paid for"
    (seen,) = asked(vendors, "best")
    assert seen.prompt == "What?"
    assert "stand_in" in {kind for kind, *_ in kinds(record)}


async def test_the_answer_of_a_member_is_taken_as_it_is(vendors, run):
    record = await run(stand_in="openai/three")
    assert (record.answer, record.iterations[-1].synthesis.chosen) == ("I like fish", "openai/three#1")
    assert record.degraded
    without = await run()
    assert record.calls == without.calls
    assert without.answer == "the sky is blue today"


async def test_where_the_stand_in_fails_too_it_is_the_answer_nearest_to_the_others(vendors, run):
    vendors.script("best", then=faults.unauthorized())
    record = await run(stand_in="openai/best")
    assert (record.answer, record.iterations[-1].synthesis.chosen) == ("the sky is blue today", "openai/one#1")
    assert ("auth", "openai/best#1") in {kind[:2] for kind in kinds(record)}


@pytest.mark.parametrize("name", JUDGED)
def test_a_stand_in_is_one_model_and_checked_before_the_run(name):
    config = algorithm(name).config_class()
    with pytest.raises(ValueError, match="must not have a count"):
        config.model_validate(JUDGED[name] | {"stand_in": "openai/best:2"})
    made = config.model_validate(JUDGED[name] | {"stand_in": "openai/best"})
    assert str(made.models()[-1]) == "openai/best"
