"""A model's server on loopback HTTP, in OpenAI's format and a child process that ends with this one.

No runtime runs in this very process. xllamacpp holds the GIL while it loads (1 to 2 s without an event loop), cannot be
stopped while it answers (its destructor waits for the answer for ever; without the destructor the process ends in a
segmentation fault), and does not survive a fork. PyTorch takes seconds to import, and gives all memory of a model back only
with its process. So this file, run as a script, is a small child process that holds the server, and ends at once when the
pipe to its parent closes, however the parent ended.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

MAX_ANSWER_TOKENS = 1024
"""Without a limit, a request that sends none writes until its context is full, or with transformers stops after 20 tokens."""
EMBEDDED_TOKENS = 2048  # a text is embedded in one piece; the server takes 0.8 GB then, with twice as many 1.4 GB
_LOG_NOTHING = -1  # llama.cpp's own verbosity threshold: below errors (0), so not one line is written

_started: set[ModelServer] = set()


class ModelServer:
    """The process of one model.

    Attributes:
        settings: What its runtime was told.
        process: The process.
        base_url: "http://127.0.0.1:PORT/v1", once it serves.
    """

    def __init__(self, runtime: str, **settings: Any) -> None:
        """Start it; `wait` for it to serve.

        Args:
            runtime: "llama.cpp" or "transformers".
            settings: What it is told.
        """
        self.settings = settings
        self.base_url = ""
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and file
            [sys.executable, "-P", __file__, runtime, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent, which then closes the pipe
        )
        _started.add(self)

    def wait(self) -> None:
        """Wait until its model is loaded.

        Raises:
            ValueError: If it cannot be; the server is stopped then.
        """
        try:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            report = json.loads(line) if line else {"error": f"its process ended with code {self.process.wait()}"}
            if "error" in report:
                raise ValueError(report["error"])
            _await_health(report["address"])
        except BaseException:
            self.stop()
            raise
        self.base_url = f"{report['address']}/v1"

    @property
    def runs(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def stop(self) -> None:
        """End the process, at once: it has nothing to save."""
        self.process.kill()
        self.process.wait()
        self._let_go()
        _started.discard(self)

    def _let_go(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def disown(self) -> None:
        """Let go, in a forked child, of what is the parent's: the child's copy of a pipe would keep the server alive."""
        self.process.returncode = 0  # not ours to wait for
        self._let_go()


def _await_health(address: str, seconds: float = 60.0) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback never goes through a proxy
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), opener.open(f"{address}/health", timeout=5):
            return  # any status but 2xx raises
        time.sleep(0.02)
    raise ValueError(f"its server at {address} did not become healthy in {seconds:.0f} s")


@atexit.register
def _stop_all() -> None:
    for server in [*_started]:
        server.stop()


def _after_fork() -> None:
    for server in _started:
        server.disown()
    _started.clear()


os.register_at_fork(after_in_child=_after_fork)


def _llama_cpp(settings: dict[str, Any]) -> tuple[object, str]:
    """Load a GGUF file, and return llama.cpp's own server and its address."""
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
    return server, server.listening_address


def _transformers(settings: dict[str, Any]) -> tuple[object, str]:
    """Load the model in a folder, and return the server of `transformers serve` and its address."""
    # As for llama.cpp: with a thread a core, one other busy process makes an answer many times slower.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))

    from fastapi.responses import JSONResponse
    from transformers import GenerationConfig  # type: ignore[import-not-found, unused-ignore]
    from transformers.cli.serve import Serve  # type: ignore[import-not-found, unused-ignore]

    class Loaded(Serve):  # type: ignore[misc, unused-ignore]
        def start_server(self) -> None:
            """Start nothing yet: the port and the errors are ours."""

    # Loaded before this returns.
    server = Loaded(settings["model"], device=settings["device"], dtype=settings["dtype"], non_blocking=True).server
    known = set(GenerationConfig().to_dict())

    async def answer(request: Any, call_next: Any) -> Any:
        """Name what is wrong, where transformers would ignore an unknown setting, or say `Internal Server Error`."""
        try:
            if request.method == "POST":
                unknown = json.loads((await request.json())["generation_config"]).keys() - known
                if unknown:
                    raise ValueError(f"GenerationConfig has no {', '.join(sorted(unknown))}")
            return await call_next(request)
        except Exception as error:
            return JSONResponse({"error": {"message": f"{type(error).__name__}: {error}"}}, 400)

    server.config.app.middleware("http")(answer)
    at = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=server.run, kwargs={"sockets": [at]}, daemon=True).start()
    return server, f"http://127.0.0.1:{at.getsockname()[1]}"


def _serve(runtime: str, settings: dict[str, Any]) -> None:
    """Is the child process: serves until the pipe from the parent closes, then ends without any clean-up."""
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no report
    try:
        # Named, because a server that nobody holds ends.
        _server, address = {"llama.cpp": _llama_cpp, "transformers": _transformers}[runtime](settings)
        said = {"address": address}
    except Exception as error:
        said = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(said), file=report, flush=True)
    sys.stdin.read()  # until the parent ends or lets go
    os._exit(0)  # the destructor of a server would wait for answers under way


if __name__ == "__main__":
    _serve(sys.argv[1], json.loads(sys.argv[2]))
