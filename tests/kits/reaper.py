"""Ends what the tests have started, and removes their folder, where they are killed and cannot do so themselves.

A process of its own watches theirs. What they have started bears a mark in its environment, which its own children inherit, those
too that have a session of their own.
"""

import atexit
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MARK = "STARTED_BY_TESTS_IN"
"""Its value is the tests' folder."""


def watch(folder: str) -> None:
    """Mark what this process starts from now on, and have it ended and the folder removed when this process ends."""
    os.environ[MARK] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if sys.platform == "linux":
        command = [sys.executable, "-I", __file__, folder, str(os.getpid())]
        atexit.register(
            subprocess.Popen(command, start_new_session=True).kill
        )  # it ends in order, and ends what it started


def marked(folder: str) -> Iterator[int]:
    """The processes that were started by the tests of that folder."""
    mark = f"{MARK}={folder}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has just ended, or is another user's
            if mark in path.read_bytes().split(b"\0") and (pid := int(path.parent.name)) != os.getpid():
                yield pid


def kill(folder: str) -> None:
    """Kill them all, and what they start meanwhile."""
    while left := list(marked(folder)):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def main(folder: str, tests: str) -> None:
    """Wait until the tests have ended, however they do."""
    with suppress(ProcessLookupError):
        select.select([os.pidfd_open(int(tests))], [], [])
    kill(folder)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
