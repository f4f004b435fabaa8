"""Models of Hugging Face's transformers on this machine: no key, no cost, `transformers serve` behind OpenAI's format.

Settings, read when a server starts:
    CONSENSUS_HF_DEVICE: Where models run, as `--device` of `transformers serve`; default auto.
    CONSENSUS_HF_DTYPE: Type of the weights, as its `--dtype`; default auto, that of the file.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from consensus_flows.blocks.credentials import ModelCredentials, openai_client
from consensus_flows.tasks.calls import hub
from consensus_flows.tasks.calls.model_server import MAX_ANSWER_TOKENS, ModelServer
from consensus_flows.tasks.calls.request import CallKind, Request
from consensus_flows.tasks.calls.vendors.openai import OpenAI
from consensus_flows.tasks.calls.vendors.vendor import Provider, Repairs, Reply, Vendor
from consensus_flows.tasks.errors import ConfigurationError

_PACKAGES = ("transformers", "torch", "accelerate")
_BESIDE = ("seed", "stop", "chat_template_kwargs")
"""What `transformers serve` takes beside the fields of a `GenerationConfig`."""


class HF(OpenAI):
    """`hf/OWNER/NAME` of the hub, or the folder `hf//path`; what `extra` holds are fields of `GenerationConfig`."""

    name = "hf"
    blocks = ()
    attachment_kinds = frozenset()
    # The server generates one answer at a time, while the timeout of those that wait would run.
    providers: ClassVar[Mapping[str, Provider]] = {"hf": Provider(None, max_concurrency=1)}
    kinds = frozenset({"chat"})
    parameters: ClassVar[Mapping[str, str | None]] = {
        "max_output_tokens": "max_new_tokens",
        "reasoning_effort": None,
        "service_tier": None,
    }
    alternatives: ClassVar[Mapping[str, str]] = {}
    sent_limit = MAX_ANSWER_TOKENS

    async def find(self, model: str, token: str | None) -> None:
        """Find what a name means, and that there is what runs it."""
        if package := next((name for name in _PACKAGES if find_spec(name) is None), None):
            raise ValueError(
                f"models of transformers need the extra hf, {package} is not installed: pip install 'consensus-flows[hf]'"
            )
        if model and not model.startswith("/"):
            if model.count("/") != 1:
                raise ValueError(
                    f"hf/{model} names neither a model of the hub nor a folder: write hf/OWNER/NAME or hf//path"
                )
            await asyncio.to_thread(hub.find_model, model, token)

    def address(self, model: str) -> str:
        """Name the weights: those of a commit, or those in a folder. No model is no weights."""
        if not model:
            return "hf:"
        if model.startswith("/"):
            return f"hf:{folder_id(Path(model))}"
        return f"hf:{model}@{hub.find_model(model).commit}"

    def to_fetch(self, model: str) -> str | None:
        """Name the repository, its size and its license, unless it is in the cache."""
        file = None if model.startswith("/") else hub.find_model(model)
        return None if file is None or file.is_here else file.describe()

    async def fetch(self, model: str) -> None:
        """Download its files."""
        await asyncio.to_thread(hub.fetch, hub.find_model(model))

    async def client(
        self,
        credentials: ModelCredentials | None,  # noqa: ARG002  # there are none
        model: str,  # noqa: ARG002  # which one is loaded changes
        kind: CallKind,  # noqa: ARG002  # there are only chats
        max_response_mb: float,
    ) -> Any:
        """Make a client; each request goes to the server that runs then."""
        return openai_client("none", "http://127.0.0.1", max_response_mb=max_response_mb)

    @asynccontextmanager
    async def turn(self, client: Any, request: Request) -> AsyncIterator[Any]:
        """Have the model loaded, in the place of another."""
        room = _rooms.setdefault(asyncio.get_running_loop(), _Room())
        async with room.of(_folder(request.model)) as base_url:
            yield client.with_options(base_url=base_url)

    def build(self, request: Request, repairs: Repairs) -> dict[str, Any]:
        """Build the arguments: all settings in one configuration of the generation; the server ignores schemas."""
        built = super().build(request, replace(repairs, schema_mode=2))
        settings = built["extra_body"]
        beside = {name: settings.pop(name) for name in _BESIDE if name in settings}
        if settings.get("temperature") == 0:
            del settings["temperature"]
            settings.setdefault("do_sample", False)
        elif not {"temperature", "top_p", "top_k"}.isdisjoint(settings):
            settings.setdefault("do_sample", True)
        settings.setdefault("max_new_tokens", self.sent_limit)
        beside["generation_config"] = json.dumps(settings)
        return built | {"model": _folder(request.model), "extra_body": beside}

    async def send(self, client: Any, request: Request, body: Mapping[str, Any]) -> Any:
        """Send one request. The server would finish an answer that is given up, and is stopped instead."""
        try:
            return await super().send(client, request, body)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) or self.fault_of(error).transport == "timeout":
                _memory.free()
            raise

    def read(self, request: Request, body: Mapping[str, Any], response: Any) -> Reply:
        """Read a response, in which the model's name is its folder."""
        return replace(super().read(request, body, response), model=request.model)

    def notes(self, request: Request, repairs: Repairs) -> tuple[str, ...]:
        """Say that a schema is in the prompt."""
        return super().notes(request, replace(repairs, schema_mode=2))

    def unsent(self, request: Request) -> tuple[str, ...]:
        """Name what has no parameter."""
        return Vendor.unsent(self, request)

    def stream_arguments(self, request: Request, repairs: Repairs) -> dict[str, Any]:
        """Ask for a stream, but where beams are searched, which are not known before the end."""
        beams = request.sampling.extra.get("num_beams", 1)
        return super().stream_arguments(request, repairs) if beams == 1 else {}

    async def list_models(self, client: Any, timeout: float) -> list[str]:  # noqa: ARG002  # nobody is asked
        """Name the models in the cache of the hub."""
        return await asyncio.to_thread(hub.models_in_cache)


VENDOR = HF()


class _Memory:
    """Holds one model at a time."""

    def __init__(self) -> None:
        self.server: ModelServer | None = None

    async def load(self, model: str) -> str:
        """Load a model unless it is loaded, in the place of another; return the base URL of its server.

        Raises:
            ConfigurationError: If it cannot be loaded.
        """
        server = self.server
        if server is None or not server.runs or server.settings["model"] != model:
            self.free()
            self.server = server = ModelServer(
                "transformers",
                model=model,
                device=os.environ.get("CONSENSUS_HF_DEVICE") or "auto",
                dtype=os.environ.get("CONSENSUS_HF_DTYPE") or "auto",
            )
            try:
                await asyncio.to_thread(server.wait)
            except asyncio.CancelledError:
                server.stop()
                raise
            except ValueError as error:
                raise ConfigurationError(f"transformers cannot serve {model}: {error}") from None
        return server.base_url

    def free(self) -> None:
        """End the process of the model that is loaded."""
        if self.server is not None:
            self.server.stop()


_memory = _Memory()


class _Room:
    """The calls of one event loop that want the memory: those to another model wait until nobody asks this one.

    A model is so loaded once for all calls to it that are waiting, and not anew for each of them.
    """

    def __init__(self) -> None:
        self._model, self._users = "", 0
        self._left, self._loading = asyncio.Event(), asyncio.Lock()

    @asynccontextmanager
    async def of(self, model: str) -> AsyncIterator[str]:
        """Have a model loaded in the block; yield the base URL of its server."""
        while self._users and self._model != model:
            await self._left.wait()
        self._model, self._users = model, self._users + 1
        self._left.clear()
        try:
            async with self._loading:
                base_url = await _memory.load(model)
            yield base_url
        finally:
            self._users -= 1
            if not self._users:
                self._left.set()


_rooms: WeakKeyDictionary[asyncio.AbstractEventLoop, _Room] = WeakKeyDictionary()


def folder_id(folder: Path) -> str:
    """Name the model in a folder for cache keys: by its files, their sizes and times, and what its configuration says.

    Raises:
        ValueError: If the folder has no model that can be read.
    """
    config = folder / "config.json"
    if not config.is_file():
        # One sentence for all: a deployed run shall not find out which files there are.
        raise ValueError(f"{folder} has no model that can be read: give OWNER/NAME or a folder with a config.json")
    digest = hashlib.sha256(config.read_bytes())
    for path in sorted(folder.iterdir()):
        if path.is_file():
            about = path.stat()
            digest.update(f"{path.name}:{about.st_size}:{about.st_mtime_ns};".encode())
    return f"{folder.name}:{digest.hexdigest()}"


def _folder(model: str) -> str:
    return model if model.startswith("/") else str(hub.find_model(model).path.parent)
