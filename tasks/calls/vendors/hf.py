"""Models of Hugging Face's transformers on this machine: no key, no cost, `transformers serve` behind OpenAI's format."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from consensus_flows.blocks.credentials import ModelCredentials, openai_client
from consensus_flows.tasks.calls import hub
from consensus_flows.tasks.calls.hf_model import INSTALL_HINT, HFModelError, folder_id, missing, room
from consensus_flows.tasks.calls.request import CallKind, Request
from consensus_flows.tasks.calls.vendors.openai import OpenAI
from consensus_flows.tasks.calls.vendors.vendor import Provider, Repairs
from consensus_flows.tasks.errors import ConfigurationError

MAX_ANSWER_TOKENS = 1024
"""Without a limit of its own, transformers stops after 20 tokens."""


class HF(OpenAI):
    """`hf/OWNER/NAME` of the hub, or the folder `hf//path`; what `extra` holds are settings of `GenerationConfig`."""

    name = "hf"
    blocks = ()
    # The server generates one answer at a time, while the timeout of those that wait would run.
    providers: ClassVar[Mapping[str, Provider]] = {"hf": Provider(None, max_concurrency=1)}
    kinds = frozenset({"chat"})
    parameters: ClassVar[Mapping[str, str | None]] = {
        "max_output_tokens": "max_new_tokens",
        "reasoning_effort": None,
        "service_tier": None,
    }
    alternatives: ClassVar[Mapping[str, str]] = {}

    async def find(self, model: str, token: str | None) -> None:
        """Find what a name means, and that there is what runs it."""
        if package := missing():
            raise HFModelError(f"models of transformers need the extra hf, {package} is not installed: {INSTALL_HINT}")
        if model and not model.startswith("/"):
            if model.count("/") != 1:
                raise HFModelError(f"{model!r} is no model of the hub or folder: write hf/OWNER/NAME or hf//path")
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
        """Have the model loaded; another is freed for it."""
        try:
            async with room().of(_folder(request.model)) as base_url:
                yield client.with_options(base_url=base_url)
        except HFModelError as error:
            raise ConfigurationError(str(error)) from None

    def build(self, request: Request, repairs: Repairs) -> dict[str, Any]:
        """Build the arguments: all settings in one configuration of the generation; the server ignores schemas."""
        built = super().build(request, replace(repairs, schema_mode=2))
        settings = built.pop("extra_body")
        seed, stop = settings.pop("seed", None), settings.pop("stop", None)
        sampled = settings.get("temperature") != 0 and not {"temperature", "top_p", "top_k"}.isdisjoint(settings)
        if settings.get("temperature") == 0:
            del settings["temperature"]
            settings.setdefault("do_sample", False)
        elif sampled:
            settings.setdefault("do_sample", True)
        settings.setdefault("max_new_tokens", MAX_ANSWER_TOKENS)
        beside = {"seed": seed, "stop": list(stop) if stop else None}
        return {
            **built,
            "model": _folder(request.model),
            "extra_body": {name: value for name, value in beside.items() if value is not None}
            | {"generation_config": json.dumps(settings)},
        }

    def notes(self, request: Request, repairs: Repairs) -> tuple[str, ...]:
        """Say that a schema is in the prompt."""
        return super().notes(request, replace(repairs, schema_mode=2))

    def unsent(self, request: Request) -> tuple[str, ...]:
        """Name what has no parameter."""
        return super(OpenAI, self).unsent(request)

    def stream_arguments(self, request: Request, repairs: Repairs) -> dict[str, Any]:
        """Ask for a stream, but where beams are searched, which are not known before the end."""
        beams = request.sampling.extra.get("num_beams", 1)
        return super().stream_arguments(request, repairs) if beams == 1 else {}

    async def list_models(self, client: Any, timeout: float) -> list[str]:  # noqa: ARG002  # nobody is asked
        """Name the models in the cache of the hub."""
        return await asyncio.to_thread(hub.models_in_cache)


VENDOR = HF()


def _folder(model: str) -> str:
    return model if model.startswith("/") else str(hub.find_model(model).path.parent)
