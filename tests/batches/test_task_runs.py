"""Which calls of a batch are task runs in Prefect: all, those that failed, or none; nothing else depends on it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, LogFilter
from prefect.client.schemas.objects import TaskRun

from consensus_flows.blocks.settings import Budget
from consensus_flows.blocks.vote import Vote, VoteConfig
from consensus_flows.flows.batch import batch
from consensus_flows.tasks.batches.summary import BatchSummary
from tests.kits.batch_kit import answer, environment_of, kill_when, prompts, read, same, start
from tests.kits.history_kit import rows as rows_of
from tests.vendors import ANY, LoopbackVendors, Reply, faults

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
MODES = ("none", "failed", "all")
PUMP = {"members": ["openai/a"], "fresh": True}


def moody(vendors: LoopbackVendors) -> None:
    """Row 1 is refused; row 2 fails once, and is answered then."""
    seen = list[str]()

    def step(one: Any) -> Reply:
        seen.append(one.prompt)
        if "is 1?" in one.prompt:
            return Reply(text="", finish="content_filter")
        if "is 2?" in one.prompt and seen.count(one.prompt) % 2:
            return Reply(status=500)
        return answer(one)

    vendors.script(ANY, then=step)


async def task_runs(summary: BatchSummary, wanted: int = 0) -> list[TaskRun]:
    """The task runs of a batch's flow run that have ended, once there are as many as are wanted."""
    mine = FlowRunFilter.model_validate({"id": {"any_": [summary.flow_run_id]}})
    async with get_client() as client:
        for _ in range(100):
            found = [run for run in await client.read_task_runs(flow_run_filter=mine) if run.end_time]
            if len(found) >= wanted:
                break
            await asyncio.sleep(0.1)
    return found


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{tmp_path / 'history.db'}")
    return tmp_path / "history.db"


async def test_rows_calls_and_history_are_the_same_and_only_the_task_runs_differ(
    vendors: LoopbackVendors, tmp_path: Path, history: Path
) -> None:
    moody(vendors)
    source = prompts(tmp_path, 4)
    made = {
        mode: await batch(str(source), str(tmp_path / f"{mode}.jsonl"), flow="pump", config=PUMP, task_runs=mode)
        for mode in MODES
    }
    rows = [same(read(tmp_path / f"{mode}.jsonl")) for mode in MODES]
    assert rows[0] == rows[1] == rows[2]
    assert [row["error"] is None for row in rows[0]] == [True, False, True, True]
    bills = [(one.done, one.failed, one.sent_calls, one.cost_usd, one.requests) for one in made.values()]
    assert bills[0] == bills[1] == bills[2]
    assert vendors.count() == 3 * 5
    for one in made.values():
        query = f"select count(*), sum(attempts) from calls join runs on runs.id = run_id where flow_run_id = '{one.flow_run_id}'"
        assert rows_of(history, query) == [(4, 5)]
    # In the order in which they were sent: what the server has of the last batch, it would have of the first one.
    assert len(await task_runs(made["all"], 4)) == 4
    assert await task_runs(made["none"]) == []
    (failed,) = await task_runs(made["failed"], 1)
    assert failed.name == "ask r1 · openai/a #1 · pump"
    assert (failed.state_name, failed.run_count, str(failed.flow_run_id)) == ("Failed", 1, made["failed"].flow_run_id)
    assert failed.start_time and failed.end_time and failed.total_run_time.total_seconds() > 0
    assert "content_filter" in str(failed.state and failed.state.message)


async def test_the_log_of_a_call_is_there_where_its_task_run_may_be(vendors: LoopbackVendors, tmp_path: Path) -> None:
    moody(vendors)
    source = str(prompts(tmp_path, 4))
    none, failed = [
        await batch(source, str(tmp_path / f"{mode}.jsonl"), flow="pump", config=PUMP, task_runs=mode)
        for mode in ("none", "failed")
    ]
    # In the order in which they were sent: what the server has of the second batch, it would have of the first one.
    for _ in range(100):
        if logged := await logs_of_calls(failed):
            break
        await asyncio.sleep(0.1)
    assert any("Retry 1/4" in line for line in logged)
    assert await logs_of_calls(none) == []


async def logs_of_calls(summary: BatchSummary) -> list[str]:
    async with get_client() as client:
        lines = await client.read_logs(LogFilter.model_validate({"flow_run_id": {"any_": [summary.flow_run_id]}}))
    return [line.message for line in lines if line.task_run_id]


@pytest.mark.parametrize("mode", ["none", "failed"])
async def test_what_is_answered_is_stored_and_a_budget_holds(
    vendors: LoopbackVendors, tmp_path: Path, mode: str
) -> None:
    vendors.script(ANY, then=answer)
    source, out = prompts(tmp_path, 6), tmp_path / "out.jsonl"
    given: dict[str, Any] = {"flow": "pump", "config": {"members": ["openai/a"]}, "task_runs": mode}
    first = await batch(str(source), str(out), **given, budget=Budget(max_calls=4))
    assert (first.status, first.done, vendors.count()) == ("budget", 4, 4)
    second = await batch(str(source), str(out), **given)
    assert (second.status, second.done, second.resumed, vendors.count()) == ("finished", 6, 4, 6)
    again = await batch(str(source), str(tmp_path / "again.jsonl"), **given)
    assert (again.cached_calls, vendors.count()) == (6, 6)


async def test_a_panel_in_a_panel_is_a_flow_run_only_where_every_call_is_shown(
    vendors: LoopbackVendors, tmp_path: Path
) -> None:
    vendors.script(ANY, then=lambda seen: Reply(text="42") if "is 1?" not in seen.prompt else Reply(status=401))
    await Vote(config=VoteConfig(members=["openai/a", "openai/b"])).save("quiet-pair", overwrite=True)
    config = {"members": ["panel/quiet-pair"], "fresh": True, "quorum": 1}
    made: dict[str, BatchSummary] = {}
    try:
        for mode in ("none", "all"):
            out = tmp_path / f"{mode}.jsonl"
            made[mode] = await batch(str(prompts(tmp_path, 3)), str(out), flow="vote", config=config, task_runs=mode)
    finally:
        await Vote.adelete("quiet-pair")
    rows = [read(tmp_path / f"{mode}.jsonl") for mode in ("none", "all")]
    assert same(rows[0]) == same(rows[1])
    assert [row["answer"] for row in rows[0]] == ["42", None, "42"]
    assert made["none"].calls == made["all"].calls == 6
    async with get_client() as client:
        for mode, wanted in (("none", 0), ("all", 3)):
            mine = {"parent_flow_run_id": {"any_": [made[mode].flow_run_id]}}
            assert len(await client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(mine))) == wanted


async def test_a_vendors_batch_is_a_task_run_all_the_same(
    vendors: LoopbackVendors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSENSUS_BATCH_POLL_S", "0.05")
    vendors.script(ANY, then=Reply(text="yes"))
    given: dict[str, Any] = {"flow": "pump", "config": {"members": ["openai/gpt-4o-mini"]}, "task_runs": "none"}
    made = await batch(str(prompts(tmp_path, 5)), str(tmp_path / "out.jsonl"), **given, vendor_batch=True)
    assert (made.done, sum(vendors.jobs.executions.values())) == (5, 4)
    assert [run.name for run in await task_runs(made, 1)] == ["openai/gpt-4o-mini · 4 lines"]


def test_a_batch_without_task_runs_is_killed_and_resumed(vendors: LoopbackVendors, tmp_path: Path) -> None:
    vendors.script(ANY, then=answer)
    vendors.script("a", *[answer] * 5, faults.hang(), then=answer)
    source, out = prompts(tmp_path, 9), tmp_path / "out.jsonl"
    arguments = [source, "-o", out, "--flow", "pump", "-m", "openai/a", "--task-runs", "none", "--concurrency", "1"]
    environment = environment_of(tmp_path)
    assert kill_when(start([*arguments, "--no-probe"], environment), lambda: vendors.count() == 6)
    done = start([*arguments, "--no-probe"], environment)
    _, errors = done.communicate(timeout=120)
    assert done.returncode == 0, errors
    assert vendors.count() == 10, "but for the call that was under way, nothing is asked twice"
    assert [row["answer"] for row in read(out)] == [f"a says: WHAT IS {n}?" for n in range(9)]
