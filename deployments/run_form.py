"""The form behind the Run button of a deployment: the saved configurations as a drop-down, and no internals."""

import re
from collections.abc import Iterable
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import DeploymentFilter

TAG = "consensus"
"""A tag of all our deployments."""
INTERNAL = {"shard"}
"""Parameters that a flow gives to runs of itself."""


def form_of(schema: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Return the schema of a flow's parameters as its form shows it.

    Args:
        schema: The schema, with `config` as a name or as settings.
        names: The saved configurations to choose from. Any other name can be typed, because more may be saved later.
    """
    fields = {name: field for name, field in schema["properties"].items() if name not in INTERNAL}
    kinds = fields.get("config", {}).get("anyOf", [])
    if any(kind.get("type") == "string" for kind in kinds):
        saved = [{"title": "Saved", "type": "string", "enum": names}] if names else []
        typed = {"title": "Name", "type": "string"}
        settings = [kind for kind in kinds if kind.get("type") not in {"string", "null"}]
        fields["config"] = fields["config"] | {"anyOf": [*saved, typed, *settings, {"type": "null"}]}
    if "attachments" in fields:  # a file that was read already is no choice for a person
        shown = {name: value for name, value in fields["attachments"].items() if name not in {"anyOf", "default"}}
        fields["attachments"] = shown | {"type": "array", "items": {"type": "string"}}
    return schema | {"properties": fields}


async def offer_saved(saved: Iterable[tuple[str, str]]) -> None:
    """Bring the forms of all deployments up to date.

    Args:
        saved: The name of each saved configuration, and its algorithm.
    """
    every = list(saved)
    async with get_client() as client:
        for one in await client.read_deployments(
            deployment_filter=DeploymentFilter.model_validate({"tags": {"all_": [TAG]}})
        ):
            flow = re.split(r"[.:]", one.entrypoint or "")[-1].replace("_", "-")
            schema = one.parameter_openapi_schema or {"properties": {}}
            form = form_of(schema, [name for name, kind in every if flow in {"batch", kind}])
            if form != schema:
                await client.update_deployment(one.id, DeploymentUpdate(parameter_openapi_schema=form))
