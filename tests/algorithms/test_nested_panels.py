"""A saved panel as a member, judge or aggregator of another: what it is asked, what it costs, and how it fails."""

import asyncio
import json

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from consensus_flows.blocks.consortium import ConsortiumConfig
from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig
from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.blocks.vote import Vote, VoteConfig
from consensus_flows.flows.algorithms import algorithm
from consensus_flows.flows.consortium import run_consortium
from consensus_flows.flows.mixture_of_agents import run_mixture_of_agents
from consensus_flows.flows.pump import run_pump
from consensus_flows.flows.saved_algorithm import DEEPEST, with_panels
from consensus_flows.flows.vote import run_vote, vote
from consensus_flows.tasks.batches.planning import calls_in_words
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.history.writing import Entry, call_rows
from consensus_flows.tasks.record import Record
from consensus_flows.tasks.watch import watched_by
from tests.kits.batch_kit import prompts, read
from tests.kits.command_kit import commands
from tests.kits.consortium_kit import asked, judged, say
from tests.kits.kinds import kinds
from tests.vendors import Reply, faults

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
NIGHT = {"flow": "vote", "config": {"members": ["openai/a", "openai/b", "openai/c"]}}
DEEP = {"flow": "vote", "config": {"members": ["panel/night:2", "openai/d"], "panels": {"night": NIGHT}}}


def voting(*members, panels=None, **settings):
    given = {"members": [*members], "panels": {"night": NIGHT} if panels is None else panels}
    return VoteConfig.model_validate(given | settings)


@pytest.fixture
def answering(vendors):
    say(vendors, a="42", b="42", c="41", d="42", e="7")
    return vendors


async def test_a_panel_is_a_member_and_its_calls_count_once(answering):
    record = await run_vote("How many?", voting("panel/night", "openai/d", "openai/e"))
    first = record.iterations[0].responses[0]
    assert (first.member, first.text, first.provider, first.model) == ("panel/night#1", "42", "panel", "night")
    assert first.panel is not None and first.panel.flow == "vote" and first.panel.flow_run_id
    assert [call.member for call in first.panel.iterations[0].responses] == ["openai/a#1", "openai/b#1", "openai/c#1"]
    assert record.answer == "42" and record.tally[0].members == ["panel/night#1", "openai/d#1"]
    assert record.calls == answering.count() == 5 == record.requests
    assert first.attempts == 3 and first.usage.output_tokens == first.panel.usage.output_tokens > 0
    assert record.usage == sum((call.spent for call in record.calls_made()[1:]), record.calls_made()[0].spent)
    again = Record.model_validate_json(record.model_dump_json())
    assert [call.member for call in again.calls_made()] == [
        "openai/a#1",
        "openai/b#1",
        "openai/c#1",
        "openai/d#1",
        "openai/e#1",
    ]


async def test_it_is_a_flow_run_within_the_run(answering):
    record = await vote("How many?", voting("panel/night", "openai/d"))
    inner = record.iterations[0].responses[0].panel
    async with get_client() as client:
        (run,) = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[inner.flow_run_id]))
        )
        parent = await client.read_task_run(run.parent_task_run_id)
        artifacts = await client.request(
            "POST", "/artifacts/filter", json={"flow_runs": {"id": {"any_": [str(inner.flow_run_id)]}}}
        )
    assert str(parent.flow_run_id) == record.flow_run_id != inner.flow_run_id
    assert run.name == "panel/night #1 · vote" and run.state.is_completed()
    assert {"vote-calls", "answer"} <= {one["key"] for one in artifacts.json()}


async def test_the_history_has_every_call_once_and_the_panel_beside_them(answering, prefect_server):
    record = await run_vote("How many?", voting("panel/night", "openai/d", "openai/e"))
    rows = call_rows(Entry(record, None, None), "run")  # type: ignore[arg-type]
    assert [(row["member"], row["role"]) for row in rows] == [
        ("panel/night#1", "member"),
        ("openai/a#1", "member"),
        ("openai/b#1", "member"),
        ("openai/c#1", "member"),
        ("openai/d#1", "member"),
        ("openai/e#1", "member"),
    ]
    assert [row["position"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert sum(row["output_tokens"] for row in rows) == record.usage.output_tokens
    assert sum(row["attempts"] for row in rows) == record.requests
    assert [row["won"] for row in rows] == [True, False, False, False, False, False]
    assert [row["agreement"] for row in rows] == [1.0, None, None, None, 1.0, 0.0]


async def test_instances_are_samples_of_their_own_at_every_depth(answering):
    record = await run_vote("How many?", voting("panel/deep:2", panels={"deep": DEEP}))
    # Two runs of `deep`, each with two runs of `night`, each with three calls, and its own member.
    assert record.calls == answering.count() == 2 * (2 * 3 + 1)
    assert record.cached_calls == 0
    again = await run_vote("How many?", voting("panel/deep:2", panels={"deep": DEEP}))
    assert (again.calls, again.cached_calls, answering.count()) == (14, 14, 14)
    assert all(one.cached for one in again.iterations[0].responses)
    alone = await run_vote("How many?", voting("panel/deep", panels={"deep": DEEP}))
    assert alone.cached_calls == 7, "the first instance is the panel as it runs alone"


async def test_seeds_differ_between_instances(answering):
    night = {"flow": "pump", "config": {"members": ["openai/a"], "sampling": {"seed": 5}}}
    await run_vote("How many?", voting("panel/night:2", panels={"night": night}))
    assert sorted(seen.params["seed"] for seen in asked(answering, "a")) == [5, 1005]


async def test_conversation_and_instructions_reach_it(answering):
    night = {"flow": "vote", "config": {"members": ["openai/a"], "system": "Of the panel."}}
    await run_vote("How many?", voting("panel/night", panels={"night": night}, system="Of the run."))
    (seen,) = asked(answering, "a")
    assert seen.params["messages"] == [
        {"role": "system", "content": "Of the panel.\n\nOf the run."},
        {"role": "user", "content": "How many?"},
    ]


async def test_budgets_nest(answering):
    """Two deep: the innermost reserves from its own, from the middle's, and from that of the run."""
    own = {"night": NIGHT | {"config": NIGHT["config"] | {"budget": {"max_calls": 2}}}}
    record = await run_vote("How many?", voting("panel/night", "openai/d", panels=own))
    inner = record.iterations[0].responses[0]
    assert (inner.panel.status, inner.panel.calls, inner.error) == ("budget", 2, None)
    assert record.status == "finished" and ("panel_budget", "panel/night#1") in {one[:2] for one in kinds(record)}
    assert record.degraded
    record = await run_vote("Of all?", voting("panel/deep", "openai/e", panels={"deep": DEEP}, budget={"max_calls": 4}))
    assert answering.count() - 3 == record.requests == 4
    assert record.status in {"budget", "failed"}
    assert any(call.refused_by_budget for call in record.iterations[0].responses)


async def test_a_budget_of_the_run_that_ends_a_panel_ends_the_run(answering):
    record = await run_vote("How many?", voting("panel/night", budget={"max_calls": 2}))
    assert (record.status, record.answer, record.requests) == ("budget", "42", 2)


async def test_a_panel_that_fails_is_a_member_that_failed(answering):
    answering.script("a", then=faults.not_found())
    answering.script("b", then=faults.not_found())
    record = await run_vote("How many?", voting("panel/night", "openai/d", "openai/e", quorum=2))
    first = record.iterations[0].responses[0]
    assert first.error is not None and first.error.kind == "no_answer"
    assert "openai/a: not_found" in first.error.message
    assert first.panel is not None and first.panel.status == "failed"
    assert record.answer == "42" and record.degraded and record.requests == answering.count() == 5
    assert record.iterations[0].answered()[0].member == "openai/d#1"


async def test_a_degraded_panel_degrades_the_run(answering):
    answering.script("c", then=faults.not_found())
    record = await run_vote("How many?", voting("panel/night", "openai/d"))
    assert record.degraded and ("degraded", "panel/night#1") in {one[:2] for one in kinds(record)}


async def test_a_straggler_is_cut_with_all_its_calls_and_they_are_paid_for(answering):
    answering.script("c", then=Reply(text="41", delay=200))
    started = asyncio.get_running_loop().time()
    record = await run_vote("How many?", voting("panel/night", "openai/d", "openai/e", quorum=2, straggler_grace=20))
    assert asyncio.get_running_loop().time() - started < 150
    first = record.iterations[0].responses[0]
    assert first.error is not None and first.error.kind == "straggler"
    assert first.panel is not None and first.panel.calls >= 2
    assert {call.member for call in first.panel.calls_made()} >= {"openai/a#1", "openai/b#1"}
    assert record.requests == answering.count() == 5


async def test_the_deadline_of_the_run_reaches_it(answering):
    answering.script("c", then=Reply(text="41", delay=20))
    record = await run_vote("How many?", voting("panel/night", "openai/d", quorum=1, budget={"max_seconds": 3}))
    assert record.duration_s < 10
    assert record.status == "budget"


async def test_a_panel_judges_and_aggregates(answering):
    say(answering, judge=judged(90, "of  the judge").text)
    judges = {"flow": "vote", "config": {"members": ["openai/judge:3"]}}
    config = ConsortiumConfig.model_validate(
        {"members": ["openai/a", "openai/c"], "arbiter": "panel/judges", "panels": {"judges": judges}}
    )
    record = await run_consortium("How many?", config)
    assert (record.status, record.answer, record.calls) == ("confident", "of  the judge", 5)
    assert all(seen.params["response_format"]["type"] == "json_schema" for seen in asked(answering, "judge"))
    layers = MixtureOfAgentsConfig.model_validate(
        {"layers": [["panel/night", "openai/d"]], "aggregator": "panel/night", "panels": {"night": NIGHT}}
    )
    record = await run_mixture_of_agents("How many?", layers)
    assert (record.answer, record.calls) == ("42", 7)
    assert record.iterations[-1].synthesis.arbiter == "panel/night"


async def test_a_panel_that_cannot_judge_is_refused_before_a_call(answering):
    for panel, why in (
        ({"flow": "vote", "config": {"members": ["openai/a"], "extract": "number"}}, "extract number"),
        ({"flow": "pump", "config": {"members": ["openai/a:2"]}}, "list of all answers"),
        ({"flow": "vote", "config": {"members": ["panel/p"], "panels": {"p": NIGHT | {"flow": "pump"}}}}, "panel/p"),
    ):
        config = ConsortiumConfig.model_validate(
            {"members": ["openai/a", "openai/c"], "arbiter": "panel/j", "panels": {"j": panel}}
        )
        with pytest.raises(ConfigurationError, match=why):
            await run_consortium("How many?", config)
    assert answering.count() == 0


async def test_a_panel_that_contains_itself_is_refused_with_the_chain(answering):
    await Vote(config=VoteConfig(members=["panel/two", "openai/a"])).save("one", overwrite=True)
    await Vote(config=VoteConfig(members=["panel/one", "openai/a"])).save("two", overwrite=True)
    with pytest.raises(ConfigurationError, match="panel/one contains itself: panel/one > panel/two > panel/one"):
        await run_vote("How many?", VoteConfig(members=["panel/one"]))
    deep = NIGHT
    for number in range(DEEPEST):
        deep = {"flow": "vote", "config": {"members": [f"panel/p{number}"], "panels": {f"p{number}": deep}}}
    with pytest.raises(ConfigurationError, match=f"at most {DEEPEST} deep"):
        await run_vote("How many?", voting("panel/top", panels={"top": deep}))
    with pytest.raises(ConfigurationError, match="panel/nobody: no configuration is saved as 'nobody'"):
        await run_vote("How many?", VoteConfig(members=["panel/nobody"]))
    with pytest.raises(ConfigurationError, match="panel/night: a saved panel cannot be used here"):
        await run_vote(
            "How many?", voting("openai/a", "openai/b", pairwise_judge="openai/c", embedding_model="panel/night")
        )
    assert answering.count() == 0


def test_settings_that_a_panel_has_of_its_own_are_refused():
    with pytest.raises(ValueError, match="prices: panel/night is a saved panel"):
        voting("panel/night", prices=["panel/night=1/1"])
    with pytest.raises(ValueError, match="member_settings: panel/night is a saved panel"):
        voting("panel/night", member_settings={"panel/night": {"temperature": 1}})


async def test_saved_settings_hold_and_are_changed_from_outside_where_that_makes_sense(answering):
    await Vote(config=VoteConfig(members=["openai/a", "openai/b"])).save("saved-pair", overwrite=True)
    config = VoteConfig(members=["panel/saved-pair", "openai/d"], sampling={"temperature": 0.5})
    record = await run_vote("How many?", config)
    assert record.calls == 3
    assert "temperature" not in asked(answering, "a")[0].params
    assert ("adjusted", "panel/saved-pair#1") in {one[:2] for one in kinds(record)}
    fresh = await run_vote("How many?", config.model_copy(update={"fresh": True}))
    assert (fresh.cached_calls, answering.count()) == (0, 6)


async def test_the_estimate_counts_its_calls():
    config = await with_panels(voting("panel/deep:2", "openai/e", panels={"deep": DEEP}))
    plans = algorithm("vote").plan(config)
    assert sum(plan.most for plan in plans) == 2 * (2 * 3 + 1) + 1
    assert {str(plan.model) for plan in plans} == {f"openai/{name}" for name in "abcde"}
    words = calls_in_words(plans)
    assert words.startswith("15 calls:") and "panel/deep panel/night member 12" in words
    judges = {"flow": "vote", "config": {"members": ["openai/judge:3"]}}
    given = {"members": ["openai/a:2"], "arbiter": "panel/judges", "max_iterations": 2, "panels": {"judges": judges}}
    plans = algorithm("consortium").plan(await with_panels(ConsortiumConfig.model_validate(given)))
    reads = next(plan for plan in plans if plan.model.model == "judge")
    assert (reads.least, reads.read_least) == (3, 6), "each of three reads both answers"


class _Events:
    def __init__(self):
        self.seen = []

    async def on_event(self, event, value):
        self.seen.append((event, getattr(value, "member", None)))


async def test_watchers_of_the_run_see_the_panel_as_one_member(answering):
    events = _Events()
    with watched_by(events):
        await run_vote("How many?", voting("panel/night", "openai/d"))
    answered = [member for event, member in events.seen if event == "answered"]
    assert sorted(answered) == ["openai/d#1", "panel/night#1"]
    assert sum(event == "answered_within" for event, _ in events.seen) == 3
    assert sum(event == "started" for event, _ in events.seen) == 1


async def test_the_final_writer_of_a_panel_is_read_while_it_writes(answering):
    say(answering, w="one two three")
    inner = {"flow": "mixture-of-agents", "config": {"layers": [["openai/a", "openai/b"]], "aggregator": "openai/w"}}
    config = MixtureOfAgentsConfig.model_validate(
        {"layers": [["openai/a", "openai/c"]], "aggregator": "panel/inner", "panels": {"inner": inner}}
    )
    pieces = []

    class Reader:
        async def on_event(self, event, value):
            if event == "wrote":
                pieces.append(value)

    with watched_by(Reader(), pieces=True):
        record = await run_mixture_of_agents("How many?", config)
    assert record.answer == "one two three" == "".join(piece.text for piece in pieces)


async def test_a_pump_of_panels(answering):
    record = await run_pump(
        "How many?", PumpConfig.model_validate({"members": ["panel/night", "openai/e"], "panels": {"night": NIGHT}})
    )
    assert "## panel/night#1\n\n42" in record.answer
    assert json.loads(record.model_dump_json())["iterations"][0]["responses"][0]["panel"]["flow"] == "vote"


def test_a_batch_and_the_commands_around_it(answering, results, tmp_path, monkeypatch, capsys):
    consensus = commands(monkeypatch, capsys)
    assert (
        consensus("save", "batch-night", "--flow", "vote", "-m", "openai/a", "-m", "openai/b", "-m", "openai/c").code
        == 0
    )
    assert consensus("save", "batch-deep", "--flow", "vote", "-m", "panel/batch-night:2", "-m", "openai/d").code == 0
    ran = consensus("save", "batch-night", "--flow", "vote", "-m", "panel/batch-deep")
    assert ran.code == 2 and "panel/batch-night > panel/batch-deep > panel/batch-night" in ran.err
    ran = consensus("check", "batch-deep", "--offline")
    assert "7 calls: panel/batch-night member 6, member 1" in ran.out
    ran = consensus("keys", "set", "panel", "--base-url", "https://example.com")
    assert ran.code == 2 and "panel is reserved" in ran.err
    file, out = prompts(tmp_path, 2), tmp_path / "out.jsonl"
    ran = consensus("batch", file, "-o", out, "--name", "batch-deep", "--dry-run", "--json")
    assert json.loads(ran.out)["calls_most"] == 14 and answering.count() == 0
    ran = consensus("batch", file, "-o", out, "--name", "batch-deep", "--json")
    summary = json.loads(ran.out)
    assert summary["sent_calls"] == 14 == answering.count()
    assert {one["model"]: one["calls"] for one in summary["models"]} == {f"openai/{n}": 4 for n in "abc"} | {
        "openai/d": 2
    }
    rows = read(out)
    assert [row["calls"] for row in rows] == [7, 7]
    assert set(rows[0]["answers"]) == {"panel/batch-night", "panel/batch-night#2", "openai/d"}
