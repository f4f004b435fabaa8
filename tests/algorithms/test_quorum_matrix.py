"""Every subset of failing members: an answer exactly where the survivors reach the quorum, and every cause is named.

The calls are handed in, so that all 642 cases of up to six members and every quorum take seconds, for each flow and each of
its rounds or layers; the same with the vendors' SDKs over sockets is in tests/chaos.
"""

import json
from collections import Counter
from itertools import combinations

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
from consensus_flows.tasks.calls.providers import models_checked
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.record import CallError, Response
from tests.kits.consortium_kit import judged
from tests.kits.kinds import kinds

pytestmark = pytest.mark.usefixtures("results", "vendors")
MOST = 6


def subsets(count: int) -> list[frozenset[int]]:
    """All subsets of `count` members."""
    return [frozenset(chosen) for size in range(count + 1) for chosen in combinations(range(count), size)]


def calls(failing: frozenset[int], asked: Counter[str] | None = None, *, turns: int = 1):
    """Let some members fail, each with a cause of its own; the arbiter always answers, and so do those who judge.

    Args:
        failing: Their numbers.
        asked: Counts who is asked how often.
        turns: From so many messages on they fail: the first round has one, the second more.
    """

    async def call(request: Request, *, instance: int = 1, member: str | None = None) -> Response:
        name = member or f"{request.name}#{instance}"
        made = Response(member=name, provider=request.provider, model=request.model, instance=instance, attempts=1)
        if asked is not None:
            asked[request.model] += 1
        if request.model == "arbiter":
            return made.model_copy(update={"text": judged(90).text if request.response_schema else "the mixture"})
        if request.reader.startswith("preference"):
            labels = request.response_schema["properties"]["ranks"]["required"]
            text = json.dumps(
                {"can_rank": True, "ranks": {label: rank for rank, label in enumerate(sorted(labels), 1)}}
            )
            return made.model_copy(update={"text": text})
        number = int(request.model.removeprefix("m"))
        if number in failing and len(request.messages) >= turns:
            error = CallError(kind="server", message=f"{request.name}: server: cause {number}")
            return made.model_copy(update={"error": error})
        return made.model_copy(update={"text": "The answer is 18."})

    return call


def check(record, failing, count, quorum):
    """Check what came of one case; who fails is a member of the first layer, or of the only one."""
    answers = count - len(failing) >= quorum
    case = (sorted(failing), count, quorum)
    assert (record.answer is not None) == answers, case
    assert (record.status == "failed") == (not answers), case
    assert (record.error is None) == answers, case
    assert record.degraded == bool(failing) or not answers, case
    for number in range(count):
        assert (("server", f"openai/m{number}#1", 1) in kinds(record)) == (number in failing), case
        if not answers:
            assert (f"cause {number}" in (record.error or "")) == (number in failing), case
    if not answers:
        assert f"{count - len(failing)} of {count} members answered, and the quorum is {quorum}" in record.error, case


@pytest.fixture(autouse=True)
def checked():
    """Go by what is known of the provider, as a batch does: it is not what is tested here."""
    with models_checked():
        yield


@pytest.mark.parametrize("count", range(1, MOST + 1))
async def test_the_consortium(count):
    members = [f"openai/m{number}" for number in range(count)]
    for quorum in range(1, count + 1):
        config = ConsortiumConfig(members=members, arbiter="openai/arbiter", quorum=quorum)
        for failing in subsets(count):
            record = await run_consortium("What?", config, calls(failing))
            check(record, failing, count, quorum)
            if record.answer is not None:
                assert (record.status, record.answer) == ("confident", "the synthesis")
                assert len(record.iterations[0].synthesis.labels) == count - len(failing)


@pytest.mark.parametrize("count", range(1, MOST + 1))
async def test_the_vote(count):
    members = [f"openai/m{number}" for number in range(count)]
    for quorum in range(1, count + 1):
        config = VoteConfig(members=members, extract="number", quorum=quorum)
        for failing in subsets(count):
            record = await run_vote("What?", config, calls(failing))
            check(record, failing, count, quorum)
            if record.answer is not None:
                assert (record.answer, sum(option.votes for option in record.tally)) == ("18", count - len(failing))


async def test_the_usual_quorum_is_more_than_half():
    for count in range(1, MOST + 1):
        config = ConsortiumConfig(members=[f"openai/m{n}" for n in range(count)], arbiter="openai/arbiter")
        answered = [(await run_consortium("What?", config, calls(one))).answer is not None for one in subsets(count)]
        assert answered == [2 * (count - len(failing)) > count for failing in subsets(count)]


@pytest.mark.parametrize("count", range(1, MOST + 1))
async def test_the_pump(count):
    members = [f"openai/m{number}" for number in range(count)]
    for quorum in range(1, count + 1):
        config = PumpConfig(members=members, quorum=quorum)
        for failing in subsets(count):
            record = await run_pump("What?", config, calls(failing))
            check(record, failing, count, quorum)
            if record.answer is not None:
                assert (record.status, record.answer.count("18")) == ("finished", count - len(failing))


@pytest.mark.parametrize("count", range(3, MOST + 1))
async def test_prefer(count):
    """It takes three who answer and judge; where two are left, there is nothing to rank, and that is said."""
    members = [f"openai/m{number}" for number in range(count)]
    for quorum in range(1, count + 1):
        config = PreferConfig(members=members, quorum=quorum)
        for failing in subsets(count):
            record = await run_prefer("What?", config, calls(failing))
            check(record, failing, count, quorum)
            judges = {ranking.judge for ranking in record.rankings if ranking.ranking}
            alive = {f"openai/m{number}#1" for number in range(count) if number not in failing}
            assert judges <= alive, "who has not answered does not judge"
            if record.answer is not None:
                assert record.answer == "The answer is 18."
                assert bool(judges) == (len(alive) >= 3), (sorted(failing), quorum)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("count", range(1, MOST + 1))
async def test_consensus_learning(count, late):
    """Those who fail, fail in each round, or only when they are to improve: then the answer of the first round stands."""
    members = [f"openai/m{number}" for number in range(count)]
    for quorum in range(1, count + 1):
        config = ConsensusLearningConfig(
            members=members, approach="medoid", iterations=1, stop_when_stable=False, quorum=quorum
        )
        for failing in subsets(count):
            asked = Counter()
            record = await run_consensus_learning("What?", config, calls(failing, asked, turns=2 if late else 1))
            case, enough = (sorted(failing), quorum), count - len(failing) >= quorum
            if not late:
                check(record, failing, count, quorum)
                assert asked.total() == (2 if enough else 1) * count, case
                continue
            assert asked.total() == 2 * count, case
            assert record.answer == "The answer is 18." and record.status != "failed", case
            assert (("unfinished", None, 2) in kinds(record)) == (not enough), case
            for number in failing:
                assert ("server", f"openai/m{number}#1", 2) in kinds(record), case


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("count", range(1, MOST + 1))
async def test_each_layer_of_a_mixture_of_agents(count, layer):
    layers = [[f"openai/m{number + 10 * of}" for number in range(1, count + 1)] for of in (1, 2)]
    ours = 1 + 10 * layer
    for quorum in range(1, count + 1):
        config = MixtureOfAgentsConfig.model_validate(
            {"layers": layers, "aggregator": "openai/arbiter", "quorum": quorum}
        )
        for failing in subsets(count):
            asked = Counter()
            record = await run_mixture_of_agents("What?", config, calls(frozenset(n + ours for n in failing), asked))
            case, enough = (sorted(failing), quorum), count - len(failing) >= quorum
            assert (record.answer, record.error is None) == (("the mixture", True) if enough else (None, False)), case
            assert (record.status == "failed") == (not enough), case
            assert asked.total() == (2 * count + 1 if enough else layer * count), f"{case}: nobody is asked in vain"
            if not enough:
                said = f"layer {layer}: {count - len(failing)} of {count} members answered, and the quorum is {quorum}"
                assert said in record.error, case
            for number in range(count):
                named = ("server", f"openai/m{number + ours}#1", layer)
                assert (named in kinds(record)) == (number in failing), case
                assert enough or (f"cause {number + ours}" in record.error) == (number in failing), case
            assert not enough or record.degraded == bool(failing), case
