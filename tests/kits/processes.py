"""Processes that a test starts. They end with the test, even where it fails or they ignore signals."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from consensus_flows.deployments.commands.operations.up import with_descendants

_started: "list[subprocess.Popen[Any]]" = []


@cache
def _fork_server() -> socket.socket:
    """Start it when it is first needed; it ends when this socket is closed."""
    ours, its = socket.socketpair()
    command = [sys.executable, "-m", "tests.kits.fork_server", str(its.fileno())]
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "start_new_session": True}
    subprocess.Popen(command, cwd=Path(__file__).parents[2], pass_fds=[its.fileno()], **options)  # type: ignore[call-overload]
    its.close()
    return ours


class Forked(subprocess.Popen[Any]):
    """A Python program that the fork server starts. It is the server's child, so the server says how it ended."""

    def __init__(
        self,
        args: list[str],
        *,
        cwd: Any = None,
        env: Mapping[str, str] = os.environ,
        start_new_session: bool = False,
        **streams: Any,
    ) -> None:
        self._caller, self._its = socket.socketpair()
        asked = {"arguments": args[1:], "cwd": cwd and str(cwd), "env": dict(env), "session": start_new_session}
        self._asked = json.dumps(asked).encode()
        super().__init__(args, **streams)

    def _execute_child(self, *given: Any) -> None:
        pipes = given[10:16]
        streams = [own if pipe == -1 else pipe for own, pipe in enumerate((pipes[0], pipes[3], pipes[5]))]
        socket.send_fds(_fork_server(), [b"."], [self._its.fileno(), *streams])
        self._its.close()
        self._caller.sendall(self._asked)
        self._caller.shutdown(socket.SHUT_WR)
        self.pid = self._number()
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _number(self) -> int:
        return int.from_bytes(self._caller.recv(8, socket.MSG_WAITALL), "little")

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags & os.WNOHANG:
            self._caller.setblocking(False)
        try:
            status = self._number()
        except BlockingIOError:
            return 0, 0
        finally:
            self._caller.setblocking(True)
        self._caller.close()
        return self.pid, status

    def _internal_poll(self, _deadstate: Any = None) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):  # type: ignore[attr-defined]
            try:
                if self.returncode is None:
                    pid, status = self._try_wait(os.WNOHANG)
                    if pid:
                        self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


def start(command: Sequence[Any], **options: Any) -> "subprocess.Popen[Any]":
    """Start a Python program as subprocess.Popen does, but without waiting for its imports."""
    _started.append(Forked([str(part) for part in command], **options))
    return _started[-1]


def start_new(command: Sequence[Any], **options: Any) -> "subprocess.Popen[Any]":
    """Start a process as subprocess.Popen does."""
    _started.append(subprocess.Popen([str(part) for part in command], **options))
    return _started[-1]


def run(
    command: Sequence[Any], *, input: Any = None, timeout: float = 100, check: bool = False, **options: Any
) -> "subprocess.CompletedProcess[Any]":
    """Run a Python program to its end, as subprocess.run does with `capture_output`, but without waiting for its imports."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | (
        {} if input is None else {"stdin": subprocess.PIPE}
    )
    with start(command, **pipes | options) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0 or not check, err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


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
