"""The task that asks: the cache, single flight, pacing, retries and what survives a kill."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_RESULTS_LOCAL_STORAGE_PATH
from pydantic import SecretStr

from consensus_flows.blocks import OpenAICompatibleCredentials, OpenAICredentials
from consensus_flows.tasks.calls import providers
from consensus_flows.tasks.calls.ask import _under_way, ask, ask_task, once
from consensus_flows.tasks.calls.call import Caller
from consensus_flows.tasks.calls.pace import Pace, _paces, pace_of
from consensus_flows.tasks.calls.providers import _clients, client_of, close_clients
from consensus_flows.tasks.calls.request import Answer, Message, Request
from consensus_flows.tasks.errors import ConfigurationError, ModelError
from consensus_flows.tasks.judging.judgements import Extraction
from tests.kits import processes
from tests.kits.asking import VENDORS, answer, asking, file_of, forget, outcome, question, stored
from tests.vendors import LoopbackVendors, Reply, faults

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def server(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackVendors]:
    with asking(tmp_path_factory.mktemp("asked")) as vendors:
        yield vendors


def times(server: LoopbackVendors, request: Request) -> list[float]:
    return [seen.at for seen in server.seen if seen.model == request.model]


async def arrived(server: LoopbackVendors, request: Request) -> None:
    while server.count(request.model) == 0:  # noqa: ASYNC110  # the server counts in a thread of its own
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("provider", VENDORS)
async def test_the_second_time_nothing_is_sent(provider: str, server: LoopbackVendors) -> None:
    request = question(provider)
    first = await answer(request)
    second, book = await outcome(request)
    assert second == first
    assert book.attempts == []
    # What is called otherwise, or may wait longer, is the same question.
    assert await answer(request.model_copy(update={"label": "again", "timeout": 7.0})) == first
    assert server.count(request.model) == 1


async def test_fresh_asks_again_and_replaces(server: LoopbackVendors) -> None:
    request = question()
    server.script(request.model, Reply(text="one"), Reply(text="two"), Reply(text="three"))
    assert (await answer(request)).text == "one"
    assert (await answer(request, fresh=True)).text == "two"
    assert (await answer(request)).text == "two"
    assert (await answer(request, fresh=True)).text == "three"
    assert server.count(request.model) == 3


async def test_a_fresh_failure_leaves_the_stored_answer(server: LoopbackVendors) -> None:
    request = question()
    server.script(request.model, Reply(text="one"), faults.bad_request())
    await answer(request)
    error, _ = await outcome(request, fresh=True)
    assert isinstance(error, ModelError)
    assert (await answer(request)).text == "one"


async def test_samples_differ(server: LoopbackVendors) -> None:
    request = question()
    server.script(request.model, Reply(text="one"), Reply(text="two"))
    other = request.model_copy(update={"sample": 1})
    assert [(await answer(one)).text for one in (request, other, request, other)] == ["one", "two", "one", "two"]
    assert server.count(request.model) == 2


async def test_a_half_written_answer_is_asked_for_again(server: LoopbackVendors) -> None:
    request = question()
    before = set(stored())
    await answer(request)
    (name,) = set(stored()) - before
    path = file_of(name)
    half = path.read_bytes()[:-20]
    path.write_bytes(half)
    await answer(request)
    await answer(request)
    assert path.with_name(f"{name}.rejected").read_bytes() == half
    assert server.count(request.model) == 2


async def test_answers_lie_in_many_folders_and_those_of_an_earlier_version_are_found(server: LoopbackVendors) -> None:
    request, before = question(), set(stored())
    first = await answer(request)
    (name,) = set(stored()) - before
    path = file_of(name)
    results = Path(PREFECT_RESULTS_LOCAL_STORAGE_PATH.value())
    assert path == results / name.removeprefix("answer-")[:2] / name
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.rename(results / name)
    assert await answer(request) == first and server.count(request.model) == 1
    refreshed, book = await outcome(request, fresh=True)
    assert isinstance(refreshed, Answer) and book.stored_at == path, "a new one goes where new ones are"
    assert path.exists() and server.count(request.model) == 2


async def test_identical_calls_at_once_are_sent_once(server: LoopbackVendors) -> None:
    request = question()
    server.script(request.model, Reply(text="shared", delay=0.3))
    answers = await asyncio.gather(*(outcome(request) for _ in range(4)))
    assert [found.text for found, _ in answers] == ["shared"] * 4
    assert sorted(len(book.attempts) for _, book in answers) == [0, 0, 0, 1]
    assert server.count(request.model) == 1
    assert _under_way == {}


async def test_a_failure_is_shared(server: LoopbackVendors) -> None:
    request = question()
    server.script(request.model, faults.after(0.3, faults.unauthorized()))
    found = await asyncio.gather(*(outcome(request) for _ in range(4)))
    assert [error.kind for error, _ in found] == ["auth"] * 4
    assert server.count(request.model) == 1
    assert _under_way == {}


async def test_when_the_first_is_cancelled_another_sends(server: LoopbackVendors) -> None:
    request = question()
    server.script(request.model, faults.after(0.5, Reply(text="lost")), Reply(text="shared", delay=0.2))
    first = asyncio.create_task(outcome(request))
    await arrived(server, request)
    others = [asyncio.create_task(outcome(request)) for _ in range(3)]
    await asyncio.sleep(0.2)
    first.cancel()
    assert [found.text for found, _ in await asyncio.gather(*others)] == ["shared"] * 3
    with pytest.raises(asyncio.CancelledError):
        await first
    assert server.count(request.model) == 2
    assert _under_way == {}


async def test_when_all_are_cancelled_nobody_sends_again(server: LoopbackVendors) -> None:
    request = question()
    server.script(request.model, then=faults.after(5, Reply(text="late")))
    calls = [asyncio.create_task(outcome(request)) for _ in range(3)]
    await arrived(server, request)
    await asyncio.sleep(0.2)
    for call in calls:
        call.cancel()
    done, pending = await asyncio.wait(calls, timeout=3)
    assert pending == set()
    assert all(call.cancelled() for call in done)
    assert server.count(request.model) == 1
    assert _under_way == {}


async def test_an_answer_not_stored_yet_is_shared() -> None:
    """Prefect stores an answer after the call has ended; who looked before that must not pay again."""

    async def send() -> Answer:
        return Answer(text=str(time.time()))

    looked = time.time()
    first = await once("key", send, looked)
    assert await once("key", send, looked) == first
    assert await once("key", send, time.time() + 0.001) != first


async def test_cancelling_frees_the_slot_and_is_booked(server: LoopbackVendors) -> None:
    request = question()
    server.script(request.model, then=faults.after(5, Reply(text="late")))
    call = asyncio.create_task(Caller()(request))
    await arrived(server, request)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    endpoint = await providers.endpoint_of(request.provider, request.model)
    assert pace_of(endpoint).under_way.total() == 0


@pytest.mark.parametrize("provider", VENDORS)
async def test_retry_after_holds_back_the_others_on_the_same_credentials(
    provider: str, server: LoopbackVendors
) -> None:
    await asyncio.gather(answer(question(provider)), answer(question("openrouter")))  # the first call imports an SDK
    limited, same, other = question(provider), question(provider), question("openrouter")
    server.script(limited.model, faults.rate_limit(2), Reply(text="Because."))
    call = asyncio.create_task(answer(limited))
    await arrived(server, limited)
    await asyncio.sleep(0.1)
    await asyncio.gather(answer(same), answer(other), call)
    first, second = times(server, limited)
    assert second - first >= 2
    assert times(server, same)[0] - first >= 1.99
    assert times(server, other)[0] < second, "other credentials are not held back"


async def saved(name: str, url: str, key: str = "sk-one", **limits: Any) -> None:
    block = OpenAICompatibleCredentials(base_url=url, api_key=SecretStr(key), **limits)
    await block.save(name, overwrite=True)
    providers._saved.clear()


async def test_concurrency_limit(server: LoopbackVendors) -> None:
    await saved("narrow", server.openai_url, max_concurrency=2)
    server.reset()
    server.together = 2
    server.script("*", then=Reply(text="x", delay=0.1))
    requests = [question("narrow", model="narrow", sample=n) for n in range(6)]
    await asyncio.gather(*(answer(request) for request in requests))
    assert server.in_flight_peak == 2
    server.reset()
    # Saved with another limit, followed at once.
    await saved("narrow", server.openai_url, max_concurrency=4)
    server.together = 4
    server.script("*", then=Reply(text="x", delay=0.1))
    await asyncio.gather(*(answer(question("narrow", "And?", model="narrow", sample=n)) for n in range(6)))
    assert server.in_flight_peak == 4
    server.reset()


async def test_requests_per_minute(server: LoopbackVendors) -> None:
    await saved("slow", server.openai_url, requests_per_minute=300)
    await answer(question("slow", model="connects"))
    requests = [question("slow", model="slow", sample=n) for n in range(5)]
    await asyncio.gather(*(answer(request) for request in requests))
    starts = sorted(times(server, requests[0]))
    assert 0.7 <= starts[-1] - starts[0] < 5


async def test_calls_start_apart() -> None:
    # Not seen at a server: on a busy machine one arrives late and the next on time.
    pace = Pace(None, 300)

    async def began() -> float:
        async with pace.turn() as turn:
            return turn.began

    starts = sorted(await asyncio.gather(*(began() for _ in range(5))))
    assert min(b - a for a, b in pairwise(starts)) >= 0.199


async def test_a_hold_put_off_is_waited_out() -> None:
    pace = Pace(4, None)
    pace.hold(0.1)
    started = time.monotonic()

    async def turn() -> float:
        async with pace.turn():
            return time.monotonic() - started

    waiting = asyncio.create_task(turn())
    await asyncio.sleep(0.05)
    pace.hold(0.2)
    pace.hold(0.01)
    assert await waiting >= 0.25
    assert pace.held_s == 0


async def test_two_accounts_do_not_share(server: LoopbackVendors) -> None:
    await saved("account-one", server.openai_url, "sk-one")
    await saved("account-two", server.openai_url, "sk-two")
    one = question("account-one")
    two = one.model_copy(update={"provider": "account-two"})
    server.script(one.model, Reply(text="one"), Reply(text="two"))
    assert [(await answer(request)).text for request in (one, two, one, two)] == ["one", "two", "one", "two"]
    keys = [seen.headers["authorization"] for seen in server.seen if seen.model == one.model]
    assert keys == ["Bearer sk-one", "Bearer sk-two"]


async def test_another_address_is_another_key(server: LoopbackVendors) -> None:
    await saved("moving", server.openai_url)
    request = question("moving")
    await answer(request)
    await saved("moving", server.openrouter_url)
    await answer(request)
    paths = [seen.path for seen in server.seen if seen.model == request.model]
    assert paths == ["/v1/chat/completions", "/openrouter/api/v1/chat/completions"]


async def test_another_address_is_noticed_after_a_while(
    server: LoopbackVendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key must go by the address that the call goes by, or the answer is stored under the wrong one."""
    await saved("moved", server.openai_url)
    request = question("moved")
    await answer(request)
    block: Any = OpenAICompatibleCredentials(base_url=server.openrouter_url, api_key=SecretStr("sk-one"))
    await block.save("moved", overwrite=True)
    monkeypatch.setattr(providers, "REMEMBER_S", 0.0)
    await answer(request)
    await answer(request)
    assert server.count(request.model) == 2


async def test_a_saved_block_comes_before_the_environment(server: LoopbackVendors) -> None:
    block: Any = OpenAICredentials(base_url=server.openai_url, api_key=SecretStr("sk-saved"))
    await block.save("openai", overwrite=True)
    forget()
    try:
        request = question()
        await answer(request)
        (seen,) = [seen for seen in server.seen if seen.model == request.model]
        assert seen.headers["authorization"] == "Bearer sk-saved"
    finally:
        await OpenAICredentials.adelete("openai")
        forget()


async def test_one_name_for_two_accounts_is_an_error(server: LoopbackVendors) -> None:
    await saved("twice", server.openai_url)
    block: Any = OpenAICredentials(base_url=server.openai_url, api_key=SecretStr("sk-saved"))
    await block.save("twice", overwrite=True)
    error, _ = await outcome(question("twice"))
    assert isinstance(error, ConfigurationError)
    assert "'twice'" in error.message


@pytest.mark.parametrize(
    ("provider", "said"), [("nowhere", "unknown provider 'nowhere'"), ("huggingface", "no key for huggingface")]
)
async def test_a_provider_that_cannot_be_asked(
    provider: str, said: str, server: LoopbackVendors, caplog: pytest.LogCaptureFixture
) -> None:
    error, _ = await outcome(question(provider))
    assert isinstance(error, ConfigurationError)
    assert error.message.startswith(said)
    assert "computing cache key" not in caplog.text


@pytest.mark.parametrize("value", ["many", "-1", "nan", "inf"])
def test_a_setting_that_is_no_number(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSENSUS_RETRIES", value)
    with pytest.raises(ConfigurationError, match="CONSENSUS_RETRIES"):
        ask_task()


async def test_attempts_can_be_seen(server: LoopbackVendors) -> None:
    request = question(label="openai/gpt-x #2 · iteration 1")
    server.script(request.model, faults.server_error(), faults.overloaded(), Reply(text="Because."))

    @flow
    async def around() -> Answer:
        found: Answer = await ask(request)
        return found

    state: Any = await around(return_state=True)
    async with get_client() as client:
        for _ in range(100):
            runs = [
                run
                for run in await client.read_task_runs()
                if run.flow_run_id == state.state_details.flow_run_id and run.state and run.state.is_completed()
            ]
            if runs:
                break
            await asyncio.sleep(0.1)
    (run,) = runs
    assert run.name == "ask openai/gpt-x #2 · iteration 1"
    assert run.run_count == 3


async def test_a_reader_that_refuses(server: LoopbackVendors) -> None:
    """What cannot be read is not stored, is not asked for again here, and keeps its text."""
    request = question(reader=Extraction.reader, response_schema=Extraction.json_schema())
    server.script(request.model, Reply(text="no JSON at all"), Reply(text='{"answer": 1}'))
    error, book = await outcome(request)
    assert isinstance(error, ModelError)
    assert (error.kind, error.text, error.retryable) == ("malformed", "no JSON at all", False)
    assert len(book.attempts) == 1
    assert book.attempts[0].usage is not None
    assert (await answer(request)).text == '{"answer": 1}'


KILLED = """
import asyncio, os, signal, sys
from prefect import task
from consensus_flows.tasks.calls.ask import ask
from consensus_flows.tasks.calls.request import Request

@task
async def around():
    await ask(Request.model_validate_json(sys.argv[1]))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(around())
"""


async def test_a_paid_answer_survives_kill_9(server: LoopbackVendors) -> None:
    request = question()
    environment = os.environ | {
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(PREFECT_RESULTS_LOCAL_STORAGE_PATH.value()),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", KILLED, request.model_dump_json()]
    ended = await asyncio.to_thread(processes.run, command, env=environment, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert server.count(request.model) == 1
    await answer(request)
    assert server.count(request.model) == 1


async def test_inside_another_task_it_is_stored_at_once(server: LoopbackVendors) -> None:
    request = question()
    before = set(stored())

    @task
    async def around() -> int:
        await ask(request)
        return len(set(stored()) - before)

    assert await around() == 1


async def test_caller_turns_failures_into_data(server: LoopbackVendors) -> None:
    request = question()
    server.script(request.model, faults.unauthorized(), Reply(text="Because."))
    response = await Caller()(request, instance=2)
    assert response.error is not None
    assert (response.member, response.error.kind, response.attempts) == (f"{request.name}#2", "auth", 1)
    assert (response.cost_usd, response.possibly_billed, response.cached) == (0.0, 0, False)
    response = await Caller()(request)
    assert (response.text, response.attempts, response.cached) == ("Because.", 1, False)
    response = await Caller()(request)
    assert (response.text, response.attempts, response.cached, response.cost_usd) == ("Because.", 0, True, 0.0)
    response = await Caller(fresh=True)(request)
    assert (response.attempts, response.cached) == (1, False)
    response = await Caller()(question("nowhere"))
    assert response.error is not None
    assert (response.error.kind, response.attempts) == ("bad_request", 0)


async def test_caller_counts_what_got_lost(server: LoopbackVendors) -> None:
    request = question(timeout=0.2)
    server.script(request.model, faults.hang(), Reply(text="Because."))
    response = await Caller()(request)
    assert (response.text, response.attempts, response.possibly_billed) == ("Because.", 2, 1)


async def test_clients_are_shared_within_a_loop_only(server: LoopbackVendors) -> None:
    request = question()
    endpoint = await providers.endpoint_of(request.provider, request.model)
    assert await client_of(endpoint, "a") is await client_of(endpoint, "b")
    here = await client_of(endpoint, "a")

    def elsewhere() -> Any:
        async def use() -> Any:
            client = await client_of(endpoint, "a")
            pace_of(endpoint)
            await answer(request)
            found, asked = client, len(_clients)
            await close_clients()
            return found, asked

        return asyncio.run(use())

    there, _ = await asyncio.to_thread(elsewhere)
    assert there is not here

    def forgetful() -> None:
        async def use() -> None:
            await answer(question())

        asyncio.run(use())

    await asyncio.to_thread(forgetful)
    assert await client_of(endpoint, "a") is here
    pace_of(endpoint)
    assert not [loop for loop in (*_clients, *_paces) if loop.is_closed()]


async def test_a_changed_key_is_used_at_once(server: LoopbackVendors, monkeypatch: pytest.MonkeyPatch) -> None:
    await answer(question())
    monkeypatch.setenv("OPENAI_API_KEY", "sk-changed")
    request = question()
    await answer(request)
    (seen,) = [seen for seen in server.seen if seen.model == request.model]
    assert seen.headers["authorization"] == "Bearer sk-changed"


async def test_nothing_of_the_sdk_retries(server: LoopbackVendors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSENSUS_RETRIES", "0")
    for provider in VENDORS:
        request = question(provider)
        server.script(request.model, then=faults.server_error())
        await outcome(request)
        assert server.count(request.model) == 1


@pytest.mark.parametrize("provider", VENDORS)
async def test_conversation(provider: str, server: LoopbackVendors) -> None:
    messages = (
        Message(role="system", content="Be brief."),
        Message(role="user", content="One?"),
        Message(role="assistant", content="1"),
        Message(role="user", content="Two? ¿é漢😀"),
    )
    request = question(provider).model_copy(update={"messages": messages})
    await answer(request)
    (seen,) = [seen for seen in server.seen if seen.model == request.model]
    assert seen.system == "Be brief."
    assert [(one["role"], one["content"]) for one in seen.messages] == [(m.role, m.content) for m in messages[1:]]
