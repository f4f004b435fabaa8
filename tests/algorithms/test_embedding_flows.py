"""Agreement by embeddings in every flow: what is measured, what it decides, what it costs, and what happens when it fails."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from pydantic import ValidationError

from consensus_flows.blocks.consensus_learning import ConsensusLearningConfig
from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from consensus_flows.blocks.prefer import PreferConfig
from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.consensus_learning import run_consensus_learning
from consensus_flows.flows.consortium import consortium, run_consortium
from consensus_flows.flows.mixture_of_agents import run_mixture_of_agents
from consensus_flows.flows.prefer import run_prefer
from consensus_flows.flows.pump import run_pump
from consensus_flows.flows.vote import run_vote
from consensus_flows.tasks.calls.local_model import INSTALL_HINT, LocalModelError, gguf_path
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.history.writing import call_rows
from consensus_flows.tasks.record import Record
from consensus_flows.tasks.recording import record_runs
from consensus_flows.tasks.reports.report import calls_table
from tests.kits import consortium_kit
from tests.kits.command_kit import commands
from tests.kits.consortium_kit import judged, say
from tests.kits.history_kit import entry
from tests.kits.kinds import kinds
from tests.vendors import LoopbackVendors, Reply, faults

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
MEMBERS = ["openai/one", "openai/two", "openai/three"]
EMBEDDER = "openai/text-embedding-3-small"
# By their words the first and the last are near, by what they say the first two; what is nearest to both differs.
RAIN = "it is raining heavily outside right now"
POUR = "a strong downpour has begun"
DRY = "it is quite dry outside right now"
MEANING = {"rain": (1.0, 0.0), "downpour": (0.8, 0.6), "dry": (0.0, 1.0)}


def meant(text: str) -> Sequence[float]:
    return next((vector for word, vector in MEANING.items() if word in text), (1.0, 0.0))


def setup(vendors: LoopbackVendors, **texts: str) -> None:
    say(vendors, **({"one": RAIN, "two": POUR, "three": DRY} | texts))
    vendors.script("text-embedding-3-small", then=Reply(vector=meant))


def embedded(vendors: LoopbackVendors) -> int:
    return vendors.count(kind="embeddings")


async def consort(**settings: Any) -> Record:
    return await run_consortium("Weather?", consortium_kit.config(**{"embedding_model": EMBEDDER} | settings))


async def learn(**settings: Any) -> Record:
    given = {"members": MEMBERS, "approach": "medoid", "iterations": 0, "embedding_model": EMBEDDER}
    return await run_consensus_learning("Weather?", ConsensusLearningConfig.model_validate(given | settings))


async def mix(**settings: Any) -> Record:
    given = {"layers": [{"members": MEMBERS}], "aggregator": "openai/arbiter", "embedding_model": EMBEDDER}
    return await run_mixture_of_agents("Weather?", MixtureOfAgentsConfig.model_validate(given | settings))


async def compare(**settings: Any) -> Record:
    given = {"members": MEMBERS, "pairwise_judge": "openai/arbiter", "embedding_model": EMBEDDER}
    return await run_vote("Weather?", VoteConfig.model_validate(given | settings))


async def pumped(**settings: Any) -> Record:
    given = {"members": MEMBERS, "embedding_model": EMBEDDER}
    return await run_pump("Weather?", PumpConfig.model_validate(given | settings))


async def preferred(**settings: Any) -> Record:
    given = {"members": MEMBERS, "embedding_model": EMBEDDER}
    return await run_prefer("Weather?", PreferConfig.model_validate(given | settings))


FLOWS = [consort, learn, mix, compare, pumped, preferred]


@pytest.mark.parametrize("run", FLOWS)
async def test_agreement_is_measured_by_what_is_said(vendors, run):
    setup(vendors)
    vendors.script("arbiter", then=judged(99))
    record = await run()
    assert record.agreement == pytest.approx((0.8 + 0.0 + 0.6) / 3, abs=1e-4)
    assert record.agreement_measure == "embedding:openai/text-embedding-3-small"
    first = record.iterations[0]
    assert (first.agreement, first.agreement_measure) == (record.agreement, record.agreement_measure)
    assert [call.member for call in first.embeddings] == [f"{EMBEDDER} embeds {name}#1" for name in MEMBERS]
    assert embedded(vendors) == 3
    assert record.calls == len(record.calls_made()) == vendors.count() + 3
    assert '"embedding":' not in record.model_dump_json()
    assert Record.model_validate_json(record.model_dump_json()) is not None

    # Without the model it is the wording, and nobody is asked for it.
    lexical = await run(embedding_model=None)
    assert (lexical.agreement_measure, lexical.iterations[0].embeddings) == ("lexical", [])
    assert lexical.agreement != record.agreement
    assert embedded(vendors) == 3


@pytest.mark.parametrize("run", FLOWS)
async def test_a_second_run_embeds_nothing(vendors, run):
    setup(vendors)
    vendors.script("arbiter", then=judged(99))
    first = await run()
    sent = len(vendors.seen)
    second = await run()
    calls = second.iterations[0].embeddings
    assert (embedded(vendors), [(call.cached, call.cost_usd) for call in calls]) == (3, [(True, 0)] * 3)
    assert second.agreement == first.agreement
    if run not in {compare, preferred}:  # there the judges cannot be read, and what cannot be read is not stored
        assert len(vendors.seen) == sent
        assert (second.cached_calls, second.cost_usd) == (second.calls, 0)


@pytest.mark.parametrize("run", FLOWS)
async def test_a_model_that_fails_leaves_the_wording(vendors, run):
    setup(vendors)
    vendors.script("arbiter", then=judged(99))
    vendors.script("text-embedding-3-small", then=faults.unauthorized())
    record = await run()
    lexical = await run(embedding_model=None)
    assert (record.agreement, record.agreement_measure) == (lexical.agreement, "lexical")
    assert (record.answer, record.degraded) == (lexical.answer, lexical.degraded)
    assert [one for one in kinds(record) if one not in kinds(lexical)] == [("not_embedded", EMBEDDER, 1)]
    assert [call.error.kind for call in record.iterations[0].embeddings] == ["auth"] * 3


async def test_one_vector_of_another_size_is_not_compared(vendors):
    setup(vendors)
    vendors.script("text-embedding-3-small", then=Reply(vector=lambda text: [1.0] * (3 if "dry" in text else 2)))
    record = await pumped()
    assert record.agreement_measure == "lexical"
    (warning,) = [one for one in record.warnings if one.kind == "not_embedded"]
    assert "vectors of 2 and 3 dimensions" in warning.message


@pytest.mark.parametrize("run", [consort, mix, compare, preferred])
async def test_the_answer_that_stands_in_is_the_nearest_by_what_is_said(vendors, run):
    setup(vendors)
    vendors.script("arbiter", then=faults.unauthorized())
    assert (await run()).answer == POUR
    assert (await run(embedding_model=None)).answer == RAIN


async def test_the_medoid_is_the_nearest_by_what_is_said(vendors):
    setup(vendors)
    assert (await learn()).answer == POUR
    assert (await learn(embedding_model=None)).answer == RAIN


async def test_it_stops_when_the_meaning_does_not_change_any_more(vendors):
    """Every round is worded anew, and says the same."""
    texts = ["rain falls", "there will be much rain", "bring something against rain", "rain is on its way"]
    for model in ("one", "two", "three"):
        vendors.script(model, *(Reply(text=f"{text} ({model})") for text in texts))
    vendors.script("text-embedding-3-small", then=Reply(vector=meant))
    stop = {"stop_when_stable": True, "stability_threshold": 0.9, "iterations": 3}
    record = await learn(**stop)
    assert (record.status, len(record.iterations), record.agreement) == ("agreed", 2, 1)
    # Members' texts are embedded for the agreement; the two aggregates are two of those, and come from the cache.
    assert embedded(vendors) == 6
    assert [call.cached for call in record.iterations[1].embeddings] == [False] * 3 + [True] * 2
    for model in ("one", "two", "three"):
        vendors.script(model, *(Reply(text=f"{text} ({model})") for text in texts))
    lexical = await learn(**stop, embedding_model=None, fresh=True)
    assert (lexical.status, len(lexical.iterations)) == ("finished", 4)


async def test_free_texts_settle_in_groups_of_like_meaning(vendors):
    setup(vendors, two="a downpour and much rain", three="dry as dust")
    # The first two words decide: rain.
    stubborn = {"approach": "decentralized", "alike": 0.7, "decentralized": {"k": 2, "beta": 2}}
    record = await learn(**stubborn)
    given = record.iterations[0].settlement.given
    assert list(given.values()) == ["A", "A", "B"]
    lexical = await learn(**stubborn, embedding_model=None)
    assert list(lexical.iterations[0].settlement.given.values()) == ["A", "B", "C"]


async def test_equal_answers_cost_nothing_to_compare(vendors):
    setup(vendors, one=RAIN, two=RAIN, three=RAIN)
    record = await pumped()
    assert (record.agreement, record.agreement_measure, embedded(vendors)) == (1, "lexical", 0)
    setup(vendors, one=RAIN, two=RAIN, three=POUR)
    assert (await pumped(fresh=True)).agreement == pytest.approx((1 + 0.8 + 0.8) / 3, abs=1e-4)
    assert embedded(vendors) == 2


async def test_failed_members_are_not_embedded(vendors):
    setup(vendors)
    vendors.script("three", then=faults.unauthorized())
    record = await pumped()
    assert record.agreement == pytest.approx(0.8)
    assert embedded(vendors) == 2


async def test_a_count_of_votes_needs_no_embeddings(vendors):
    setup(vendors, one="7", two="7", three="8")
    settings = {"members": MEMBERS, "extract": "number"}
    record = await run_vote("How many?", VoteConfig.model_validate(settings))
    assert (record.agreement, record.agreement_measure, embedded(vendors)) == (0.6667, "votes", 0)
    with pytest.raises(
        ValidationError, match="embedding_model: requires a pairwise_judge, because votes compare no texts"
    ):
        VoteConfig.model_validate(settings | {"embedding_model": EMBEDDER})


async def test_it_is_in_the_bill_the_table_and_the_history(vendors):
    setup(vendors)
    record = await pumped()
    costs = [call.cost_usd for call in record.iterations[0].embeddings]
    assert all(cost is not None and cost > 0 for cost in costs)
    rows = calls_table(record.iterations[0])
    assert [row["role"] for row in rows] == ["member"] * 3 + ["embedding"] * 3
    assert all(row["output tokens"] == 0 for row in rows[3:])
    written = call_rows(entry(record), "run")
    assert [row["role"] for row in written] == ["member"] * 3 + ["embedding"] * 3
    assert [row["cost_usd"] for row in written[3:]] == costs
    assert all(row["text"] is None and not row["won"] for row in written[3:])


async def test_a_run_that_is_broken_off_bills_them_too(vendors):
    """The answer comes while the second text is being embedded, and then the run is cancelled."""
    setup(vendors)
    vendors.script("text-embedding-3-small", Reply(vector=meant), then=faults.hang())
    seen: list[Record] = []

    class Looking:
        async def on_event(self, event: str, value: Any) -> None:
            if event == "started":
                seen.append(value)

    async def run() -> None:
        async with record_runs(Looking()):
            await consort()

    running = asyncio.ensure_future(run())
    while embedded(vendors) < 3:  # noqa: ASYNC110  # the vendors run in a thread of their own
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    (record,) = seen
    (iteration,) = record.iterations
    assert (len(iteration.responses), len(iteration.embeddings), iteration.judgements) == (3, 1, [])
    assert record.calls == 4


async def test_the_budget_counts_them(vendors):
    setup(vendors)
    vendors.script("arbiter", then=judged(99))
    record = await consort(budget={"max_calls": 4})
    kinds = [call.error.kind for call in record.iterations[0].embeddings if call.error]
    assert (kinds, embedded(vendors)) == (["budget", "budget"], 1)
    assert (record.agreement_measure, record.status) == ("lexical", "budget")
    assert record.answer == RAIN


@pytest.mark.parametrize("run", FLOWS)
async def test_what_cannot_embed_is_found_before_any_call(vendors, run):
    setup(vendors)
    with pytest.raises(ConfigurationError, match="embedding_model: anthropic has no embeddings"):
        await run(embedding_model="anthropic/claude-haiku-4-5")
    assert not vendors.seen


async def test_it_is_a_task_run_of_the_flow(vendors):
    setup(vendors)
    vendors.script("arbiter", then=judged(99))
    record = await consortium("Weather?", consortium_kit.config(embedding_model=EMBEDDER))
    wanted = {f"embed {EMBEDDER} embeds {name}#1 · iteration 1" for name in MEMBERS}
    mine, names = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(record.flow_run_id)])), set[str]()
    async with get_client() as client:
        for _ in range(150):  # the server writes task runs in batches
            names = {run.name for run in await client.read_task_runs(flow_run_filter=mine)}
            if wanted <= names:
                break
            await asyncio.sleep(0.2)
    assert {name for name in names if name.startswith("embed ")} == wanted


def test_from_the_command_line(vendors, monkeypatch, capsys, tmp_path: Path):
    run = commands(monkeypatch, capsys)
    setup(vendors)
    members = [argument for name in MEMBERS for argument in ("-m", name)]
    done = run("pump", *members, "-p", "Weather?", "--embedding-model", EMBEDDER, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["agreement_measure"] == f"embedding:{EMBEDDER}"
    refused = run("pump", *members, "-p", "Weather?", "--embedding-model", "anthropic/x")
    assert refused.code == 2
    assert "embedding_model: anthropic has no embeddings" in refused.err
    refused = run("pump", *members, "-p", "Weather?", "--embedding-model", "nonsense")
    assert refused.code == 2
    assert "--embedding-model" in refused.err


try:
    gguf_path("smollm2")
    MISSING = ""
except LocalModelError as missing:
    MISSING = str(missing)


@pytest.mark.skipif(bool(MISSING), reason=f"{MISSING}; {INSTALL_HINT}")
async def test_with_the_local_model(vendors):
    setup(
        vendors, one="Paris is the capital of France.", two="The French capital is Paris.", three="Bananas are yellow."
    )
    record = await pumped(embedding_model="local/smollm2")
    lexical = await pumped(embedding_model=None)
    assert record.agreement_measure == "embedding:local/smollm2"
    assert record.agreement > lexical.agreement
    assert all(call.error is None and call.cost_usd in {0, None} for call in record.iterations[0].embeddings)
