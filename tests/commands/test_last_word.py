"""A command whose work is done ends, with its result, when the Prefect server stays away."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.last_word import LastWord
from deployments.terminal import Exit

ROOT = Path(__file__).parent.parent.parent
DONE = """
import asyncio, threading, time
from deployments.last_word import LastWord
from deployments.terminal import Exit, put
last = LastWord({url!r}, "ended", lambda value: put(value) or Exit.BUDGET, patience=1.0)
async def main():
    await last.told("iterated", "not this")
    await last.told("ended", "the answer")
    await asyncio.sleep({hangs})  # as Prefect waits for its server
asyncio.run(main())
last.report("the answer")
{after}
"""
THREAD = "threading.Thread(target=time.sleep, args=(100,)).start()  # as Prefect's threads, for which the process waits"


def nobody() -> str:
    """An address where nobody answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/api"


def run(hangs: float, after: str) -> "subprocess.CompletedProcess[str]":
    code = DONE.format(url=nobody(), hangs=hangs, after=after)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


def test_a_run_that_waits_for_its_server_is_reported_and_the_process_ends():
    done = run(100, "")
    assert (done.returncode, done.stdout) == (Exit.BUDGET, "the answer\n"), done.stderr
    assert "the Prefect server is away" in done.stderr


def test_a_process_that_waits_for_prefects_threads_ends():
    done = run(0, THREAD)
    assert (done.returncode, done.stdout, done.stderr) == (Exit.BUDGET, "the answer\n", "")


def test_a_program_that_goes_on_after_the_command_is_left_alone():
    done = run(0, "time.sleep(8); print('still here')")
    assert (done.returncode, done.stdout) == (0, "the answer\nstill here\n"), done.stderr


def test_an_error_of_the_end_is_forgiven_only_when_the_work_was_done_and_the_server_is_away():
    last = LastWord(nobody(), "ended", lambda value: Exit.ANSWER, patience=100)
    error = RuntimeError("Failed to reach API")
    with pytest.raises(RuntimeError):
        last.value_despite(error)
    asyncio.run(last.told("ended", "the record"))
    assert last.value_despite(error) == "the record"


def test_an_error_is_none_of_the_servers_while_it_answers(prefect_server):
    from prefect.settings import PREFECT_API_URL

    last = LastWord(PREFECT_API_URL.value(), "ended", lambda value: Exit.ANSWER, patience=100)
    asyncio.run(last.told("ended", "the record"))
    with pytest.raises(RuntimeError):
        last.value_despite(RuntimeError("our own"))
