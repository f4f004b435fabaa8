"""Finds the Prefect server, or starts one in the background.

The order is: the address you configured (`PREFECT_API_URL` or a profile), the server an earlier command started in this
`PREFECT_HOME`, and at last a new one. Starting costs 10 to 20 seconds once; finding costs a few milliseconds. Any other server on
the usual port is left alone: it may be another user's, and would be handed the keys.

The server has a password (Prefect's auth string), made once and kept in `PREFECT_HOME`, because whoever reaches its API reads every
saved key. The commands and the worker carry it by themselves; Prefect's own commands find it in the profile `consensus`.

Why not `prefect server start --background`: the server's output goes into a pipe whose reader is gone, Ctrl-C or closing the
window ends it, nobody waits until it answers, and after a crash its stale pid file forbids another start.

The server's settings have one source, the repository's `prefect.toml`, of which the wheel carries a copy next to this module.
They are passed as environment variables, where the ones you set yourself win.
"""

import base64
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
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import certifi
import httpx  # Prefect has imported it already.
import prefect.context
from prefect.settings import get_current_settings

from consensus_flows.deployments.killed_runs import end_killed_runs
from consensus_flows.deployments.proxies import loopback_without_proxy
from consensus_flows.deployments.server_access import (
    PROFILE,
    ServerUnavailable,
    access_settings,
    auth_file,
    close_files_to_others,
    make_auth_string,
    read_auth_string,
    write_profile,
)
from consensus_flows.deployments.server_away import speak_plainly
from consensus_flows.deployments.terminal import say
from consensus_flows.tasks.files import atomic_write

START_TIMEOUT_S = 180.0  # A first start on a busy machine can take a minute or more; one that fails ends much sooner.
STOP_TIMEOUT_S = 15.0
CHECK_TIMEOUT_S = 5.0  # Only an overloaded server, or no web server at all, takes longer than some milliseconds.
MOMENT_S = 1.0
"""Seconds for which a server of ours that has answered is not asked again."""
_checked: dict["ServerInfo", float] = {}
_MODULE = "consensus_flows.deployments.prefect_server"
_COMMANDS = (_MODULE, "prefect --no-prompt server start")
"""What a server of ours is known by; the second one was started without a password, by an earlier version."""
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A Prefect server.

    Attributes:
        api_url: Address of its API.
        ui_url: Address of its UI.
        started: Whether this call started it.
        pid: Its process, if we started it now or earlier.
        auth_string: Its password, if we started it now or earlier. For any other, Prefect's client has what you configured.
    """

    api_url: str
    ui_url: str
    started: bool = False
    pid: int | None = None
    auth_string: str | None = field(default=None, repr=False)


def find_or_start_server(say: Callable[[str], None]) -> ServerInfo:
    """Returns a server that answers; `say` is given a sentence about what goes on, for stderr.

    Raises:
        ServerUnavailable: The configured one does not answer, or ours does not start.
    """
    close_files_to_others()
    if url := _configured_url():
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
        ServerUnavailable: The one that runs here does not answer, is of another version, or is not protected by our password.
    """
    if url := _configured_url():
        return ServerInfo(url, get_current_settings().ui_url or _ui_url(url))
    return _find()


def running_server() -> ServerInfo | None:
    """Returns the server that an earlier command started in this PREFECT_HOME, if commands use it; nobody is asked."""
    return None if _configured_url() else _remembered()


def server_is_up(api_url: str, timeout: float = CHECK_TIMEOUT_S) -> bool:
    """Whether a Prefect API answers there. One that wants a key first counts as up: Prefect's client brings it."""
    return _get(f"{api_url.rstrip('/')}/health", timeout)[0] in {200, 401, 403}


def stop_server() -> ServerInfo | None:
    """Stops the server that an earlier command started in this PREFECT_HOME, no other, and returns it; None if there is none."""
    info = _remembered()
    _memory().unlink(missing_ok=True)
    # The profile and your browser still hold the password, and would give it to whoever takes the port now.
    auth_file().unlink(missing_ok=True)
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
    wanted = client_environment(info)
    if wanted.items() - os.environ.items():  # else they were read already; it takes 50 ms of CPU
        os.environ |= wanted
        prefect.context.refresh_global_settings_context()


def client_environment(info: ServerInfo) -> dict[str, str]:
    """The settings of a client of that server as environment variables; of some, what you set yourself wins."""
    wanted = {
        "PREFECT_CLIENT_MAX_RETRIES": "6"
    }  # A busy SQLite answers 503; each retry waits twice as long as the one before.
    if info.api_url.startswith("http://"):
        # Without TLS there is nothing to verify, but Prefect loads all authorities for each of its clients, three times a flow
        # run: 60 ms of CPU. One is enough to load nothing more.
        wanted["PREFECT_API_SSL_CERT_FILE"] = str(_one_authority())
    if info.pid is not None:
        # The version of our own was compared when it was found; each client would ask for it again.
        wanted["PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED"] = "false"
    wanted = {name: os.environ.get(name, value) for name, value in wanted.items()}
    wanted["PREFECT_API_URL"] = info.api_url
    if info.auth_string is not None:
        wanted["PREFECT_API_AUTH_STRING"] = info.auth_string
    return wanted


def _one_authority() -> Path:
    """A file with the first certificate of certifi's, in PREFECT_HOME."""
    path = get_current_settings().home / "consensus-one-authority.pem"
    if not path.exists():
        end = "-----END CERTIFICATE-----\n"
        first = Path(certifi.where()).read_text(encoding="utf-8").partition(end)[0] + end
        with atomic_write(path) as file:
            file.write_text(first, encoding="utf-8")
    return path


def server_environment() -> dict[str, str]:
    """The settings of `prefect.toml` as environment variables, without those that are set already."""
    path = Path(__file__).parent / "prefect.toml"
    wanted = dict(_flat("PREFECT", tomllib.loads(path.read_text(encoding="utf-8"))))
    settings = get_current_settings()
    # Prefect unpacks its UI beside its own code, which another user may have installed.
    if settings.server.ui.static_directory is None and not os.access(prefect.__ui_static_subpath__.parent, os.W_OK):
        wanted["PREFECT_UI_STATIC_DIRECTORY"] = str(settings.home.resolve() / "ui")
    return {name: value for name, value in wanted.items() if name not in os.environ}


def _flat(prefix: str, table: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}_{key.upper()}", value)
        else:
            yield f"{prefix}_{key.upper()}", str(value)


def _configured_url() -> str | None:
    """The address you chose yourself: not that of our own server, nor the profile we keep for Prefect's own commands."""
    url, running = get_current_settings().api.url, _remembered()
    by_profile = prefect.context.get_settings_context().profile.name == PROFILE and "PREFECT_API_URL" not in os.environ
    return None if by_profile or (running is not None and url is not None and _same(running.api_url, url)) else url


def _same(ours: str, url: str) -> bool:
    """Whether two addresses are one; this machine has several names."""
    one, other = urlsplit(ours), urlsplit(url)
    here = one.hostname == other.hostname or {one.hostname, other.hostname} <= _LOOPBACK
    return here and (one.port, one.path.rstrip("/")) == (other.port, other.path.rstrip("/"))


def _find() -> ServerInfo | None:
    """The server that an earlier command started in this PREFECT_HOME."""
    if (info := _remembered()) is None:
        return None
    if time.monotonic() - _checked.get(info, -MOMENT_S) < MOMENT_S:  # one command connects more than once
        return info
    again = "Run `consensus down`; the next command starts it again."
    # Its process lives, so it may take its time: a second server on the same database would be worse.
    without_password, _ = _get(f"{info.api_url}/admin/version", timeout=6 * CHECK_TIMEOUT_S)
    if without_password not in {200, 401, 403} or not _may_be_ours(info.api_url):
        raise ServerUnavailable(f"The Prefect server at {info.api_url} (process {info.pid}) does not answer. {again}")
    if without_password == 200:
        raise ServerUnavailable(f"The Prefect server at {info.api_url} has no password. {again}")
    status, version = _get(f"{info.api_url}/admin/version", auth_string=info.auth_string)
    if status == 401:
        source = "PREFECT_SERVER_API_AUTH_STRING" if get_current_settings().server.api.auth_string else str(auth_file())
        raise ServerUnavailable(
            f"The Prefect server at {info.api_url} does not accept the password in {source}. {again}"
        )
    theirs, ours = version.strip('"\n'), prefect.__version__
    if status == 200 and theirs.split(".")[:2] != ours.split(".")[:2]:
        # No second one beside it: the newer would migrate their common database under the older.
        raise ServerUnavailable(
            f"The Prefect server at {info.api_url} is version {theirs}, this is Prefect {ours}. {again}"
        )
    _checked[info] = time.monotonic()
    return info


def _start(say: Callable[[str], None]) -> ServerInfo:
    wanted = get_current_settings().server.api.port
    if (listener := next(filter(None, map(_listen, range(wanted, min(wanted + 100, 65536)))), None)) is None:
        raise ServerUnavailable(f"No port from {wanted} on is free. Set PREFECT_SERVER_API_PORT to one that is.")
    with listener:
        port = listener.getsockname()[1]
        if port != wanted:
            say(f"Port {wanted} is taken by {_stranger(wanted)}; using {port}.")
        home = get_current_settings().home.resolve()
        api_url, log = _api_url(port), home / "consensus-server.log"
        made = make_auth_string()
        say("Starting a Prefect server in the background; the first time takes up to 20 seconds.")
        log.touch(mode=0o600)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, str(listener.fileno())],
                env={**os.environ, **server_environment(), **access_settings(api_url, made), "PREFECT_HOME": str(home)},
                cwd=home,  # Prefect takes settings from the folder it is started in.
                umask=0o077,  # The database holds the key to all saved keys.
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    info = ServerInfo(api_url, _ui_url(api_url), started=True, pid=process.pid, auth_string=made)
    try:
        _wait_until_up(info, process, log)
        _memory().write_text(json.dumps({"api_url": info.api_url, "pid": info.pid}), encoding="utf-8")
        try:
            write_profile(info.api_url, made)
        except OSError as error:
            say(f"The Prefect profile {PROFILE!r} could not be written: {error}")
    except BaseException:  # Ctrl-C too: leave nothing running that nobody knows of.
        process.kill()
        process.wait()
        raise
    process.returncode = 0  # It outlives us on purpose; else Popen warns of that when it is collected.
    say(f"Prefect server is up. `consensus ui` opens its UI at {info.ui_url}, `consensus down` stops it.")
    return info


def _stranger(port: int) -> str:
    """Who else listens on our usual port, for a message.

    Raises:
        ServerUnavailable: If it is a server that you started on the same database.
    """
    url = _api_url(port)
    if _get(f"{url}/health") != (200, "true"):
        return "another program"
    status, settings = _get(f"{url}/admin/settings")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        if _may_be_ours(url) and status == 200:
            home = Path(json.loads(settings)["home"])
            if home.resolve() == get_current_settings().home.resolve():
                raise ServerUnavailable(
                    f"You started a Prefect server at {url} that uses the same PREFECT_HOME. Set PREFECT_API_URL={url} to use "
                    "it, or stop it to let a protected one be started here."
                )
    return "a Prefect server that was not started by this command in this PREFECT_HOME"


def _may_be_ours(url: str) -> bool:
    """Whether the program that listens there is of this user, as far as can be told."""
    return _listening_user(urlsplit(url).port or 80) in {None, os.getuid()}


def _listening_user(port: int) -> int | None:
    """The user id of the process that listens on a port; None where there is no /proc."""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with contextlib.suppress(OSError):
            for line in table.read_text(encoding="ascii").splitlines()[1:]:
                (
                    _,
                    local,
                    _,
                    state,
                    *_,
                ) = fields = line.split()
                if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                    return int(fields[7])
    return None


def _wait_until_up(info: ServerInfo, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    # Whether it lives is asked last: once it has ended, anyone may answer on its port.
    while not server_is_up(info.api_url) or process.poll() is not None:
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
    return ServerInfo(api_url, _ui_url(api_url), pid=pid, auth_string=read_auth_string()) if _is_server(pid) else None


def _is_server(pid: int) -> bool:
    """Whether the process lives, is ours and is our server: after a crash its number may belong to somebody else."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # If it is our own child and has ended, let it go.
    process = Path(f"/proc/{pid}")
    try:
        user, command = process.stat().st_uid, process.joinpath("cmdline").read_text(encoding="utf-8", errors="replace")
        command = command.replace("\0", " ")
    except OSError:
        if Path("/proc/self").exists():
            return False
        shown = subprocess.run(  # macOS has no /proc.
            ["ps", "-o", "uid=,command=", "-p", str(pid)],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        ).stdout.split(maxsplit=1)
        user, command = (int(shown[0]), shown[1]) if len(shown) == 2 else (-1, "")
    return user == os.getuid() and any(ours in command for ours in _COMMANDS)


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


def _get(url: str, timeout: float = CHECK_TIMEOUT_S, auth_string: str | None = None) -> tuple[int, str]:
    """Status and text; status 0 when nobody answers. Proxies are for the way out, not for this machine."""
    parts = urlsplit(url)
    verify = ssl.create_default_context() if parts.scheme == "https" else False  # Loading certificates costs 20 ms.
    headers = {"Authorization": f"Basic {base64.b64encode(auth_string.encode()).decode()}"} if auth_string else {}
    try:
        local = parts.hostname in _LOOPBACK
        answer = httpx.get(url, timeout=timeout, verify=verify, trust_env=not local, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL):
        return 0, ""
    return answer.status_code, answer.text


def _listen(port: int) -> socket.socket | None:
    """A socket that listens on the port; None if the port is taken."""
    with contextlib.suppress(OSError):
        return socket.create_server((get_current_settings().server.api.host, port), backlog=128)
    return None


def _api_url(port: int) -> str:
    server = get_current_settings().server.api
    host = "127.0.0.1" if server.host == "0.0.0.0" else server.host  # noqa: S104 - compared with, not listened on.
    return f"http://{host}:{port}{server.base_path or '/api'}"


def _ui_url(api_url: str) -> str:
    return api_url.rstrip("/").removesuffix("/api")


def _memory() -> Path:
    return get_current_settings().home / "consensus-server.json"


def connect() -> ServerInfo:
    """Find or start the Prefect server and let this process use it."""
    loopback_without_proxy()
    info = find_or_start_server(say)
    loopback_without_proxy(info.api_url)
    use_server(info)
    if os.environ.get("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL") == "CRITICAL":  # without --verbose
        speak_plainly(say)
    try:
        end_killed_runs()
    except Exception as error:  # the next command tries again
        say(f"consensus: the run of a killed command could not be ended in Prefect: {error!r}")
    return info
