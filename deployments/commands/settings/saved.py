"""`consensus save`, `list`, `show` and `remove`: saved configurations of all kinds of flows."""

import asyncio
import re
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter
from prefect.blocks.core import Block
from pydantic import BaseModel, ValidationError

from consensus_flows.blocks.calibration import Calibration, Cascade, LearnedVote
from consensus_flows.blocks.member import ModelName
from consensus_flows.blocks.panel import RunConfig
from consensus_flows.blocks.spelling import did_you_mean
from consensus_flows.deployments.run_form import offer_saved
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.tables import put_rows
from consensus_flows.deployments.terminal import Exit, Stop, explain, put_json, say
from consensus_flows.flows.algorithms import algorithm, algorithms
from consensus_flows.flows.saved_algorithm import DEFAULT, with_panels
from consensus_flows.tasks.calls.providers import check_models

_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*\Z")


class Saved(NamedTuple):
    """A saved configuration."""

    name: str
    kind: str
    values: dict[str, Any]
    fault: str = ""
    """Why it cannot be used, if it was saved when other settings were valid."""


def save_block(name: str, block: Block, models: Sequence[ModelName]) -> Exit:
    """Save a configuration under a name, after a check that its models can be asked.

    Raises:
        Stop: If the name cannot be one, or another kind of configuration has it.
    """
    taken = check_name(name, block.get_block_type_slug())

    async def write() -> None:
        config = getattr(block, "config", None)
        if isinstance(config, RunConfig):
            # Within itself, so that a panel that would contain itself is not saved.
            whole = await with_panels(config, (name,))
            await check_models(whole.all_models(), whole.embedding())
        else:
            await check_models(models)
        await block.save(name, overwrite=True)
        await offer()

    asyncio.run(write())
    say(f"replaced {name}" if taken else f"saved as {name}")
    return Exit.ANSWER


def check_name(name: str, slug: str) -> bool:
    """Tell whether a configuration is saved under a name already.

    Raises:
        Stop: If the name cannot be one, or another kind of configuration has it.
    """
    if not _NAME.match(name):
        raise Stop(
            f"{name!r} is not a valid name: use lower-case letters, digits and single dashes, for example night-panel"
        )
    connect()
    before = asyncio.run(saved_configurations(name))
    others = [one.kind for one in before if slug != algorithm(one.kind).block_class().get_block_type_slug()]
    if others:
        raise Stop(f"{name!r} is the name of a saved {others[0]}: take another, or `consensus remove {name}` first")
    return bool(before)


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
    one = _usable(_find(name))
    if kind is not None and one.kind != kind:
        raise Stop(f'{name!r} is saved for {one.kind}, not for {kind}: `consensus "PROMPT" --name {name}` runs it')
    return one


def _usable(one: Saved) -> Saved:
    if one.fault:
        raise Stop(f"{one.name!r} is saved for {one.kind} and can no longer be used, so save it again: {one.fault}")
    return one


def find_default() -> Saved:
    """Return the saved configuration that is used where neither a name nor members are given.

    Raises:
        Stop: If there is none, or it can no longer be used.
    """
    connect()
    if not (found := asyncio.run(saved_configurations(DEFAULT))):
        raise Stop(
            "members: give -m provider/model, or --name NAME for a saved configuration; one that is saved as `default` is used "
            "without a name"
        )
    return _usable(found[0])


def is_saved(name: str) -> bool:
    """Tell whether a configuration is saved under a name."""
    connect()
    return bool(asyncio.run(saved_configurations(name)))


def _find(name: str) -> Saved:
    connect()
    found = asyncio.run(saved_configurations(name))
    if not found:
        names = [one.name for one in asyncio.run(saved_configurations())]
        others = (
            f" Saved are {', '.join(names)}." if names else f" `consensus save {name} -m provider/model ...` saves one."
        )
        raise Stop(f"no configuration is saved as {name!r}.{did_you_mean(name, names) or others}")
    return found[0]


def list_saved(*, json: Annotated[bool, Parameter(negative="")] = False) -> Exit:
    """List the saved configurations.

    In a pipe, one tab-separated line per configuration: name, flow, settings.

    Args:
        json: Print JSON.
    """
    connect()
    found = asyncio.run(saved_configurations())
    if json:
        put_json([{"name": one.name, "flow": one.kind, "config": one.values} for one in found])
        return Exit.ANSWER
    put_rows(
        ["name", "flow", "settings"], [[one.name, one.kind, _in_short(one.values)] for one in found], wide="settings"
    )
    for one in found:
        if one.fault:
            say(f"consensus: {one.name} can no longer be used, so save it again: {one.fault}")
    if not found:
        say("nothing is saved: `consensus save NAME -m provider/model --arbiter provider/model`")
    return Exit.ANSWER


def show(name: str) -> Exit:
    """Print a saved configuration as JSON, for `--config`.

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

    async def delete() -> None:
        await algorithm(one.kind).block_class().adelete(name)
        await offer()

    asyncio.run(delete())
    say(f"removed {name}")
    return Exit.ANSWER


async def offer() -> None:
    """Let the forms of the deployments offer what is saved now."""
    await offer_saved((one.name, one.kind) for one in await saved_configurations())


async def saved_configurations(name: str | None = None) -> list[Saved]:
    """List the saved configurations of all kinds, or those called `name`."""
    from prefect.client.orchestration import get_client

    kinds = {one.block_class().get_block_type_slug(): one for one in algorithms().values()}
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
            config = kind.config_class().model_validate(stored)
        except ValidationError as error:
            found.append(Saved(document["name"], kind.name, stored, explain(error)))
            continue
        # Prefect stores every field; only what differs from the default was chosen.
        found.append(Saved(document["name"], kind.name, config.model_dump(mode="json", exclude_defaults=True)))
    return sorted(found)


def _in_short(values: dict[str, Any]) -> str:
    text = ", ".join(
        f"{name} {_flat(_SHORT[name].model_validate(value) if name in _SHORT else value)}"
        for name, value in values.items()
    )
    return text if len(text) <= 160 else f"{text[:159]}…"


_SHORT: dict[str, type[BaseModel]] = {"cascade": Cascade, "learned": LearnedVote, "calibration": Calibration}
"""Settings that say in short what they are."""


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}={_flat(one)}" for name, one in value.items())
    return " ".join(str(item) for item in value) if isinstance(value, list) else str(value)
