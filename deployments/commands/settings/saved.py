"""`consensus save`, `list`, `show` and `remove`: saved configurations of all kinds of flows."""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter
from prefect.blocks.core import Block
from pydantic import ValidationError

from consensus_flows.blocks.member import ModelName
from consensus_flows.blocks.panel import RunConfig
from consensus_flows.deployments.kinds import KINDS, MAIN, block_class, module_of, options_for
from consensus_flows.deployments.options import ConsortiumOptions
from consensus_flows.deployments.run import TurnOptions
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, Stop, explain, put, put_json, say
from consensus_flows.flows.algorithms import Name
from consensus_flows.tasks.calls.providers import check_models

_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*\Z")


class Saved(NamedTuple):
    """A saved configuration."""

    name: str
    kind: Name
    values: dict[str, Any]
    fault: str = ""
    """Why it cannot be used, if it was saved when other settings were valid."""


def save_block(name: str, block: Block, models: Sequence[ModelName]) -> Exit:
    """Save a configuration under a name, after a check that its models can be asked.

    Raises:
        Stop: If the name cannot be one, or another kind of configuration has it.
    """
    if not _NAME.match(name):
        raise Stop(f"{name!r} is no name: lower-case letters, digits and single dashes, for example night-panel")
    connect()

    async def write() -> None:
        config = getattr(block, "config", None)
        await check_models(models, config.embedding() if isinstance(config, RunConfig) else None)
        slug = block.get_block_type_slug()
        others = [one.kind for one in await saved_configurations(name) if slug != slug_of(one.kind)]
        if others:
            raise Stop(f"{name!r} is the name of a saved {others[0]}: take another, or `consensus remove {name}` first")
        await block.save(name, overwrite=True)

    asyncio.run(write())
    say(f"saved as {name}")
    return Exit.ANSWER


def load(name: str, kind: str | None = None) -> dict[str, Any]:
    """Return the settings that were chosen in the saved configuration `name`.

    Raises:
        Stop: If there is none of that kind.
    """
    return find(name, kind).values


def find(name: str, kind: str | None = None) -> Saved:
    """Return the saved configuration `name`.

    Raises:
        Stop: If there is none of that kind, or it can no longer be used.
    """
    one = _find(name)
    if one.fault:
        raise Stop(f"{name!r} is saved for {one.kind} and can no longer be used, so save it again: {one.fault}")
    if kind is not None and one.kind != kind:
        raise Stop(f"{name!r} is saved for {one.kind}, not for {kind}")
    return one


def _find(name: str) -> Saved:
    connect()
    found = asyncio.run(saved_configurations(name))
    if not found:
        raise Stop(f"no configuration is saved as {name!r}: `consensus save {name} -m provider/model:count ...`")
    return found[0]


Ask = Callable[[str, TurnOptions], Exit]
"""What asks a panel, and prints and writes what was said."""


def panel_of(name: str | None, options: ConsortiumOptions) -> Ask:
    """Return what asks a saved configuration, of any flow, with options laid over it, or a consortium that is none.

    Args:
        name: Name of what is saved; None for `default`, unless the options name members or a file.
        options: What was given; an option that the saved flow does not have is a mistake.

    Raises:
        Stop: If nothing of that name is saved, or the options do not fit it.
    """
    if name is None and options.member is None and options.config is None:
        name = "default"
    found = find(name) if name else None
    kind = found.kind if found else MAIN
    module = module_of(kind)
    config = module.configure(options_for(kind, options, name), found.values if found else None)
    return lambda prompt, out: module.run_config(prompt, config, out)


def list_saved(*, json: Annotated[bool, Parameter(negative="")] = False) -> Exit:
    """List the saved configurations.

    Args:
        json: As JSON.
    """
    connect()
    found = asyncio.run(saved_configurations())
    if json:
        put_json([{"name": one.name, "flow": one.kind, "config": one.values} for one in found])
        return Exit.ANSWER
    for one in found:
        put(f"{one.name}\t{one.kind}\t{_in_short(one.values)}")
        if one.fault:
            say(f"consensus: {one.name} can no longer be used, so save it again: {one.fault}")
    if not found:
        say("nothing is saved: `consensus save NAME -m provider/model --arbiter provider/model`")
    return Exit.ANSWER


def show(name: str) -> Exit:
    """Print a saved configuration as JSON, as `--config` reads it.

    Args:
        name: Name of the configuration.
    """
    put_json(load(name))
    return Exit.ANSWER


def remove(name: str) -> Exit:
    """Remove a saved configuration.

    Args:
        name: Name of the configuration.
    """
    one = _find(name)
    asyncio.run(block_class(one.kind).adelete(name))
    say(f"removed {name}")
    return Exit.ANSWER


def slug_of(kind: Name) -> str:
    """Return the slug of the block type in which configurations of this kind are saved."""
    return str(block_class(kind).get_block_type_slug())


async def saved_configurations(name: str | None = None) -> list[Saved]:
    """List the saved configurations of all kinds, or those called `name`."""
    from prefect.client.orchestration import get_client

    kinds = {slug_of(kind): kind for kind in KINDS}
    body: dict[str, Any] = {"block_types": {"slug": {"any_": sorted(kinds)}}, "include_secrets": True}
    if name is not None:
        body["block_documents"] = {"name": {"any_": [name]}}
    async with get_client() as client:
        response = await client.request("POST", "/block_documents/filter", json=body)
    found = []
    for document in response.json():
        kind = kinds[document["block_type"]["slug"]]
        stored = document["data"]["config"]
        try:
            config = block_class(kind).model_fields["config"].annotation.model_validate(stored)
        except ValidationError as error:
            found.append(Saved(document["name"], kind, stored, explain(error)))
            continue
        # Prefect stores every field; only what differs from the default was chosen.
        found.append(Saved(document["name"], kind, config.model_dump(mode="json", exclude_defaults=True)))
    return sorted(found)


def _in_short(values: dict[str, Any]) -> str:
    text = ", ".join(f"{name} {_flat(value)}" for name, value in values.items())
    return text if len(text) <= 160 else f"{text[:159]}…"


def _flat(value: Any) -> str:
    return " ".join(str(item) for item in value) if isinstance(value, list) else str(value)
