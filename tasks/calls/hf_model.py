"""A model of Hugging Face's transformers, served by `transformers serve` in a child process, one at a time.

A model is loaded when it is first asked and freed, process and all, when another is asked: a panel of large models needs the
memory of the largest and not of all. Run as a script, this file is the child process, which ends when the pipe to its parent
closes, however the parent ended.

Settings, read when a server starts:
    CONSENSUS_HF_DEVICE: Where models run, as `--device` of `transformers serve`; default auto.
    CONSENSUS_HF_DTYPE: Type of the weights, as its `--dtype`; default auto, that of the file.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

INSTALL_HINT = "pip install 'consensus-flows[hf]'"
START_S = 600.0
"""Seconds in which a model must be loaded."""
_PACKAGES = ("transformers", "torch", "accelerate")


class HFModelError(ValueError):
    """The model cannot be used; the message says what would be right."""


def missing() -> str | None:
    """Name the first package that is not installed."""
    return next((name for name in _PACKAGES if find_spec(name) is None), None)


def folder_id(folder: Path) -> str:
    """Name the model in a folder for cache keys: by its files, their sizes and times, and what its configuration says.

    Raises:
        HFModelError: If there is no model in it.
    """
    config = folder / "config.json"
    if not config.is_file():
        # One sentence for all: a deployed run shall not find out which files there are.
        raise HFModelError(f"{folder} has no model that can be read: give OWNER/NAME or a folder with a config.json")
    digest = hashlib.sha256(config.read_bytes())
    for path in sorted(folder.iterdir()):
        if path.is_file():
            about = path.stat()
            digest.update(f"{path.name}:{about.st_size}:{about.st_mtime_ns};".encode())
    return f"{folder.name}:{digest.hexdigest()}"


class Room:
    """Memory for one model: whoever asks another waits until nobody asks this one, and it is freed."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._users = 0
        self._model: str | None = None
        self._server: _Server | None = None
        self._told: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def of(self, model: str) -> AsyncIterator[str]:
        """Have a model loaded in the block; yield the base URL of its server.

        Raises:
            HFModelError: If it cannot be loaded.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._users == 0 or self._model == model)
            if self._model != model or self._server is None or not self._server.runs:
                self._free()
                self._server = await asyncio.to_thread(_Server, model)
                self._model = model
            self._users += 1
        try:
            yield self._server.base_url
        finally:
            # At once, even where this call is canceled while somebody else's model is loading.
            self._users -= 1
            task = asyncio.get_running_loop().create_task(self._tell())
            self._told.add(task)
            task.add_done_callback(self._told.discard)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _free(self) -> None:
        if self._server is not None:
            self._server.stop()
        self._model = self._server = None


_rooms: WeakKeyDictionary[asyncio.AbstractEventLoop, Room] = WeakKeyDictionary()


def room() -> Room:
    """Return the room of this event loop."""
    return _rooms.setdefault(asyncio.get_running_loop(), Room())


_running: list[_Server] = []


class _Server:
    """The process of one model."""

    def __init__(self, model: str) -> None:
        settings = {
            "model": model,
            "device": os.environ.get("CONSENSUS_HF_DEVICE") or "auto",
            "dtype": os.environ.get("CONSENSUS_HF_DTYPE") or "auto",
        }
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and file
            [sys.executable, "-P", __file__, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent, which then closes the pipe
        )
        _running.append(self)
        try:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            if not line:
                self._process.wait()
                self._log.seek(0)
                said = self._log.read().strip().splitlines() or ["it said nothing"]
                raise HFModelError(f"transformers cannot serve {model}: {said[-1][:300]}")
            self.base_url: str = json.loads(line)["base_url"]
        except BaseException:
            self.stop()
            raise

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        self._process.kill()  # it has nothing to save
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                pipe.close()
        with contextlib.suppress(ValueError):
            _running.remove(self)


@atexit.register
def _stop_all() -> None:
    for server in _running:
        server.stop()


def _serve(settings: dict[str, Any]) -> None:
    """Is the child process: serves until the pipe from the parent closes, then ends without any clean-up."""
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no report
    from transformers.cli.serve import Serve  # type: ignore[import-not-found, unused-ignore]

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    Serve(
        force_model=settings["model"],  # loaded before this returns, and the only one
        device=settings["device"],
        dtype=settings["dtype"],
        host="127.0.0.1",
        port=port,
        log_level="error",
        non_blocking=True,
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback never goes through a proxy
    while True:
        with contextlib.suppress(OSError), opener.open(f"http://127.0.0.1:{port}/health", timeout=5):
            break
        time.sleep(0.02)
    report.write(json.dumps({"base_url": f"http://127.0.0.1:{port}/v1"}) + "\n")
    report.flush()
    sys.stdin.read()  # until the parent ends or lets go
    os._exit(0)


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
