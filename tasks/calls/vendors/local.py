"""The local model: no key, no cost, llama.cpp's own server behind OpenAI's format."""

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

from consensus_flows.blocks.credentials import ModelCredentials, openai_client
from consensus_flows.tasks.calls import hub
from consensus_flows.tasks.calls.local_model import SMOLLM2, LocalModelError, alocal_base_url, gguf_path, weights_id
from consensus_flows.tasks.calls.model_server import MAX_ANSWER_TOKENS
from consensus_flows.tasks.calls.request import CallKind, Request
from consensus_flows.tasks.calls.vendors.openai import OpenAI
from consensus_flows.tasks.calls.vendors.vendor import Provider


class Local(OpenAI):
    """Weights on this machine; see `local_model`."""

    name = "local"
    blocks = ()
    attachment_kinds = frozenset()
    providers: ClassVar[Mapping[str, Provider]] = {"local": Provider(None)}

    def address(self, model: str) -> str:
        """Name the weights; without a model, those that a package carries."""
        return f"local:{weights_id(model or SMOLLM2)}"

    async def find(self, model: str, token: str | None) -> None:
        """Find which file of the hub a name means."""
        if name := hub.split_name(model):
            await asyncio.to_thread(hub.find, *name, token)

    def to_fetch(self, model: str) -> str | None:
        """Name the file of the hub, its size and its license, unless it is in the cache."""
        name = hub.split_name(model)
        file = hub.find(*name) if name else None
        return None if file is None or file.is_here else file.describe()

    async def fetch(self, model: str) -> None:
        """Download the file."""
        await asyncio.to_thread(gguf_path, model)

    async def client(
        self,
        credentials: ModelCredentials | None,  # noqa: ARG002  # there are none
        model: str,
        kind: CallKind,
        max_response_mb: float,
    ) -> Any:
        """Make a client of the server of these weights, starting it at first use."""
        base_url = await alocal_base_url(model, embedding=kind == "embedding")
        return openai_client("none", base_url, max_response_mb=max_response_mb)

    async def list_models(self, client: Any, timeout: float) -> list[str]:  # noqa: ARG002  # nobody is asked
        """Name the model that a package carries, where that is installed, and those of the hub that are in the cache."""
        try:
            gguf_path(SMOLLM2)
            packaged = [SMOLLM2]
        except LocalModelError:
            packaged = []
        return [*packaged, *(name for name, _ in await asyncio.to_thread(hub.in_cache))]

    def schema(self, request: Request) -> Any:
        """Bound the schema to the length of an answer."""
        if request.response_schema is None:
            return None
        return bounded(request.response_schema, request.sampling.max_output_tokens or MAX_ANSWER_TOKENS)


VENDOR = Local()


def bounded(schema: dict[str, Any], tokens: int) -> dict[str, Any]:
    """Return `schema` with texts and lists so short that an object of them fits into `tokens`.

    The grammar of llama.cpp keeps to it, and a small model that rambles still closes its object before it is cut off.
    """
    shortened: dict[str, Any] = _short(schema, 2 * tokens, 3)
    return shortened


def _short(field: dict[str, Any], characters: int, entries: int) -> dict[str, Any]:
    """Divide `characters` among the texts in a schema; lists inside of lists have fewer entries."""
    kind, items = field.get("type"), field.get("items", {})
    if kind == "string" and "enum" not in field:
        return {"maxLength": max(24, characters), **field}
    if kind == "array" and "enum" not in items:
        few = min(entries, field.get("maxItems", entries))
        return {**field, "maxItems": few, "items": _short(items, characters // few, 1)}
    if kind == "object":
        properties = field["properties"]
        share = characters // max(1, sum(_is_open(one) for one in properties.values()))
        # The comparison of an arbiter's judgement is an object in an object: there is room for one entry a list.
        return {
            **field,
            "properties": {
                name: _short(one, share, 1 if one.get("type") == "object" else entries)
                for name, one in properties.items()
            },
        }
    return field


def _is_open(field: dict[str, Any]) -> bool:
    return field.get("type") in {"string", "array", "object"} and "enum" not in field
