"""What came of a command is printed when it is known, and the command ends, whatever the Prefect server does."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from consensus_flows.deployments.last_word import LastWord
from consensus_flows.deployments.terminal import Exit, Stop
from consensus_flows.tasks.watch import emit, watched_by
from tests.kits import processes

ROOT = Path(__file__).parent.parent.parent
DONE = """
import asyncio, threading, time
from consensus_flows.deployments.last_word import LastWord
from consensus_flows.deployments.terminal import Exit, put
last = LastWord({url!r}, "recorded", lambda value: put(value) or Exit.BUDGET, patience=1.0)
async def main():
    await last.on_event("iterated", "not this")
    await last.on_event("recorded", "the answer")
    await asyncio.sleep({hangs})  # as Prefect waits for its server
last.run(main())
{after}
"""
THREAD = "threading.Thread(target=time.sleep, args=(100,)).start()  # as Prefect's threads, for which the process waits"
NOBODY = "http://127.0.0.1:9/api"


@pytest.fixture
def healthy() -> Iterator[str]:
    """A server that says that it is well."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"true")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


def run(url: str, hangs: float, after: str = "") -> "subprocess.CompletedProcess[str]":
    code = DONE.format(url=url, hangs=hangs, after=after)
    return processes.run([sys.executable, "-c", code], cwd=ROOT, text=True, timeout=60)


def test_a_run_that_waits_for_a_server_that_is_away_ends():
    done = run(NOBODY, 100)
    assert (done.returncode, done.stdout) == (Exit.BUDGET, "the answer\n"), done.stderr
    assert "the Prefect server is away" in done.stderr


def test_a_run_that_waits_for_a_server_that_does_not_get_on_ends(healthy):
    done = run(healthy, 100)
    assert (done.returncode, done.stdout) == (Exit.BUDGET, "the answer\n"), done.stderr
    assert "did not record the end of the run" in done.stderr and "away" not in done.stderr


def test_a_process_that_waits_for_prefects_threads_ends():
    done = run(NOBODY, 0, THREAD)
    assert (done.returncode, done.stdout, done.stderr) == (Exit.BUDGET, "the answer\n", "")


def test_a_program_that_goes_on_after_the_command_is_left_alone():
    done = run(NOBODY, 0, "time.sleep(8); print('still here')")
    assert (done.returncode, done.stdout) == (0, "the answer\nstill here\n"), done.stderr


class Reported:
    """What has been reported."""

    def __init__(self, url: str, error: Exception | None = None) -> None:
        self.values: list[str] = []
        self._error = error
        self.last = LastWord(url, "recorded", self._report, patience=100)

    def _report(self, value: str) -> Exit:
        self.values.append(value)
        if self._error is not None:
            raise self._error
        return Exit.BUDGET

    def run(self, *, done: bool = True, error: Exception | None = None) -> Exit:
        async def work() -> str:
            with watched_by(self.last):
                if done:
                    await emit("recorded", "the record")
                    assert self.values == ["the record"], "before Prefect ends the run"
                if error is not None:
                    raise error
            return "what Prefect makes of it"

        return self.last.run(work())


def sick() -> Exception:
    """What Prefect's client raises when its server fails."""
    from prefect.exceptions import PrefectHTTPStatusError

    request = httpx.Request("POST", "http://127.0.0.1:4200/api/flow_runs/1/set_state")
    return PrefectHTTPStatusError("500", request=request, response=httpx.Response(500, request=request))


@pytest.mark.parametrize("error", [sick(), OSError(28, "No space left on device"), None])
def test_it_is_reported_once_whatever_comes_after_it(healthy, error, capsys):
    reported = Reported(healthy)
    assert reported.run(error=error) == Exit.BUDGET
    assert reported.values == ["the record"]
    said = capsys.readouterr().err
    assert ("the work is done" in said) == (error is not None)
    assert ("did not record the end of the run" in said) == isinstance(error, httpx.HTTPError)
    assert "Traceback" not in said


def test_what_ends_the_work_before_it_is_done_is_raised(healthy):
    reported = Reported(healthy)
    with pytest.raises(type(sick())):
        reported.run(done=False, error=sick())
    assert reported.values == []


def test_work_that_tells_nothing_is_reported_at_its_end(healthy):
    reported = Reported(healthy)
    assert reported.run(done=False) == Exit.BUDGET and reported.values == ["what Prefect makes of it"]


@pytest.mark.parametrize(
    ("error", "code"), [(Stop("cannot be written", Exit.NO_ANSWER), Exit.NO_ANSWER), (BrokenPipeError(), Exit.ANSWER)]
)
def test_a_report_that_cannot_be_written_is_no_traceback(healthy, error, code):
    assert Reported(healthy, error).run() == code


def test_an_error_of_the_report_is_not_hidden(healthy):
    with pytest.raises(KeyError):
        Reported(healthy, KeyError("ours")).run()
