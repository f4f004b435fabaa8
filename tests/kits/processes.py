"""Processes that a test starts. They end with the test, even where it fails or they ignore signals."""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from consensus_flows.deployments.commands.operations.up import with_descendants

_started: "list[subprocess.Popen[Any]]" = []


def start(command: Sequence[Any], **options: Any) -> "subprocess.Popen[Any]":
    """Start a process as subprocess.Popen does."""
    _started.append(subprocess.Popen([str(part) for part in command], **options))
    return _started[-1]


def kill(process: "subprocess.Popen[Any]") -> None:
    """Kill a process and all that it has started."""
    if process.poll() is None:
        kill_tree(process.pid)
        process.communicate()


def kill_tree(pid: int) -> None:
    """Kill a process, which may be gone already, and all that it has started."""
    for process in with_descendants(pid):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def kill_all() -> None:
    """Kill what the test has left running."""
    while _started:
        kill(_started.pop())
