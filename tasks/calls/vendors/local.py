"""The local model: no key, no cost, llama.cpp's own server behind OpenAI's format."""

from collections.abc import Mapping
from typing import Any, ClassVar

from consensus_flows.blocks.credentials import ModelCredentials, openai_client
from consensus_flows.tasks.calls.local_model import alocal_base_url, weights_id
from consensus_flows.tasks.calls.request import CallKind, Request
from consensus_flows.tasks.calls.vendors.openai import OpenAI
from consensus_flows.tasks.calls.vendors.vendor import Provider


class Local(OpenAI):
    """Weights on this machine; see `local_model`."""

    name = "local"
    blocks = ()
    providers: ClassVar[Mapping[str, Provider]] = {"local": Provider(None)}

    def address(self, model: str) -> str:
        """Name the weights."""
        return f"local:{weights_id(model)}"

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

    def schema(self, request: Request) -> Any:
        """Bound the schema where the answer is limited."""
        limit = request.sampling.max_output_tokens
        return bounded(request.response_schema or {}, limit) if limit else request.response_schema


VENDOR = Local()


def bounded(schema: dict[str, Any], tokens: int) -> dict[str, Any]:
    """Return `schema` with texts so short that an object of them fits into `tokens`.

    The grammar of llama.cpp keeps to it, and a small model that rambles still closes its object before it is cut off.
    """
    properties: dict[str, Any] = dict(schema.get("properties", {}))
    open_ended = [
        name for name, field in properties.items() if field.get("type") in {"string", "array"} and "enum" not in field
    ]
    length = max(40, 2 * tokens // max(1, len(open_ended)))
    for name in open_ended:
        field = properties[name]
        if field["type"] == "string":
            properties[name] = {"maxLength": length, **field}
        elif field.get("items", {}).get("type") == "string" and "enum" not in field["items"]:
            few = min(3, field.get("maxItems", 3))
            properties[name] = {**field, "maxItems": few, "items": {"maxLength": length // 3, **field["items"]}}
    return {**schema, "properties": properties}
