"""The rate of calls adapts to how fast the Prefect server answers."""

import asyncio
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from consensus_flows.tasks.calls import pacing
from consensus_flows.tasks.calls.pacing import FIRST_CALLS, MOST_SPACING_S, QUICK_S, ServerPace, spacing

SLOW_S = 0.15


def test_calls_are_spaced_by_what_the_server_takes_too_long() -> None:
    assert [spacing(latency) for latency in (0.0, 0.002, QUICK_S)] == [0, 0, 0], "an idle server costs nothing"
    assert 0 < spacing(0.1) < spacing(0.2) <= MOST_SPACING_S
    assert spacing(60.0) == MOST_SPACING_S, "a batch never stands still"


async def _seconds(pace: ServerPace, calls: int) -> float:
    started = time.monotonic()
    await asyncio.gather(*(pace.turn() for _ in range(calls)))
    return time.monotonic() - started


async def test_a_question_is_not_paced_and_a_batch_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "PROBE_EVERY_S", 0.0)
    probes: list[float] = []

    def slow() -> float:
        probes.append(SLOW_S)
        return SLOW_S

    pace = ServerPace(slow)
    await _seconds(pace, FIRST_CALLS)
    assert (probes, pace.latency) == ([], 0), "a single question neither asks nor waits"
    await pace.turn()
    assert pace.latency == 0, "one slow answer is chance"
    await pace.turn()
    assert pace.latency == SLOW_S
    monkeypatch.setattr(pacing, "PROBE_EVERY_S", 60.0)
    await pace.turn()
    assert await _seconds(pace, 5) >= 5 * spacing(SLOW_S)
    assert len(probes) == 3, "no more than one in so many seconds asks"


async def test_the_pace_is_that_of_before_when_the_server_is_quick_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "PROBE_EVERY_S", 0.0)
    answers = [SLOW_S, SLOW_S, 0.002]
    pace = ServerPace(lambda: answers.pop(0))
    pace._calls = FIRST_CALLS
    for latency in (0.0, SLOW_S, 0.002):
        await pace.turn()
        assert pace.latency == latency


async def test_a_server_that_is_far_away_is_not_a_busy_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "PROBE_EVERY_S", 0.0)
    answers = [SLOW_S, SLOW_S, 0.5, 0.5]
    pace = ServerPace(lambda: answers.pop(0), far=lambda: True)
    pace._calls = FIRST_CALLS
    delays = []
    for _ in range(4):
        await pace.turn()
        delays.append(round(pace.delay, 3))
    assert delays == [0, 0, 0, 0.5 - SLOW_S]


@pytest.fixture
def slow_server() -> Iterator[ThreadingHTTPServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/api/health"
            time.sleep(0.1)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"true")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_the_time_is_that_of_a_health_check(slow_server: ThreadingHTTPServer) -> None:
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{slow_server.server_port}/api"}):
        pacing._client.cache_clear()
        assert pacing._answer_time() >= 0.1
        slow_server.shutdown()
        slow_server.server_close()
        assert pacing._answer_time() == 0, "a server that is away holds nobody up"
    pacing._client.cache_clear()
