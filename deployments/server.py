"""Finds the Prefect server, or starts one in the background.

The order is: the address you configured (`PREFECT_API_URL`), the server an earlier command started, whatever Prefect server
answers on the usual port, and at last a new one. Starting costs 10 to 20 seconds once; finding costs a few milliseconds.

Why not `prefect server start --background`: the server's output goes into a pipe whose reader is gone, Ctrl-C or closing the
window ends it, nobody waits until it answers, and after a crash its stale pid file forbids to start. So the plain `prefect
server start` is started, detached, with a log file. One that Prefect put into the background is found on its port as any other.

The server's settings have one source, the repository's `prefect.toml`, of which the wheel carries a copy next to this module.
They are passed as environment variables, where the ones you set yourself win.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import certifi
import httpx  # Prefect has imported it already.
import prefect.context
from prefect.settings import get_current_settings

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 15.0
CHECK_TIMEOUT_S = 5.0  # Only an overloaded server, or no web server at all, takes longer than some milliseconds.


class ServerUnavailable(RuntimeError):  # noqa: N818 - it names a state of affairs, as asyncio.QueueFull does.
    """No server to talk to: what was tried and what to do."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Where the server is, whether this call started it, and its process if we started it now or earlier."""

    api_url: str
    ui_url: str
    started: bool = False
    pid: int | None = None


def find_or_start_server(say: Callable[[str], None]) -> ServerInfo:
    """Returns a server that answers; `say` is given a sentence about what goes on, for stderr.

    Raises:
        ServerUnavailable: The configured one does not answer, or ours does not start.
    """
    if url := get_current_settings().api.url:
        if not server_is_up(url):
            raise ServerUnavailable(
                f"No Prefect server answers at PREFECT_API_URL={url}. Start that server, or unset PREFECT_API_URL "
                "(environment, .env, prefect.toml or `prefect config unset PREFECT_API_URL`) to let one be started here."
            )
        return ServerInfo(url, get_current_settings().ui_url or _ui_url(url))
    if info := _find():
        return info
    with _only_one(say):
        return _find() or _start(say)


def find_server() -> ServerInfo | None:
    """Returns a server that runs here, or the one that is configured, whether it answers or not; starts none.

    Raises:
        ServerUnavailable: The one that runs here is of another version.
    """
    if url := get_current_settings().api.url:
        return ServerInfo(url, get_current_settings().ui_url or _ui_url(url))
    return _find()


def server_is_up(api_url: str, timeout: float = CHECK_TIMEOUT_S) -> bool:
    """Whether a Prefect API answers there. One that wants a key first counts as up: Prefect's client brings it."""
    return _get(f"{api_url.rstrip('/')}/health", timeout)[0] in {200, 401, 403}


def stop_server() -> ServerInfo | None:
    """Stops the server that an earlier command started in this PREFECT_HOME, no other, and returns it; None if there is none."""
    info = _remembered()
    _memory().unlink(missing_ok=True)
    if info is None or info.pid is None:
        return None
    with contextlib.suppress(ProcessLookupError):  # It may end by itself meanwhile.
        os.kill(info.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while _is_server(info.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        if _is_server(info.pid):
            os.kill(info.pid, signal.SIGKILL)
    return info


def use_server(info: ServerInfo) -> None:
    """Makes every Prefect client of this process, and of the processes it starts, talk to that server.

    Prefect reads its settings at import, so the environment variable alone comes too late for this process; and
    `temporary_settings` holds for one context, not for the threads that send logs and events. So the variable is set and the
    global settings are read again, as Prefect itself does after its plugins have run.
    """
    os.environ["PREFECT_API_URL"] = info.api_url
    if info.api_url.startswith("http://"):
        # Without TLS there is nothing to verify, but Prefect loads all authorities for each of its clients, three times a flow
        # run: 60 ms of CPU. One is enough to load nothing more.
        os.environ.setdefault("PREFECT_API_SSL_CERT_FILE", str(_one_authority()))
    prefect.context.refresh_global_settings_context()


def _one_authority() -> Path:
    """A file with the first certificate of certifi's, in PREFECT_HOME."""
    path = get_current_settings().home / "consensus-one-authority.pem"
    if not path.exists():
        end = "-----END CERTIFICATE-----\n"
        first = Path(certifi.where()).read_text(encoding="utf-8").partition(end)[0] + end
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        beside.write_text(first, encoding="utf-8")
        beside.replace(path)
    return path


def server_environment() -> dict[str, str]:
    """The settings of `prefect.toml` as environment variables, without those that are set already."""
    here = Path(__file__).resolve().parent
    path = next(path for path in (here / "prefect.toml", here.parent / "prefect.toml") if path.exists())
    wanted = _flat("PREFECT", tomllib.loads(path.read_text(encoding="utf-8")))
    return {name: value for name, value in wanted if name not in os.environ}


def _flat(prefix: str, table: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}_{key.upper()}", value)
        else:
            yield f"{prefix}_{key.upper()}", str(value)


def _find() -> ServerInfo | None:
    """The server we started earlier, or the one on the usual port; either of our version."""
    info = _remembered()
    # Its process lives, so it may take its time: a second server on the same database would be worse.
    if info is None or not server_is_up(info.api_url, timeout=6 * CHECK_TIMEOUT_S):
        api_url = _api_url(get_current_settings().server.api.port)
        info = ServerInfo(api_url, _ui_url(api_url))
        if _get(f"{api_url}/health") != (200, "true"):
            return None
    status, version = _get(f"{info.api_url}/admin/version")
    theirs, ours = version.strip('"\n'), prefect.__version__
    fits = status != 200 or theirs.split(".")[:2] == ours.split(".")[:2]  # With a password set it is 401: no telling.
    if not fits:  # No second one beside it: the newer would migrate their common database under the older.
        raise ServerUnavailable(
            f"The Prefect server at {info.api_url} is version {theirs}, this is Prefect {ours}. Stop that one, or set PREFECT_API_URL="
            f"{info.api_url} to use it all the same, or set PREFECT_HOME and PREFECT_SERVER_API_PORT to have another started."
        )
    return info


def _start(say: Callable[[str], None]) -> ServerInfo:
    wanted = get_current_settings().server.api.port
    if (port := next(filter(_is_free, range(wanted, min(wanted + 100, 65536))), None)) is None:
        raise ServerUnavailable(f"No port from {wanted} on is free. Set PREFECT_SERVER_API_PORT to one that is.")
    if port != wanted:
        say(f"Port {wanted} is taken by something that is no Prefect server; using {port}.")
    api_url, log = _api_url(port), get_current_settings().home / "consensus-server.log"
    say("Starting a Prefect server in the background; the first time takes up to 20 seconds.")
    from deployments.server_database import database_environment  # Imports SQLAlchemy; finding a server does not.

    # The port goes into the environment, where the server looks too for the address it gives to the UI's pages.
    env = {**os.environ, **server_environment(), **database_environment(), "PREFECT_SERVER_API_PORT": str(port)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "--no-prompt", "server", "start"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    info = ServerInfo(api_url, _ui_url(api_url), started=True, pid=process.pid)
    try:
        _wait_until_up(info, process, log)
        _memory().write_text(json.dumps({"api_url": info.api_url, "pid": info.pid}), encoding="utf-8")
    except BaseException:  # Ctrl-C too: leave nothing running that nobody knows of.
        process.kill()
        process.wait()
        raise
    process.returncode = 0  # It outlives us on purpose; else Popen warns of that when it is collected.
    say(f"Prefect server is up, its UI is at {info.ui_url} (stop it with `consensus down`).")
    return info


def _wait_until_up(info: ServerInfo, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not server_is_up(info.api_url):
        if (code := process.poll()) is not None or time.monotonic() > deadline:
            how = "did not answer in time" if code is None else f"ended with code {code}"
            last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
            raise ServerUnavailable(
                f"The Prefect server at {info.api_url} {how}. Its log is {log} and ends with: {last}"
            )
        time.sleep(0.1)


def _remembered() -> ServerInfo | None:
    """The server in our note, as long as its process lives."""
    try:
        note = json.loads(_memory().read_text(encoding="utf-8"))
        api_url, pid = str(note["api_url"]), int(note["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return ServerInfo(api_url, _ui_url(api_url), pid=pid) if _is_server(pid) else None


def _is_server(pid: int) -> bool:
    """Whether the process lives and is a Prefect server: after a crash its number may belong to somebody else."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # If it is our own child and has ended, let it go.
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        if Path("/proc/self").exists():
            return False
        command = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False).stdout  # noqa: S607 - macOS has no /proc.
    return b"prefect" in command and b"server start" in command


@contextlib.contextmanager
def _only_one(say: Callable[[str], None]) -> Iterator[None]:
    """Two commands at once start one server: the second waits here, then finds it."""
    with (get_current_settings().home / "consensus-server.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another command is starting the Prefect server; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _get(url: str, timeout: float = CHECK_TIMEOUT_S) -> tuple[int, str]:
    """Status and text; status 0 when nobody answers. Proxies are for the way out, not for this machine."""
    parts = urlsplit(url)
    verify = ssl.create_default_context() if parts.scheme == "https" else False  # Loading certificates costs 20 ms.
    try:
        local = parts.hostname in {"127.0.0.1", "localhost", "::1"}
        answer = httpx.get(url, timeout=timeout, verify=verify, trust_env=not local)
    except (httpx.HTTPError, httpx.InvalidURL):
        return 0, ""
    return answer.status_code, answer.text


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((get_current_settings().server.api.host, port))
        return True
    return False


def _api_url(port: int) -> str:
    server = get_current_settings().server.api
    host = "127.0.0.1" if server.host == "0.0.0.0" else server.host  # noqa: S104 - compared with, not listened on.
    return f"http://{host}:{port}{server.base_path or '/api'}"


def _ui_url(api_url: str) -> str:
    return api_url.rstrip("/").removesuffix("/api")


def _memory() -> Path:
    return get_current_settings().home / "consensus-server.json"
