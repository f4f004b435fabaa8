"""A batch in shards: deployment runs on a process worker, merged; one that dies is run again alone."""

import asyncio
import inspect
import json
import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from uuid import UUID, uuid4

import pytest
from httpx import ConnectError
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.states import Completed, Running

from consensus_flows.flows.batch import batch
from consensus_flows.flows.batching import run_batch
from consensus_flows.tasks.batches.summary import BatchSummary
from consensus_flows.tasks.errors import ConfigurationError, QuorumError
from tests.kits import processes
from tests.kits.batch_kit import ROOT, THREE, batch_of, environment_of, kill_when, prompts, read, same, serve, start
from tests.vendors import LoopbackVendors

CONFIG = {"members": ["openai/a", "anthropic/b", "google/c"]}
POOL = "shards-of-the-tests"


def prefect(*arguments: str, environment: dict[str, str]) -> None:
    done = processes.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments], env=environment, cwd=ROOT, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr


def started(environment: dict[str, str], folder: Path) -> "subprocess.Popen[bytes]":
    with (folder / "worker.log").open("wb") as output:
        return processes.start(
            [sys.executable, "-m", "prefect", "--no-prompt", "worker", "start", "--pool", POOL],
            env=environment,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


async def deployed(**options: Any) -> None:
    """Make the deployment of prefect.yaml's entrypoint."""
    loaded: Any = await Flow.from_source(source=str(ROOT), entrypoint="flows/batch.py:batch")
    await loaded.deploy(name="batch", work_pool_name=POOL, print_next_steps=False, build=False, push=False, **options)


@pytest.fixture
async def worker(results: str, vendors: LoopbackVendors, tmp_path: Path) -> Any:
    """A work pool, the deployment, and one worker; its environment."""
    environment = environment_of(tmp_path) | {"PREFECT_WORKER_QUERY_SECONDS": "1", "CONSENSUS_FILES": str(tmp_path)}
    await asyncio.to_thread(
        prefect, "work-pool", "create", POOL, "--type", "process", "--overwrite", environment=environment
    )
    await deployed()
    process = started(environment, tmp_path)
    yield environment
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=30)
    processes.kill(process)


async def shard_runs(output: Path) -> list[FlowRun]:
    """The runs of an output's shards, the oldest first."""
    async with get_client() as client:
        found = await client.read_flow_runs(limit=200, sort=FlowRunSort.EXPECTED_START_TIME_DESC)
    mine = [run for run in found if run.parameters.get("shard") and str(output) in run.parameters["output"]]
    return sorted(mine, key=lambda run: str(run.created))


def shard(run: FlowRun) -> int:
    return int(run.parameters["shard"])


async def undisturbed(source: Path, folder: Path, **options: Any) -> list[dict[str, Any]]:
    out = folder / "whole.jsonl"
    await batch(str(source), str(out), flow="vote", config=CONFIG, **options)
    return read(out)


@pytest.mark.timeout(300)
async def test_two_shards_give_what_one_run_gives(worker, vendors, tmp_path):
    serve(vendors)
    source, out, review = prompts(tmp_path, 7), tmp_path / "out.jsonl", tmp_path / "review.csv"
    summary = await batch(
        str(source), str(out), flow="vote", config=CONFIG, shards=2, review=str(review), abstain_below=0.5
    )
    assert (summary.rows, summary.done, summary.abstained, summary.status) == (7, 0, 7, "finished")
    assert (summary.to_review, summary.review_file) == (7, str(review))
    rows = read(review)
    assert [(row["id"], row["question"]) for row in rows] == [(f"r{n}", f"What is {n}?") for n in range(7)]
    assert all("abstained" in row["reasons"] and row["openai/a"] for row in rows)
    assert review.with_suffix(".html").read_text().count("<article") == 7
    assert vendors.count() == summary.calls == summary.sent_calls == 21
    assert {model.model: model.calls for model in summary.models} == {"openai/a": 7, "anthropic/b": 7, "google/c": 7}
    assert same(read(out)) == same(await undisturbed(source, tmp_path, abstain_below=0.5))
    runs = await shard_runs(out)
    assert sorted(run.name for run in runs) == ["vote · prompts.csv, part 1 of 2", "vote · prompts.csv, part 2 of 2"]
    assert not list(tmp_path.glob("out.jsonl.*")), "what the shards shared is taken away"


@pytest.mark.timeout(300)
async def test_a_deployment_with_a_saved_configuration(worker, vendors, tmp_path):
    """The server lays the parameters of a shard over those of the deployment; what it does not name stays."""
    from consensus_flows.blocks.vote import Vote

    serve(vendors)
    source, out = prompts(tmp_path, 4), tmp_path / "out.jsonl"
    await Vote(config=CONFIG).save("of-every-night", overwrite=True)
    try:
        await deployed(parameters={"input": str(source), "output": str(out), "config": "of-every-night", "shards": 2})
        run = await arun_deployment("batch/batch", timeout=240, poll_interval=1)
    finally:
        await Vote.adelete("of-every-night")
    assert run.state and run.state.is_completed(), run.state
    assert (await run.state.result(raise_on_failure=True)).done == 4 == len(read(out))
    runs = await shard_runs(out)
    assert [run.state.name for run in runs if run.state] == ["Tie"] * 2, "each was started once"


async def test_a_shard_is_given_every_parameter(results, vendors, tmp_path, monkeypatch):
    """One that it is not given would be that of the deployment."""
    from consensus_flows.flows import batch_shards

    given: dict[str, Any] = {}

    async def run_deployment(name: object, *, parameters: dict[str, Any], **options: Any) -> FlowRun:
        given.update(parameters)
        raise ObjectNotFound(Exception())

    monkeypatch.setattr(batch_shards, "arun_deployment", run_deployment)
    with pytest.raises(ConfigurationError, match="there is no deployment"):
        await batch(str(prompts(tmp_path, 2)), str(tmp_path / "out.jsonl"), flow="vote", config=CONFIG, shards=2)
    assert given.keys() == set(inspect.signature(batch.fn).parameters)


@pytest.mark.timeout(300)
async def test_an_input_that_a_shard_has_read_otherwise(worker, vendors, tmp_path, monkeypatch):
    """It changes between the look of the run that starts the shards and their own: no mixture is called finished."""
    from consensus_flows.flows import batch_shards

    serve(vendors)
    source, out = prompts(tmp_path, 5, "in.jsonl"), tmp_path / "out.jsonl"
    whole, real = source.read_text(), batch_shards.arun_deployment

    async def run_deployment(*arguments: Any, **options: Any) -> FlowRun:
        source.write_text("".join(whole.splitlines(keepends=True)[:4]))
        return await real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(batch_shards, "arun_deployment", run_deployment)
        with pytest.raises(QuorumError, match=r"in\.jsonl has changed while the batch was running"):
            await batch(str(source), str(out), flow="vote", config=CONFIG, shards=2)
    assert list(tmp_path.glob("out.jsonl.shards-*")), "what is done is kept"
    source.write_text(whole)
    summary = await batch(str(source), str(out), flow="vote", config=CONFIG, shards=2)
    assert (summary.status, summary.done) == ("finished", 5) and vendors.count() == 15


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_a_shard_that_is_killed_is_run_again_alone(worker, vendors, tmp_path):
    serve(vendors, delay=0.3)
    source, out = prompts(tmp_path, 60), tmp_path / "out.jsonl"
    parent = asyncio.create_task(batch(str(source), str(out), flow="vote", config=CONFIG, shards=2, concurrency=2))
    victim = await _of_a_shard_with_rows(out)
    os.kill(victim, signal.SIGKILL)
    summary = await parent
    assert (summary.rows, summary.done) == (60, 60)
    names = [run.name for run in await shard_runs(out)]
    assert len(names) == 3 and len(set(names)) == 2, "one of them was started twice"
    assert 180 <= vendors.count() <= 180 + 2 * 3, "what was under way, of two rows and three members"
    vendors.delay = 0
    assert same(read(out)) == same(await undisturbed(source, tmp_path))


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_a_parent_that_is_killed_adopts_the_runs_when_it_is_started_again(worker, vendors, tmp_path):
    serve(vendors, delay=0.3)
    source, out = prompts(tmp_path, 60), tmp_path / "out.jsonl"
    arguments = [source, "-o", out, *THREE, "--concurrency", "2", "--shards", "2"]
    parent = start(arguments, worker)
    await _of_a_shard_with_rows(out)
    assert await asyncio.to_thread(kill_when, parent, lambda: True)
    summary = await batch(str(source), str(out), flow="vote", config=CONFIG, shards=2, concurrency=2)
    assert (summary.rows, summary.done) == (60, 60)
    assert len(await shard_runs(out)) == 2 and vendors.count() == 180


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many parts of few rows."""
    monkeypatch.setattr("consensus_flows.flows.batch_shards.ROWS_A_PART", 2)


def in_order(runs: list[FlowRun]) -> tuple[list[FlowRun], list[FlowRun]]:
    """The runs that workers have taken, and those within them."""
    return [run for run in runs if run.deployment_id], [run for run in runs if not run.deployment_id]


@pytest.mark.usefixtures("short_parts")
@pytest.mark.timeout(300)
async def test_a_run_that_has_done_its_part_is_handed_the_next_one(worker, vendors, tmp_path):
    serve(vendors)
    source, out = prompts(tmp_path, 12), tmp_path / "out.jsonl"
    summary = await batch(str(source), str(out), flow="vote", config=CONFIG, shards=2)
    assert (summary.rows, summary.done, summary.status, vendors.count()) == (12, 12, "finished", 36)
    taken, within = in_order(await shard_runs(out))
    assert sorted(shard(run) for run in taken) == [1, 2] and sorted(shard(run) for run in within) == [3, 4, 5, 6]
    assert {run.name for run in within} == {f"vote · prompts.csv, part {number} of 6" for number in (3, 4, 5, 6)}
    async with get_client() as client:
        around = [await client.read_task_run(run.parent_task_run_id) for run in within if run.parent_task_run_id]
    assert len(around) == 4 and {run.flow_run_id for run in around} <= {run.id for run in taken}
    for run in (*taken, *within):
        assert run.state and run.state.name == "Tie", "all have ended"
        assert run.state.message and run.parameters["output"] in run.state.message, "each with its own part"
    assert same(read(out)) == same(await undisturbed(source, tmp_path))


def has_rows(run: FlowRun) -> bool:
    journal = Path(f"{run.parameters['output']}.partial")
    return journal.exists() and '"row":' in journal.read_text()


async def _within(out: Path) -> tuple[FlowRun, FlowRun]:
    """Wait for a run that goes on with another part; return it and the run of that part, which has finished rows."""
    for _ in range(1200):
        taken, within = in_order(await shard_runs(out))
        for run in within:
            if has_rows(run) and run.parent_task_run_id:
                async with get_client() as client:
                    around = await client.read_task_run(run.parent_task_run_id)
                return next(one for one in taken if one.id == around.flow_run_id), run
        await asyncio.sleep(0.1)
    pytest.fail("no run has gone on")


@pytest.mark.chaos
@pytest.mark.usefixtures("short_parts")
@pytest.mark.timeout(600)
async def test_a_run_that_is_killed_with_a_later_part_loses_that_alone(worker, vendors, tmp_path, monkeypatch):
    monkeypatch.setattr("consensus_flows.flows.batch_shards.PARTS_A_SHARD", 3)
    serve(vendors, delay=0.3)
    source, out = prompts(tmp_path, 60), tmp_path / "out.jsonl"
    parent = asyncio.create_task(batch(str(source), str(out), flow="vote", config=CONFIG, shards=2, concurrency=1))
    victim, part = await _within(out)
    assert victim.infrastructure_pid
    os.kill(int(victim.infrastructure_pid.rpartition(":")[2]), signal.SIGKILL)
    summary = await parent
    assert (summary.rows, summary.done) == (60, 60)
    runs = await shard_runs(out)
    assert Counter(shard(run) for run in runs) == {number: 1 + (number == shard(part)) for number in range(1, 7)}
    ended = {run.id: run.state.name for run in runs if run.state}
    assert ended.pop(victim.id) == ended.pop(part.id) == "Crashed", "the server was told of the part, too"
    assert set(ended.values()) == {"Tie"}
    assert 180 <= vendors.count() <= 180 + 3, "what was under way, of one row and three members"
    vendors.delay = 0
    assert same(read(out)) == same(await undisturbed(source, tmp_path))


@pytest.mark.chaos
@pytest.mark.usefixtures("short_parts")
@pytest.mark.timeout(600)
async def test_whoever_takes_over_hands_further_parts_to_the_runs_that_go_on(worker, vendors, tmp_path, monkeypatch):
    monkeypatch.setattr("consensus_flows.flows.batch_shards.PARTS_A_SHARD", 3)
    serve(vendors, delay=0.5)
    source, out = prompts(tmp_path, 120), tmp_path / "out.jsonl"
    options: dict[str, Any] = {"flow": "vote", "config": CONFIG, "shards": 2, "concurrency": 1}
    parent = asyncio.create_task(batch(str(source), str(out), **options))
    await _within(out)
    parent.cancel()
    with suppress(asyncio.CancelledError):
        await parent
    summary = await batch(str(source), str(out), **options)
    assert (summary.rows, summary.done, vendors.count()) == (120, 120, 360)
    taken, within = in_order(await shard_runs(out))
    assert (len(taken), len(within)) == (2, 4)


@pytest.mark.usefixtures("results")
async def test_a_part_that_was_handed_on_and_not_begun_is_found_at_its_run(vendors, tmp_path, monkeypatch):
    """Whoever has handed it on is killed before the run begins it; it would be done twice."""
    from consensus_flows.flows import batch_shards
    from consensus_flows.tasks.addresses import place_of

    monkeypatch.setattr(batch_shards, "get_run_logger", lambda: logging.getLogger("test"))
    work, folder = batch_of(prompts(tmp_path, 6), tmp_path / "out.jsonl"), place_of(str(tmp_path), "output")
    inventory = work.source.inspect()
    async with get_client() as client:

        async def going(*tags: str) -> Any:
            made = await client.create_flow_run(batch, parameters={}, tags=tags, state=Running())
            made.deployment_id = uuid4()
            return made

        before = batch_shards._Shards(work, 1, 3, folder, inventory)
        first = await going(*before._tags(before.shards[0]))
        before._waiting.append(before.shards[1])
        before._hand_on(before.shards[0], first)

        after = batch_shards._Shards(work, 1, 3, folder, inventory)
        for shard in after.shards:
            shard.share, shard.run = after._noted(shard)
        handed = {shard.run for shard in after.shards}

        async def runs(*_: object) -> list[Any]:
            return [first]

        monkeypatch.setattr(after, "_going", runs)
        found = [await after._running(client, shard, handed) for shard in after.shards]
        assert found == [None, first.id, None], "the run is no longer at work on its first part"
        assert after.shards[1].share == before.shards[1].share
        await client.set_flow_run_state(first.id, Completed(), force=True)
        assert await after._running(client, after.shards[1], handed) is None


@pytest.mark.usefixtures("results")
async def test_a_retried_run_does_nothing_of_a_part_that_is_done(vendors, tmp_path, monkeypatch):
    """It has died within a later one."""
    serve(vendors)
    source, out = prompts(tmp_path, 4), tmp_path / "out.jsonl"
    part: dict[str, Any] = {"flow": "vote", "config": CONFIG | {"fresh": True}, "shards": 2, "shard": 1}
    first = await batch(str(source), str(out), **part)
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__RUN_COUNT", "2")
    again = await batch(str(source), str(out), **part)
    assert (first.done, again.done, vendors.count()) == (2, 2, 6)
    prompts(tmp_path, 6)
    assert (await batch(str(source), str(out), **part)).done == 3, "another input"


@pytest.mark.usefixtures("short_parts")
@pytest.mark.timeout(300)
async def test_a_later_part_that_ends_without_a_word_ends_the_run_around_it(worker, vendors, tmp_path, told):
    serve(vendors)
    source, out = prompts(tmp_path, 6), tmp_path / "out.jsonl"
    parent = asyncio.create_task(batch(str(source), str(out), flow="vote", config=CONFIG, shards=2))
    while not (found := list(tmp_path.glob("out.jsonl.shards-*"))):  # noqa: ASYNC110  # it is the flow that makes it
        await asyncio.sleep(0.02)
    journal = found[0] / "0003-of-0003.jsonl.partial"
    journal.mkdir()
    while not (notices := [text for event, text in told if event == "notice" and "3 of 3" in text]):
        assert not parent.done()
        await asyncio.sleep(0.1)
    journal.rmdir()
    summary = await parent
    assert "shard 3 of 3 has ended without a result" in notices[0] and journal.name in notices[0]
    assert (summary.done, vendors.count()) == (6, 18)


@pytest.mark.parametrize("runs", [1, 2])
async def test_a_run_that_is_retried_is_handed_nothing(tmp_path, monkeypatch, runs):
    """Prefect would take the first flow run within it for that of its first time, which was about another part."""
    from consensus_flows.flows import batch_shards
    from consensus_flows.tasks.addresses import place_of

    monkeypatch.setattr(batch_shards, "get_run_logger", lambda: logging.getLogger("test"))
    work = batch_of(prompts(tmp_path, 4), tmp_path / "out.jsonl")
    parts = batch_shards._Shards(work, 1, 2, place_of(str(tmp_path), "output"), work.source.inspect())
    first, second = parts.shards
    parts._waiting.append(second)
    run: Any = SimpleNamespace(id=uuid4(), name="run", run_count=runs)
    parts._hand_on(first, run)
    said = json.loads(batch_shards._read(place_of(f"{first.address}.next", "output")))
    assert (said.get("parameters", {}).get("shard"), second.run) == ((2, run.id) if runs == 1 else (None, None))
    assert list(parts._waiting) == ([] if runs == 1 else [second])


async def _of_a_shard_with_rows(out: Path) -> int:
    """Wait until a shard has finished rows; return its process."""
    for _ in range(1200):
        for journal in out.parent.glob(f"{out.name}.shards-*/*.partial"):
            number = int(journal.name.partition("-")[0])
            if journal.read_text().count('"row":') >= 3:
                run = next(run for run in await shard_runs(out) if run.parameters["shard"] == number)
                assert run.infrastructure_pid
                return int(run.infrastructure_pid.rpartition(":")[2])
        await asyncio.sleep(0.1)
    pytest.fail("no shard has come so far")


@pytest.mark.usefixtures("results")
async def test_a_budget_too_small_for_its_shards_starts_none(vendors, tmp_path):
    from consensus_flows.blocks.settings import Budget

    with pytest.raises(ConfigurationError, match=r"budget\.max_calls: 2 cannot be shared among 3 shards"):
        await batch(
            str(prompts(tmp_path, 5)),
            str(tmp_path / "out.jsonl"),
            flow="vote",
            config=CONFIG,
            shards=3,
            budget=Budget(max_calls=2),
        )
    assert vendors.count() == 0 and await shard_runs(tmp_path / "out.jsonl") == []


@pytest.mark.usefixtures("results")
async def test_without_a_deployment_it_says_how_to_make_one(vendors, tmp_path):
    async with get_client() as client:
        for found in await client.read_deployments():
            await client.delete_deployment(found.id)
    with pytest.raises(ConfigurationError, match=r"there is no deployment batch/batch: .*consensus up"):
        await batch(str(prompts(tmp_path, 2)), str(tmp_path / "out.jsonl"), flow="vote", config=CONFIG, shards=2)


@pytest.mark.usefixtures("results")
async def test_what_an_earlier_try_left_is_not_taken_for_the_end_of_the_next(vendors, tmp_path, monkeypatch):
    """A shard whose budget ended is started again; killed then, its old summary must not count."""
    from consensus_flows.flows import batch_shards
    from consensus_flows.tasks.addresses import place_of

    work = batch_of(prompts(tmp_path, 2), tmp_path / "out.jsonl")
    folder = place_of(str(tmp_path), "output")
    inventory = work.source.inspect()
    shards = batch_shards._Shards(work, 1, 1, folder, inventory)
    batch_shards.leave_summary(shards.shards[0].address, BatchSummary(status="budget"), inventory)
    assert shards._done(shards.shards[0]) and not shards._done(shards.shards[0], finished=True)

    class Run:
        id, name = uuid4(), "shard"

    async def run_deployment(*arguments: Any, **options: Any) -> Run:
        return Run()

    monkeypatch.setattr(batch_shards, "arun_deployment", run_deployment)
    monkeypatch.setattr(batch_shards, "get_run_logger", lambda: logging.getLogger("test"))
    shards._reserve(shards.shards[0])
    assert await shards._start(shards.shards[0]) == Run.id
    assert shards._done(shards.shards[0]) is None


@pytest.mark.parametrize(
    ("needed", "at_once"), [([3, 9, 1, 1, 1, 1], 1), ([1, 1, 1, 1, 1, 20], 1), ([20, 20, 20, 20, 20, 20], 4)]
)
@pytest.mark.timeout(60)
async def test_a_run_that_ends_makes_room_and_what_it_leaves_is_for_others(tmp_path, monkeypatch, needed, at_once):
    """Six parts, two at a time, with 18 calls in all: some need more than their share, others less.

    Where a row takes four calls, a part with less than these ends as it began, and is not started over and over.
    """
    from consensus_flows.blocks.settings import Budget
    from consensus_flows.flows import batch_shards
    from consensus_flows.tasks.batches.addresses import place_of

    work = batch_of(prompts(tmp_path, 12), tmp_path / "out.jsonl", budget=Budget(max_calls=18))
    inventory, folder = work.source.inspect(), place_of(str(tmp_path), "output")
    going: dict[UUID, tuple[int, str]] = {}
    spent, most = [0] * 6, [0]

    class Client:
        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

        async def read_flow_runs(self, **_: object) -> list[FlowRun]:
            return []

        async def read_flow_run(self, id: UUID) -> Any:
            number, output = going.pop(id)
            left = spent[number - 1] < needed[number - 1]
            summary = BatchSummary(status="budget" if left else "finished", error="used up" if left else None)
            batch_shards.leave_summary(output, summary, inventory, (spent[number - 1], 0, 0.0))
            return SimpleNamespace(state=Completed(), work_pool_name=None)

    async def run_deployment(*_: object, parameters: dict[str, Any], **options: object) -> Any:
        run, number = SimpleNamespace(id=uuid4(), name="run"), parameters["shard"]
        going[run.id] = number, parameters["output"]
        most.append(len(going))
        more = min(needed[number - 1], parameters["budget"]["max_calls"]) - spent[number - 1]
        spent[number - 1] += more // at_once * at_once
        reserved = sum(spent)
        assert reserved <= 18
        return run

    monkeypatch.setattr(batch_shards, "arun_deployment", run_deployment)
    monkeypatch.setattr(batch_shards, "get_client", Client)
    monkeypatch.setattr(batch_shards, "PAUSE_S", 0.0)
    monkeypatch.setattr(batch_shards, "get_run_logger", lambda: logging.getLogger("test"))
    shards = batch_shards._Shards(work, 2, 6, folder, inventory)
    await shards.finish()
    assert max(most) == 2 and not going
    ended = [(shard.done or {})["status"] for shard in shards.shards]
    if at_once > 1:
        assert set(ended) == {"budget"} and 18 - at_once < sum(spent) <= 18
    elif sum(needed) <= 18:
        assert spent == needed and set(ended) == {"finished"}, "what some leave is enough for the others"
    else:
        assert sum(spent) == 18 and ended.count("budget") == 1, "all of the budget is used, and no more"


@pytest.mark.parametrize(
    ("limit", "spent"),
    [({"max_calls": 2}, (2, 0, 0.0)), ({"max_tokens": 9}, (1, 10, 0.0)), ({"max_cost_usd": 1}, (1, 9, 1.2))],
)
def test_a_part_for_which_nothing_is_left_may_call_nobody(tmp_path, limit, spent):
    """The last call of another part took more than was reserved; or the batch is run again after its budget has ended."""
    from consensus_flows.blocks.settings import Budget
    from consensus_flows.flows import batch_shards
    from consensus_flows.tasks.addresses import place_of

    work = batch_of(prompts(tmp_path, 2), tmp_path / "out.jsonl", budget=Budget(**limit))
    parts = batch_shards._Shards(work, 2, 2, place_of(str(tmp_path), "output"), work.source.inspect())
    parts.shards[0].spent, parts.shards[0].done = spent, {"status": "finished"}
    parts._waiting.append(parts.shards[1])
    parts._reserve(parts.shards[1])
    assert parts.shards[1].share == Budget(max_tokens=1)


@pytest.mark.usefixtures("results")
async def test_parts_are_merged_in_the_order_of_the_input(vendors, tmp_path):
    from consensus_flows.tasks.batches.output import merged
    from consensus_flows.tasks.batches.totals import Totals

    serve(vendors)
    source = prompts(tmp_path, 7)
    parts = [tmp_path / f"part-{number}.jsonl" for number in range(3)]
    for number, part in enumerate(parts):
        done = await run_batch(batch_of(source, part, part=(number, 3)))
        assert done.rows == [3, 2, 2][number]
    totals = Totals()
    assert [one.result["id"] for one in merged([str(part) for part in parts], totals)] == [f"r{n}" for n in range(7)]
    assert totals.sent == 7 == vendors.count()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the parent says."""
    found: list[Any] = []

    async def emit(event: str, value: Any) -> None:
        found.append((event, value))

    monkeypatch.setattr("consensus_flows.flows.batch_shards.emit", emit)
    return found


@pytest.fixture
async def waiting(
    vendors: LoopbackVendors, results: str, told: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """A deployment that no worker serves, and two shards that wait for one; nothing is patient here."""
    for name, seconds in {"PAUSE_S": 0.1, "SILENT_S": 0.5, "WAITING_S": 1.0}.items():
        monkeypatch.setattr(f"consensus_flows.flows.batch_shards.{name}", seconds)
    await asyncio.to_thread(
        prefect, "work-pool", "create", POOL, "--type", "process", "--overwrite", environment=environment_of(tmp_path)
    )
    await deployed()
    out = tmp_path / "out.jsonl"
    parent = asyncio.create_task(batch(str(prompts(tmp_path, 4)), str(out), flow="vote", config=CONFIG, shards=2))
    runs = await _so_many(out, 2)
    yield out, runs
    parent.cancel()
    with suppress(asyncio.CancelledError):
        await parent


async def _so_many(out: Path, number: int) -> list[FlowRun]:
    for _ in range(200):
        if len(runs := await shard_runs(out)) == number:
            return runs
        await asyncio.sleep(0.1)
    pytest.fail(f"there are not {number} runs")


@pytest.mark.timeout(180)
async def test_a_run_without_a_sign_of_life_is_started_again(waiting):
    out, runs = waiting
    async with get_client() as client:
        await client.set_flow_run_state(runs[0].id, Running(), force=True)
        after = await _so_many(out, 3)
        assert [shard(run) for run in after].count(shard(runs[0])) == 2
        lost = await client.read_flow_run(runs[0].id)
        assert lost.state and lost.state.is_crashed() and lost.state.message == "no sign of life"
        other = await client.read_flow_run(runs[1].id)
        assert other.state and other.state.is_scheduled(), "the one that waits for a worker may wait"


@pytest.mark.timeout(180)
async def test_without_a_worker_it_says_that_it_waits_for_one(waiting, told):
    for _ in range(1000):
        if notices := [text for event, text in told if event == "notice"]:
            break
        await asyncio.sleep(0.1)
    text = notices[0]
    assert "2 of 2 shards wait for a worker" in text
    assert f"prefect worker start --pool {POOL}" in text


@pytest.mark.timeout(180)
async def test_a_run_that_somebody_deletes_is_started_again(waiting):
    out, runs = waiting
    async with get_client() as client:
        await client.delete_flow_run(runs[0].id)
        for _ in range(200):
            after = await shard_runs(out)
            if len(after) == 2 and runs[0].id not in {run.id for run in after}:
                break
            await asyncio.sleep(0.1)
    assert {shard(run) for run in after} == {shard(run) for run in runs} == {1, 2}


@pytest.mark.timeout(180)
async def test_a_server_that_is_away_for_a_moment_ends_nothing(waiting):
    out, runs = waiting
    asked: list[object] = []

    async def away(self: object, run: object) -> FlowRun:
        asked.append(run)
        raise ConnectError("All connection attempts failed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefect.client.orchestration.PrefectClient.read_flow_run", away)
        for _ in range(400):
            if len(asked) < 4:
                await asyncio.sleep(0.05)
    assert len(asked) >= 4
    async with get_client() as client:
        await client.set_flow_run_state(runs[0].id, Running(), force=True)
    assert len(await _so_many(out, 3)) == 3, "it goes on looking"
