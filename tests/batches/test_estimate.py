"""The estimate of a batch: as many calls as a real run makes, and the price of the tokens that are expected."""

import json
from collections import Counter
from functools import partial
from typing import Any

import genai_prices
import pytest

from consensus_flows.blocks.consensus_learning import ConsensusLearningConfig
from consensus_flows.blocks.consortium import ConsortiumConfig
from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from consensus_flows.blocks.panel import PanelConfig, RunConfig
from consensus_flows.blocks.prefer import PreferConfig
from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.blocks.swarm import SwarmConfig
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.algorithms import algorithm_of
from consensus_flows.flows.consensus_learning import run_consensus_learning
from consensus_flows.flows.consortium import run_consortium
from consensus_flows.flows.mixture_of_agents import run_mixture_of_agents
from consensus_flows.flows.prefer import run_prefer
from consensus_flows.flows.pump import run_pump
from consensus_flows.flows.swarm import run_swarm
from consensus_flows.flows.vote import run_vote
from consensus_flows.tasks.batches.estimate import OUTPUT_TOKENS, Estimate, estimate
from consensus_flows.tasks.batches.planning import Planned, calls_in_words
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.history.database import opened
from consensus_flows.tasks.history.writing import Entry
from consensus_flows.tasks.record import Usage
from tests.kits.command_kit import Command, commands
from tests.kits.consortium_kit import judged
from tests.kits.history_kit import entry, record, response
from tests.vendors import Reply, SeenRequest, json_reply

MEMBERS = ["openai/one", "openai/two", "openai/three"]
LUNA, HAIKU = "openai/gpt-6-luna", "anthropic/claude-haiku-4-5"
# Most tests call the algorithm without the flow around it, where Prefect has nowhere to send its logs.
pytestmark = pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted")

RUNS = {
    ConsortiumConfig: run_consortium,
    ConsensusLearningConfig: run_consensus_learning,
    MixtureOfAgentsConfig: run_mixture_of_agents,
    VoteConfig: run_vote,
    PumpConfig: run_pump,
    PreferConfig: run_prefer,
    SwarmConfig: run_swarm,
}


def planned_calls(config: RunConfig) -> list[Planned]:
    plans: list[Planned] = algorithm_of(config).plan(config)
    return plans


async def estimated(config: RunConfig, rows: int, size: int) -> Estimate:
    return await estimate(config, planned_calls(config), rows, size)


def least_and_most(config: RunConfig) -> tuple[Counter[str], Counter[str]]:
    least, most = Counter[str](), Counter[str]()
    for plan in planned_calls(config):
        least[plan.model.model] += plan.least
        most[plan.model.model] += plan.most
    return +least, +most


def _says(text: str, seen: SeenRequest) -> Reply:
    return Reply() if seen.schema else Reply(text=text)  # as a judge, what the schema asks for


async def made(config: RunConfig, vendors, question: str = "Why?") -> Counter[str]:
    vendors.reset()
    for number, model in enumerate(("one", "two", "three", "four"), 1):
        vendors.script(model, then=partial(_says, f"the answer is {number}"))
    vendors.script("arbiter", then=judged(5, ranking=["A", "B", "C"]))
    vendors.script("judge", then=Reply(text=json.dumps({"better": "first"})))
    parts = [{"title": f"part {number}", "task": "Do it."} for number in range(3)]
    vendors.script("whole", then=json_reply({"parts": []}))
    vendors.script("split", json_reply({"parts": parts}))
    await RUNS[type(config)](question, config)
    return Counter(seen.model for seen in vendors.seen if seen.kind in {"chat", "embeddings"})


RANKS: dict[str, Any] = {"arbiter": "openai/arbiter", "judging_method": "rank"}
EXACT = [
    ConsortiumConfig(members=MEMBERS, **RANKS, max_iterations=2, min_iterations=2),
    ConsortiumConfig(members=["openai/one:2", "openai/two"], **RANKS, max_iterations=1),
    ConsensusLearningConfig(members=MEMBERS, aggregator="openai/agg", iterations=2),
    ConsensusLearningConfig(members=MEMBERS, approach="majority", extract="number", iterations=1),
    ConsensusLearningConfig(members=MEMBERS, approach="medoid", iterations=0),
    MixtureOfAgentsConfig(layers=["openai/one,openai/two:2", "openai/three"], aggregator="openai/agg"),
    MixtureOfAgentsConfig(self_moa="openai/one", samples=7, window=3),
    MixtureOfAgentsConfig(self_moa="openai/one", samples=3, window=3),
    MixtureOfAgentsConfig(self_moa="openai/one", samples=7, window=4, reserved=2, aggregator="openai/agg"),
    VoteConfig(members=MEMBERS, extract="number"),
    VoteConfig(members=MEMBERS, pairwise_judge="openai/judge"),
    VoteConfig(members=["openai/one", "openai/judge"], pairwise_judge="openai/judge", fuse="openai/fuser"),
    VoteConfig(members=MEMBERS, pairwise_judge="openai/judge", comparisons=1),
    PumpConfig(members=["openai/one:2", "openai/two"]),
    PreferConfig(members=["openai/one:2", "openai/two"], rounds=2),
]


@pytest.mark.parametrize("config", EXACT, ids=lambda config: f"{type(config).__name__}")
async def test_a_run_makes_the_calls_that_were_planned(results, vendors, config):
    least, most = least_and_most(config)
    assert least == most
    assert await made(config, vendors) == most


FOUR = [*MEMBERS, "openai/four"]


@pytest.mark.parametrize(
    ("config", "reached"),
    [
        # The judge always prefers the answer that it sees first: a tie, so nothing is moved.
        (VoteConfig(members=FOUR, pairwise_judge="openai/judge", comparisons=100), "least"),
        (VoteConfig(members=FOUR, extract="number", stop_when=3), "most"),
        (VoteConfig(members=["openai/one:5"], extract="number", stop_when=3), "least"),
        (VoteConfig(members=["openai/one:7"], extract="number", stop_when=3, waves=2), "least"),
        (VoteConfig(members=["openai/one:5"], extract="number", stop_when=2, quorum=4), "least"),
        (VoteConfig(members=["openai/one:5"], extract="number", stop_when=4, weights={"openai/one": 2}), "least"),
        (VoteConfig(members=[*MEMBERS, "openai/judge"], pairwise_judge="openai/judge", fuse="openai/fuser"), "least"),
        (ConsortiumConfig(members=MEMBERS, **RANKS, max_iterations=3), "most"),
        (ConsortiumConfig(members=MEMBERS, arbiter="openai/arbiter", confidence_threshold=0.01), "least"),
        (
            ConsensusLearningConfig(members=["openai/one:3"], approach="medoid", iterations=4, stop_when_stable=True),
            "least",
        ),
        (ConsensusLearningConfig(members=["openai/one:3"], approach="decentralized", iterations=2), "least"),
        (PumpConfig(members=MEMBERS, embedding_model="openai/embedder"), "most"),
        (PumpConfig(members=["openai/one:3"], embedding_model="openai/embedder"), "least"),
        (PreferConfig(members=MEMBERS, embedding_model="openai/embedder", rounds=2), "most"),
        (SwarmConfig(members=MEMBERS, orchestrator="openai/whole"), "least"),
        (SwarmConfig(members=["openai/one:2"], orchestrator="openai/split", max_parts=3), "most"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
async def test_the_least_and_the_most_are_reached(results, vendors, config, reached):
    least, most = least_and_most(config)
    assert sum(least.values()) < sum(most.values())
    found = await made(config, vendors)
    if reached == "most" and config.embedding_model:
        found["embedder"] = most["embedder"] if most["embedder"] >= found["embedder"] > 0 else -1  # stored in round 2
    assert found == (most if reached == "most" else least)


async def test_an_extractor_reads_once_what_is_the_same(results, vendors):
    config = VoteConfig(members=["openai/one:3"], extract="llm", extractor="openai/reader")
    least, most = least_and_most(config)
    assert (least, most) == ({"one": 3, "reader": 1}, {"one": 3, "reader": 4})
    vendors.script("reader", then=Reply(text=json.dumps({"found": True, "answer": "1"})))
    found = await made(config, vendors)
    assert found["one"] == 3 and least["reader"] <= found["reader"] <= most["reader"]


def test_a_configuration_of_no_flow_is_refused():
    with pytest.raises(TypeError, match="PanelConfig is not the configuration of an algorithm"):
        planned_calls(PanelConfig(members=["openai/one"]))


def test_the_calls_in_words():
    plans = planned_calls(ConsortiumConfig(members=MEMBERS, arbiter="openai/arbiter"))
    assert calls_in_words(plans) == "4 to 15 calls: member 3 to 9, arbiter 1 to 6"
    assert calls_in_words(planned_calls(PumpConfig(members=MEMBERS))) == "3 calls: member 3"
    assert calls_in_words(planned_calls(PumpConfig(members=["openai/a"]))) == "1 call: member 1"


def _table(model: str) -> float:
    provider, name = model.split("/")
    usage = genai_prices.Usage(input_tokens=100, output_tokens=OUTPUT_TOKENS)
    return float(genai_prices.calc_price(usage, model_ref=name, provider_id=provider).total_price)


@pytest.fixture
def no_history(tmp_path, monkeypatch):
    """Other tests have left the lengths of answers in theirs."""
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{tmp_path}/history.db")


async def test_the_cost_is_that_of_the_tokens(prefect_server, vendors, no_history):
    config = PumpConfig(members=[f"{LUNA}:2", HAIKU])
    found = await estimated(config, 1000, 400_000)
    luna, haiku = found.models
    assert (found.calls_least, found.calls_most, luna.calls_most, haiku.calls_most) == (3000, 3000, 2000, 1000)
    # 400 characters a prompt are 100 tokens.
    assert (haiku.input_tokens_most, haiku.output_tokens_most) == (100_000, OUTPUT_TOKENS * 1000)
    each = {one.model: _table(one.model) for one in (luna, haiku)}
    assert luna.cost_usd_most == pytest.approx(2000 * each[LUNA])
    assert haiku.cost_usd_most == pytest.approx(1000 * each[HAIKU])
    assert found.cost_usd_least == found.cost_usd_most == pytest.approx(luna.cost_usd_most + haiku.cost_usd_most)
    assert any("4 bytes of UTF-8 are a token" in said for said in found.assumptions)
    assert vendors.count() == 0


async def test_limits_shorten_answers_and_answers_are_the_input_of_judges(prefect_server, vendors, no_history):
    limited = {"sampling": {"max_output_tokens": 100}, "max_iterations": 1, "judging_method": "rank"}
    config = ConsortiumConfig.model_validate({"members": [f"{HAIKU}:3"], "arbiter": LUNA} | limited)
    members, arbiter = (await estimated(config, 10, 4000)).models
    assert members.output_tokens_most == 10 * 3 * 100
    assert arbiter.output_tokens_most == 10 * OUTPUT_TOKENS
    told = planned_calls(config)[1].characters
    assert arbiter.input_tokens_most == pytest.approx(10 * (100 + told / 4 + 3 * 100), abs=10)
    longer = config.model_copy(update={"max_iterations": 3})
    assert (await estimated(longer, 10, 4000)).models[0].input_tokens_most > 3 * members.input_tokens_most


async def test_an_unknown_price_is_not_nothing(prefect_server, vendors):
    found = await estimated(PumpConfig(members=[LUNA, "openai/never-heard-of", "local/smollm2"]), 5, 100)
    assert [one.cost_usd_most is None for one in found.models] == [False, True, False]
    assert (found.cost_usd_least, found.cost_usd_most) == (None, None)
    said = " ".join(found.assumptions)
    assert (
        "openai/never-heard-of: the price is not known" in said
        and "local/smollm2: runs on your own machine, at no cost" in said
    )
    assert found.known_cost_usd_most > 0 and found.unpriced_calls == 5


async def test_the_price_of_flex_is_estimated_where_there_is_flex(prefect_server, vendors):
    plain = PumpConfig(members=[LUNA, HAIKU, "google/gemini-3.8-flash"])
    flex = plain.model_copy(update={"service_tier": "flex"})
    before, after = await estimated(plain, 100, 40_000), await estimated(flex, 100, 40_000)
    ratios = [b.cost_usd_most / a.cost_usd_most for a, b in zip(before.models, after.models, strict=True)]
    assert ratios == pytest.approx([0.5, 1.0, 0.5])
    assert [one.service_tier for one in after.models] == ["flex", None, "flex"]
    assert f"{HAIKU}: has no flex, so it is the standard price" in after.assumptions


async def test_the_history_tells_how_long_answers_are(prefect_server, vendors, tmp_path, monkeypatch):
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{tmp_path}/history.db")
    told = record(calls=2)
    told.iterations[0].responses = [
        response(1, provider="openai", model="gpt-6-luna", usage=Usage(input_tokens=1, output_tokens=tokens))
        for tokens in (40, 80)
    ]
    _save(entry(told))
    luna, haiku = (await estimated(PumpConfig(members=[LUNA, HAIKU]), 10, 400)).models
    assert (luna.output_tokens_most, haiku.output_tokens_most) == (600, 10 * OUTPUT_TOKENS)
    limited = PumpConfig.model_validate({"members": [LUNA], "sampling": {"max_output_tokens": 50}})
    found = await estimated(limited, 10, 400)
    assert found.models[0].output_tokens_most == 500
    assert f"{LUNA}: answers as long as they were on the average in the history" in found.assumptions


def _save(one: Entry) -> None:
    from consensus_flows.tasks.history.writing import save

    with opened() as history:
        history.write(lambda transaction: save(transaction, one))


async def test_an_estimate_does_without_a_history(prefect_server, vendors, monkeypatch):
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", "off")
    found = await estimated(PumpConfig(members=[LUNA]), 1, 4)
    assert found.calls_most == 1
    assert any(f"answers of {OUTPUT_TOKENS} tokens" in said for said in found.assumptions)


async def test_a_model_that_cannot_be_asked_is_said_before(prefect_server, vendors):
    with pytest.raises(ConfigurationError, match="unknown provider 'nowhere'"):
        await estimated(PumpConfig(members=["nowhere/m"]), 1, 1)


@pytest.fixture
def consensus(monkeypatch, capsys, prefect_server, vendors) -> Command:
    return commands(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("flow", "options", "said"),
    [
        ("vote", ["-m", "openai/one:5", "--extract", "number", "--stop-when", "3"], "3 to 5 calls: member 3 to 5"),
        ("pump", ["-m", "openai/one:2"], "2 calls: member 2"),
        ("consortium", ["-m", "openai/one:2", "--arbiter", "openai/a"], "3 to 12 calls: member 2 to 6, arbiter 1 to 6"),
        ("consensus-learning", ["-m", "openai/one:2", "--aggregator", "openai/a"], "6 calls: member 4, aggregator 2"),
        ("prefer", ["-m", "openai/one:3"], "6 calls: member 3, judge of the others 3"),
        ("mixture-of-agents", ["--self-moa", "openai/one"], "7 calls: member 6, aggregator 1"),
    ],
)
def test_check_counts_the_calls_of_a_saved_configuration_of_any_kind(consensus, flow, options, said):
    assert consensus("save", f"check-{flow}", "--flow", flow, *options).code == 0
    ran = consensus("check", f"check-{flow}", "--offline")
    assert f"run         check-{flow} ({flow}): {said}; without retries and second askings" in ran.out
    assert consensus("remove", f"check-{flow}").code == 0
