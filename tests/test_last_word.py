"""A command whose work is done ends, with its result, when the Prefect server stays away."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.last_word import LastWord
from deployments.terminal import Exit

ROOT = Path(__file__).parent.parent
HANGS = """
import asyncio, time
from deployments.last_word import LastWord
from deployments.terminal import Exit, put
last = LastWord({url!r}, "ended", lambda value: put(value) or Exit.BUDGET, patience=1.0)
async def main():
    await last.told("iterated", "not this")
    await last.told("ended", "the answer")
    await asyncio.sleep(100)  # as Prefect waits for its server
{report}
asyncio.run(main())
"""


def nobody() -> str:
    """An address where nobody answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/api"


@pytest.mark.parametrize("reported", [False, True])
def test_the_result_is_reported_once_and_the_process_ends(reported):
    code = HANGS.format(url=nobody(), report="last.report('the answer'); time.sleep(0)" if reported else "")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == Exit.BUDGET, done.stderr
    assert done.stdout == "the answer\n"
    assert ("the Prefect server is away" in done.stderr) is not reported


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
