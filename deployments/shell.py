"""The command `consensus`, run by the resident process of `consensus serve` where there is one, and else by this process.

To import Prefect and a vendor's SDK takes longer than all else that a question needs. The resident process (`resident.py`) has
imported them and forks; what it forks has the arguments, environment, folder and streams of this process, and runs what this
process would have run. Until it is known that nobody else does, this process imports little more than the standard library.

This process passes signals on and ends as the other one does. Whatever is not as it should be, the command runs here.
"""

import gc
import json
import os
import signal
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from consensus_flows.deployments.folder_settings import quiet_prefect

OFF = "CONSENSUS_RESIDENT"
"""The environment variable that is 0 where every command is to run by itself."""
PATIENCE_S = 2.0
"""Seconds that the resident process has to take a command."""
TAKEN, GO = b"t", b"g"
PASSED_ON = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM}


def socket_path() -> Path:
    """Where the resident process of this PREFECT_HOME listens."""
    return Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser() / "consensus-shell.sock"


def installation() -> dict[str, Any]:
    """Return what must be the same in both processes, because it is read when Python starts or Prefect is imported."""
    return {
        "python": [sys.version, sys.prefix, sys.getfilesystemencoding()],
        "package": str(Path(__file__).resolve()),
        "settings": {name: value for name, value in os.environ.items() if name.startswith(("PYTHON", "PREFECT_"))},
    }


def is_ours(connection: socket.socket) -> bool:
    """Whether this user's process is at the other end."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", peer)[1] == os.geteuid())


def send(connection: socket.socket, message: dict[str, Any], handles: list[int]) -> None:
    """Send a message and file descriptors; half a character in an argument or a variable survives."""
    text = json.dumps(message).encode()
    socket.send_fds(connection, [struct.pack("I", len(text))], handles)
    connection.sendall(text)


def receive(connection: socket.socket) -> tuple[Any, list[int]]:
    """Return what was sent."""
    size, handles, _, _ = socket.recv_fds(connection, 4, 4)
    (length,) = struct.unpack("I", size)
    return json.loads(connection.recv(length, socket.MSG_WAITALL)), handles


def entry() -> NoReturn:
    """Run the command line."""
    quiet_prefect()
    status = None
    if sys.platform == "linux" and os.environ.get(OFF) != "0":
        # In any doubt the command runs here; once it has been started elsewhere, nothing is raised.
        with suppress(OSError, ValueError, struct.error), socket.socket(socket.AF_UNIX) as connection:
            status = _run_there(connection)
    if status is None:
        gc.disable()  # to look for garbage over and over in what is imported, and stays, takes a seventh of the time
        from consensus_flows.deployments.cli import entry as run_here

        run_here()
    elif status < 0:
        with suppress(OSError):  # SIGKILL needs no such thing
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def _run_there(connection: socket.socket) -> int | None:
    """Let the resident process run the command, and return how it ended; None if it has not been started."""
    if not all(streams := [sys.stdin, sys.stdout, sys.stderr]):  # one is closed
        return None
    connection.settimeout(PATIENCE_S)
    connection.connect(str(socket_path()))
    if not is_ours(connection):
        return None
    folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    send(
        connection,
        {
            "installation": installation(),
            "arguments": sys.argv,
            "environment": dict(os.environ),
            "umask": _umask(),
            "streams": [[stream.encoding, stream.errors] for stream in streams],
            "ignored": [number for number in PASSED_ON if signal.getsignal(number) == signal.SIG_IGN],
        },
        [*(stream.fileno() for stream in streams), folder],
    )
    if connection.recv(1) != TAKEN:
        return None
    for number in PASSED_ON:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: _pass_on(connection, number))
    connection.settimeout(None)
    connection.sendall(GO)
    with suppress(OSError):
        if status := connection.recv(4, socket.MSG_WAITALL):
            return int(*struct.unpack("i", status))
    return 1  # it was killed together with whoever looks after it


def _pass_on(connection: socket.socket, number: int) -> None:
    with suppress(OSError):  # it has just ended
        connection.send(bytes([number]))


def _umask() -> int:
    os.umask(mask := os.umask(0o077))
    return mask


if __name__ == "__main__":
    entry()
