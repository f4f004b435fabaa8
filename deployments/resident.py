"""The process that has imported what a question needs, and forks for each one that a shell asks (`shell.py`).

`consensus serve` keeps it. It is a process of its own, because one with threads or an event loop cannot be forked. For each command
there are two more: one runs it; the other passes signals on, says how it ended, and ends it when the shell's process is gone.
"""

import gc
import os
import platform
import select
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from itertools import chain, product
from pathlib import Path
from typing import Any, get_args

from genai_prices import Usage, calc_price
from prefect.context import refresh_global_settings_context
from prefect.logging.configuration import setup_logging
from prefect.settings import get_current_settings
from pydantic import BaseModel

from consensus_flows.deployments import algorithm_commands, cli
from consensus_flows.deployments.folder_settings import PROJECT, files_with_settings
from consensus_flows.deployments.server import client_environment, running_server
from consensus_flows.deployments.shell import (
    GO,
    PASSED_ON,
    PATIENCE_S,
    TAKEN,
    installation,
    is_ours,
    receive,
    socket_path,
)
from consensus_flows.deployments.terminal import flush, started_by_shell
from consensus_flows.flows.algorithms import algorithms
from consensus_flows.tasks.calls.vendors.vendor import all_vendors
from consensus_flows.tasks.judging.judgements import Kind, arbiter_verdict

ALSO_NEEDED = (
    "anyio._backends._asyncio",
    "consensus_flows.blocks.http_client",
    "encodings.idna",
    "fastapi.encoders",
    "httpcore2",
    "openai.resources.chat.chat",
    "openai.resources.completions",
    "openai.resources.embeddings",
    "prefect.flow_engine",
    "prefect.utilities.visualization",
    "sqlalchemy.dialects.sqlite.aiosqlite",
    "truststore",
)
"""What a question imports only while it is asked."""
USUAL_PANEL = 8
"""For how many answers at most what an arbiter writes is built ahead."""
BUILT_LATE = ("consensus_flows.", "prefect.", "openai.types.chat.", "openai.types.completion_usage")
"""Where models are that pydantic would build only while a question is asked."""


@contextmanager
def resident() -> Iterator[None]:
    """Keep the resident process; its environment is the present one."""
    if sys.platform != "linux":  # elsewhere the system's libraries do not survive a fork
        yield
        return
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd="/",  # of no project, whose settings Prefect would read
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.terminate()  # while it imports; later it ends with its input
        process.communicate()


def main() -> None:
    """Serve until the input ends; in a process that was forked, run the command."""
    code = _code_changed()
    preload()
    settings = Settings()
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        return  # what an installed package has started cannot be forked: commands run by themselves
    path = socket_path()
    listener = _listen(path)
    socket_number = path.stat().st_ino
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # from now on there is a socket to be removed
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection = listener.accept()[0]
        settings.refresh()
        if os.fork() == 0:
            listener.close()
            started_by_shell(_take(connection, code, settings))
            cli.entry()
        connection.close()
    if path.exists() and path.stat().st_ino == socket_number:  # of no other gateway
        path.unlink()


def preload() -> None:
    """Import what a question needs; that starts no thread."""
    for one in algorithms().values():
        one.flow()
        getattr(algorithm_commands, one.identifier)
        algorithm_commands.own(one, "view", None)
    for vendor in all_vendors().values():
        if any(provider.keys for provider in vendor.providers.values()):
            vendor.load()
    for name in ALSO_NEEDED:
        import_module(name)
    platform.platform()  # asks another program, once
    with suppress(LookupError):  # compiles a pattern for each provider that has prices
        calc_price(Usage(), model_ref="", provider_api_url="")
    for model in _models_of(BaseModel):
        if model.__module__.startswith(BUILT_LATE):
            model.model_rebuild(raise_errors=False)
    for kind, count in product(get_args(Kind), range(1, USUAL_PANEL + 1)):
        arbiter_verdict(kind, count).json_schema()
    gc.collect()
    gc.freeze()  # else the first collection of each command would copy all memory


def _models_of(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from _models_of(model)


def _listen(path: Path) -> socket.socket:
    """Open the socket; from then on it is found."""
    new = path.with_suffix(f".{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    listener.bind(str(new))
    os.umask(mask)
    listener.listen(128)
    new.rename(path)
    return listener


class Settings:
    """Prefect's settings as a command has them that uses the server of this PREFECT_HOME: to read them takes 50 ms."""

    def __init__(self) -> None:
        self._profiles = self._profiles_changed()
        self.environment: dict[str, str] = {}
        """The variables that such a command sets by itself."""

    def refresh(self) -> None:
        """Read the settings if the profiles or the server have changed."""
        profiles, server = self._profiles_changed(), running_server()
        environment = client_environment(server) if server else {}
        if (profiles, environment) == (self._profiles, self.environment):
            return
        self._profiles, self.environment = profiles, environment
        before = dict(os.environ)
        os.environ.update(environment)
        _read_settings()
        os.environ.clear()
        os.environ.update(before)

    @staticmethod
    def _profiles_changed() -> float:
        path = get_current_settings().profiles_path
        assert path is not None, "Prefect always has one"
        return path.stat().st_mtime if path.exists() else 0.0


def _take(connection: socket.socket, code: float, settings: Settings) -> Callable[[int], None]:
    """Take a command, if it is one to be run here. Return in the process that is to run it, with what lets the shell go on."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    connection.settimeout(PATIENCE_S)
    try:
        asked, handles = receive(connection)
        if not is_ours(connection) or asked["installation"] != installation() or code != _code_changed():
            os._exit(0)
        os.fchdir(handles[3])
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.argv = asked["arguments"]
        os.environ.update(settings.environment)
        if not _asks(sys.argv[1:]) or ((files := files_with_settings()) and Path.cwd() != PROJECT):
            os._exit(0)
        connection.sendall(TAKEN)
        if connection.recv(1) != GO:
            os._exit(0)
    except (OSError, ValueError, struct.error):
        os._exit(0)
    if files:
        _read_settings()
    ended, lives = os.pipe()
    if child := os.fork():
        os.close(lives)
        for handle in handles:
            os.close(handle)
        _look_after(child, ended, connection)
        os._exit(0)
    os.close(ended)
    connection.close()
    _become(asked, handles)
    return partial(_let_go, lives)


def _asks(arguments: list[str]) -> bool:
    """Whether this is a question. Other commands may want a terminal of their own, and are seldom called."""
    asking = [names for target, names, _ in cli.COMMANDS["Ask"] if str(target).startswith(algorithm_commands.__name__)]
    return not arguments or arguments[0] not in cli.app or any(arguments[0] in names for names in asking)


def _look_after(child: int, ended: int, connection: socket.socket) -> None:
    """Pass signals on until the command is done, and say how it ended."""
    connection.settimeout(None)
    watched: list[Any] = [connection, ended]
    while ended not in select.select(watched, [], [])[0]:
        given = connection.recv(1)
        os.kill(child, given[0] if given else signal.SIGKILL)
        if not given:
            break
    if not (status := os.read(ended, 4)):
        status = struct.pack("i", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    with suppress(OSError):
        connection.sendall(status)
    connection.close()
    with suppress(ChildProcessError):
        os.waitpid(child, 0)


def _let_go(lives: int, code: int) -> None:
    """Let the shell go on: what is left is to tell the Prefect server. That it cannot be told is still said on stderr."""
    flush()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(nowhere, number)
    os.write(lives, struct.pack("i", code))


def _become(asked: dict[str, Any], handles: list[int]) -> None:
    """Take the streams and all else that a process has from the shell."""
    os.umask(asked["umask"])
    time.tzset()
    for one in PASSED_ON:
        usual = signal.default_int_handler if one == signal.SIGINT else signal.SIG_DFL
        signal.signal(one, signal.SIG_IGN if one in asked["ignored"] else usual)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.dup2(handles[number], number)
        encoding, errors = asked["streams"][number]
        buffering = 1 if name == "stderr" or os.isatty(number) else -1
        stream = open(number, "w" if number else "r", buffering, encoding, errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    for handle in handles:
        os.close(handle)


def _read_settings() -> None:
    refresh_global_settings_context()
    setup_logging(incremental=False)


def _code_changed() -> float:
    """When our code, or what is installed beside it, was last changed."""
    layers = Path(__file__).parents[1].glob("[!_.]*/")
    files = chain.from_iterable(layer.rglob("*.py") for layer in layers)
    return max(path.stat().st_mtime for path in (Path(sysconfig.get_path("purelib")), *files))


if __name__ == "__main__":
    main()
