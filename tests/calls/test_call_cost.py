"""What a call leaves behind and what it does without: a batch makes hundreds of thousands of them in one flow run."""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas import TaskRun
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.context import FlowRunContext
from prefect.events.worker import EventsWorker
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultRecord, ResultRecordMetadata
from prefect.runtime import flow_run
from prefect.serializers import JSONSerializer
from prefect.settings import PREFECT_RESULTS_LOCAL_STORAGE_PATH

from consensus_flows.blocks import Budget
from consensus_flows.blocks.http_client import ModelClient
from consensus_flows.tasks.calls import task_runs
from consensus_flows.tasks.calls.ask import _ended
from consensus_flows.tasks.calls.budget import spending
from consensus_flows.tasks.calls.call import Caller
from consensus_flows.tasks.calls.pacing import _server, drained, throttle
from consensus_flows.tasks.calls.request import Answer
from consensus_flows.tasks.calls.storage import AT_HAND, PrivateFolder
from consensus_flows.tasks.errors import ConfigurationError
from tests.kits.asking import asking, question
from tests.vendors import LoopbackVendors, Reply, faults


@pytest.fixture(scope="module")
def server(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackVendors]:
    with asking(tmp_path_factory.mktemp("cost")) as vendors:
        yield vendors


async def test_a_flow_run_does_not_remember_its_calls(server: LoopbackVendors) -> None:
    wrong = question()
    server.script(wrong.model, then=faults.bad_request())
    good = question()
    remembered: list[int] = []

    @flow
    async def asks() -> None:
        for request in (good, wrong, good):  # answered, failed, and from the cache
            await Caller()(request)
            context = FlowRunContext.get()
            assert context is not None
            remembered.append(len(context.run_results) + len(context.task_run_assets))

    await asks()
    assert remembered == [0, 0, 0]
    assert server.count(good.model) == 1


async def _task_runs(flow_run_id: Any, number: int) -> dict[str, tuple[TaskRun, list[str]]]:
    """The task runs of a flow run by name, with the states that the server was told of, once it knows how all have ended."""
    async with get_client() as client, asyncio.timeout(30):
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
        while True:
            runs = await client.read_task_runs(flow_run_filter=chosen)
            if len(runs) == number and all(run.state and run.state.is_final() for run in runs):
                break
            await asyncio.sleep(0.2)
        states = [sorted(await client.read_task_run_states(run.id), key=lambda state: state.timestamp) for run in runs]
    return {run.name: (run, [state.type.value for state in of]) for run, of in zip(runs, states, strict=True)}


async def test_every_call_is_a_task_run_and_a_short_one_is_one_event(server: LoopbackVendors) -> None:
    @flow
    async def asks() -> Any:
        responses = await asyncio.gather(*(Caller()(question(label=f"call {number}")) for number in range(5)))
        assert all(response.answered for response in responses)
        return flow_run.id

    found = await _task_runs(await asks(), 5)
    assert set(found) == {f"ask call {number}" for number in range(5)}
    for run, states in found.values():
        assert states == ["COMPLETED"], "when it started is in the event of its end"
        assert run.start_time and run.end_time and run.run_count == 1
        assert run.start_time < run.end_time
        assert run.total_run_time.total_seconds() > 0


async def test_a_call_that_lasts_or_fails_is_told_of_when_it_runs(
    server: LoopbackVendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_runs, "LASTS_S", 0.05)
    slow, wrong, again = question(label="slow"), question(label="wrong"), question(label="again")
    server.script(slow.model, then=Reply(delay=0.3))
    server.script(wrong.model, then=faults.bad_request())
    server.script(again.model, faults.server_error(), Reply(text="now"))

    @flow
    async def asks() -> Any:
        await asyncio.gather(*(Caller()(request) for request in (slow, wrong, again)))
        return flow_run.id

    found = {name: states for name, (_, states) in (await _task_runs(await asks(), 3)).items()}
    assert found["ask slow"] == ["RUNNING", "COMPLETED"]
    assert found["ask wrong"] == ["RUNNING", "FAILED"]
    assert found["ask again"] == ["RUNNING", "SCHEDULED", "RUNNING", "COMPLETED"]


async def test_of_many_calls_at_once_the_server_is_told_later(
    server: LoopbackVendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_runs, "LASTS_S", 0.05)
    monkeypatch.setattr(task_runs, "MOST_TOLD", 0.05)
    model = question().model
    server.script(model, then=Reply(delay=0.3))

    @flow
    async def asks() -> Any:
        await Caller()(question(model=model, label="one of many"))
        return flow_run.id

    assert [states for _, states in (await _task_runs(await asks(), 1)).values()] == [["COMPLETED"]]
    assert task_runs.CallEngine.under_way == 0


async def test_the_connections_of_many_calls_at_once_are_kept() -> None:
    with LoopbackVendors(delay=0.2) as vendors:
        url = f"{vendors.openai_url}/chat/completions"
        body = {"model": "any", "messages": [{"role": "user", "content": "hello"}]}
        async with ModelClient(vendors.openai_url, timeout=30, max_response_mb=1) as client:
            await asyncio.gather(*(client.post(url, json=body) for _ in range(120)))
            await asyncio.sleep(0.2)
            assert len(vendors._connections) == 120


async def test_a_call_that_went_well_is_not_logged_and_one_that_failed_is(
    server: LoopbackVendors, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = question()
    server.script(wrong.model, then=faults.bad_request())

    @flow
    async def asks() -> None:
        await Caller()(question())
        assert "Finished in state" not in caplog.text
        await Caller()(wrong)

    with caplog.at_level(logging.INFO):
        await asks()
    levels = [record.levelno for record in caplog.records if "Finished in state" in record.getMessage()]
    assert levels[0] == logging.ERROR, "the flow's own line comes after it"


def test_a_stored_answer_is_its_owners_alone_and_whole(server: LoopbackVendors) -> None:
    asyncio.run(Caller()(question()))
    folder = Path(PREFECT_RESULTS_LOCAL_STORAGE_PATH.value())
    files = list(folder.rglob("answer-*"))
    assert files
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert not list(folder.glob("*.part"))


async def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = PrivateFolder.of(LocalFileSystem(basepath=str(tmp_path / "results")))
    folder.check("answer-1")
    await folder.awrite_path("answer-1", b"{")
    (tmp_path / "results" / "answer-2").mkdir()
    with pytest.raises(OSError, match="directory"):
        await folder.awrite_path("answer-2", b"{}")
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["answer-1", "answer-2"]
    with pytest.raises(ValueError, match="outside"):
        await folder.awrite_path("../answer-3", b"{}")


async def test_a_link_in_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("{}")
    folder = PrivateFolder.of(LocalFileSystem(basepath=str(tmp_path / "linked")))
    folder.check("answer-1")
    (tmp_path / "linked" / "answer-1").symlink_to(tmp_path / "other")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        folder.check("answer-1")
    assert (tmp_path / "other").exists()


async def test_an_answer_with_half_a_character_is_stored(server: LoopbackVendors) -> None:
    """JSON can spell half a surrogate pair, and a model that is stopped in the middle of an emoji writes one."""
    request = question()
    server.script(request.model, then=Reply(text="half \ud83d of it"))
    first = await Caller()(request)
    assert (first.text, first.warnings) == ("half \ud83d of it", [])
    _ended.clear()
    again = await Caller()(request)
    assert (again.text, again.cached, server.count(request.model)) == (first.text, True, 1)


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), -1.0, "0.1"])
async def test_a_cost_that_is_no_amount_is_not_known(server: LoopbackVendors, cost: Any) -> None:
    """A sum with a number that is none compares with no limit: a budget would never stop again."""
    request = question(model=f"unknown-{question().model}")
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "cost": cost}
    server.script(request.model, then=Reply(text="fine", usage=usage))
    with spending(Budget(max_calls=1)) as budget:
        response = await Caller()(request)
    assert (response.answered, response.cost_usd, budget.cost_usd) == (True, None, 0.0)


async def test_a_folder_keeps_few_records_at_hand(tmp_path: Path) -> None:
    folder = PrivateFolder.of(LocalFileSystem(basepath=str(tmp_path / "many")))
    folder.check("answer-0")
    # As Prefect writes it.
    content = ResultRecord(
        result=Answer(text="x"), metadata=ResultRecordMetadata(storage_key="x", serializer=JSONSerializer())
    ).serialize()
    for number in range(AT_HAND + 10):
        await folder.awrite_path(f"answer-{number}", content)
    assert len(folder._at_hand) == AT_HAND
    assert await folder.aread_path("answer-0") == content, "what is no longer at hand is read again"


async def test_calls_wait_for_a_server_that_is_behind_but_not_for_ever(server: LoopbackVendors) -> None:
    waiting: Queue[int] = Queue()
    for number in range(20):
        waiting.put(number)
    assert not await drained(waiting, most=10, patience=0.1)

    async def server_takes() -> None:
        while not waiting.empty():
            await asyncio.sleep(0.01)
            waiting.get()

    took = asyncio.create_task(server_takes())
    assert await drained(waiting, most=10, patience=30)
    assert 0 < waiting.qsize() <= 10
    await took


async def test_the_events_that_are_waited_for_are_those_of_prefect(
    server: LoopbackVendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Watched(Queue[Any]):
        def qsize(self) -> int:
            seen.append(super().qsize())
            return seen[-1]

    worker = EventsWorker.instance()
    assert isinstance(worker._queue, Queue), "Prefect keeps its events elsewhere: see tasks/calls/pacing.py"
    monkeypatch.setattr(worker, "_queue", Watched())
    before = _server._calls
    await throttle()
    assert seen == [0]
    assert _server._calls == before + 1, "and how fast the server answers is looked at too"
