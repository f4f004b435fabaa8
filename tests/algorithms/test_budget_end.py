"""A call that the budget refuses ends every flow by one rule: with the best so far, and the status `budget`.

The budget is in US dollars, and covers everybody but the member whose price is too high.
"""

import pytest

from consensus_flows.blocks.consensus_learning import ConsensusLearningConfig
from consensus_flows.blocks.consortium import ConsortiumConfig
from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from consensus_flows.blocks.prefer import PreferConfig
from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.consensus_learning import run_consensus_learning
from consensus_flows.flows.consortium import run_consortium
from consensus_flows.flows.mixture_of_agents import run_mixture_of_agents
from consensus_flows.flows.prefer import run_prefer
from consensus_flows.flows.pump import run_pump
from consensus_flows.flows.vote import run_vote
from consensus_flows.tasks.record import CallError, Iteration, Record, Response
from tests.kits.consortium_kit import judged, say
from tests.kits.kinds import kinds
from tests.vendors import Reply, json_reply

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
PRICED, JUDGE = "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"
MEMBERS = [f"{PRICED}:2", "openai/too-dear"]
PRICES = ["openai/too-dear=1e6/1e6"]
GIVEN = {"members": MEMBERS, "budget": {"max_cost_usd": 1}, "prices": PRICES}


@pytest.fixture
def answering(vendors):
    say(vendors, **{"gpt-4o-mini": "It is 42"})
    vendors.script("claude-haiku-4-5", then=judged(30))
    return vendors


def told(record):
    assert record.answer is not None
    assert record.degraded
    assert any((kind, member) == ("budget", "openai/too-dear#1") for kind, member, _ in kinds(record))
    return record.status, len(record.iterations)


async def test_the_consortium_stops_after_the_round(answering):
    found = ConsortiumConfig.model_validate(GIVEN | {"arbiter": JUDGE, "max_iterations": 3})
    assert told(await run_consortium("What?", found)) == ("budget", 1)
    assert answering.count() == 3


async def test_an_arbiter_that_is_confident_is_confident(answering):
    answering.script("claude-haiku-4-5", then=judged(95))
    found = ConsortiumConfig.model_validate(GIVEN | {"arbiter": JUDGE})
    assert told(await run_consortium("What?", found)) == ("confident", 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"aggregator": JUDGE},
        {"approach": "majority", "extract": "number"},
        {"approach": "medoid"},
        {"approach": "decentralized", "extract": "number"},
        {"approach": "majority", "extract": "number", "stop_when_stable": True},
    ],
)
async def test_learning_stops_after_the_round(answering, settings):
    found = ConsensusLearningConfig.model_validate(GIVEN | {"iterations": 2} | settings)
    assert told(await run_consensus_learning("What?", found)) == ("budget", 1)
    assert answering.count("gpt-4o-mini") == 2


async def test_the_mixture_is_aggregated_all_the_same(answering):
    layers = [{"members": MEMBERS}, {"members": [f"{PRICED}:2"]}]
    given = {"budget": GIVEN["budget"], "prices": PRICES}
    found = MixtureOfAgentsConfig.model_validate({"layers": layers, "aggregator": JUDGE} | given)
    assert told(await run_mixture_of_agents("What?", found)) == ("budget", 3)
    assert answering.count("claude-haiku-4-5") == 1


@pytest.mark.parametrize("settings", [{}, {"stop_when": 2}, {"stop_when": 2, "waves": 3}])
async def test_a_vote_that_was_not_heard_by_all(answering, settings):
    members = ["openai/too-dear", f"{PRICED}:2"] if "waves" in settings else MEMBERS
    found = VoteConfig.model_validate(GIVEN | {"members": members, "extract": "number"} | settings)
    record = await run_vote("What?", found)
    if settings == {"stop_when": 2}:  # nobody was refused: enough had voted before
        assert (record.status, record.degraded) == ("agreed", False)
    else:
        assert told(record) == ("budget", 1)


async def test_a_fuser_that_is_refused(answering):
    answering.script("claude-haiku-4-5", then=json_reply({"better": "first"}))
    settings = {"members": [f"{PRICED}:2"], "pairwise_judge": JUDGE, "fuse": "openai/too-dear"}
    record = await run_vote("What?", VoteConfig.model_validate(GIVEN | settings))
    assert (record.status, record.answer, record.degraded) == ("budget", "It is 42", True)


async def test_pump_and_prefer(answering):
    assert told(await run_pump("What?", PumpConfig.model_validate(GIVEN))) == ("budget", 1)
    ranks = json_reply({"analysis": "", "can_rank": True, "ranks": {"A": 1, "B": 2}})
    answering.script("gpt-4o-mini", *[Reply(text="It is 42")] * 3, then=ranks)
    found = PreferConfig.model_validate(GIVEN | {"members": [f"{PRICED}:3", "openai/too-dear"], "rounds": 2})
    assert told(await run_prefer("Which?", found)) == ("budget", 1)


@pytest.mark.parametrize(
    ("status", "after"),
    [
        ("finished", "budget"),
        ("agreed", "budget"),
        ("max_iterations", "budget"),
        ("budget", "budget"),
        ("confident", "confident"),
        ("failed", "failed"),
    ],
)
@pytest.mark.parametrize("calls", ["responses", "judgements", "embeddings"])
def test_the_rule(status, after, calls):
    refused = Response(
        member="m", provider="p", model="m", error=CallError(kind="budget", message="p/m: budget: it is used up")
    )
    other = refused.model_copy(update={"error": CallError(kind="server", message="p/m: server: down")})
    for call, wanted in ((refused, after), (other, status)):
        record = Record(flow="x", prompt="x", status=status, iterations=[Iteration(number=1), Iteration(number=2)])
        setattr(record.iterations[0], calls, [call])
        record.end_by_budget()
        assert record.status == wanted
