"""`consensus save`, `list`, `show` and `remove`: saved configurations."""

import asyncio
import re
from typing import Annotated, Any

from cyclopts import Parameter

from blocks.consortium import Consortium
from deployments.consortium import config_of
from deployments.options import PanelOptions
from deployments.run import server
from deployments.terminal import Exit, Stop, put, put_json, say
from flows.consortium import load_saved

_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*\Z")


def save(name: str, *, panel: PanelOptions | None = None) -> Exit:
    """Save a configuration under a name; `consensus "PROMPT" --name NAME` uses it, and `default` is used without.

    Args:
        name: Lower-case letters, digits and dashes.
        panel: Who is asked and who judges.
    """
    if not _NAME.match(name):
        raise Stop(f"{name!r} is no name: lower-case letters, digits and single dashes, for example night-panel")
    config = config_of(panel or PanelOptions(), None)
    server()

    async def write() -> None:
        from tasks.providers import check_models

        await check_models([*(member.name for member in config.panel()), *config.arbiters()])
        await Consortium(config=config).save(name, overwrite=True)

    asyncio.run(write())
    say(f"saved as {name}")
    return Exit.ANSWER


def list_saved(*, json: Annotated[bool, Parameter(negative="")] = False) -> Exit:
    """List the saved configurations.

    Args:
        json: As JSON.
    """
    server()
    found = asyncio.run(_documents())
    if json:
        put_json([{"name": name, "config": config} for name, config in found])
        return Exit.ANSWER
    for name, config in found:
        put(f"{name}\t{', '.join(config.get('members', []))}\tarbiter {config.get('arbiter')}")
    if not found:
        say("nothing is saved: `consensus save NAME -m provider/model --arbiter provider/model`")
    return Exit.ANSWER


def show(name: str) -> Exit:
    """Print a saved configuration as JSON, as `--config` reads it.

    Args:
        name: Name of the configuration.
    """
    server()
    put_json(asyncio.run(load_saved(name)).model_dump(mode="json", exclude_defaults=True))
    return Exit.ANSWER


def remove(name: str) -> Exit:
    """Remove a saved configuration.

    Args:
        name: Name of the configuration.
    """
    server()

    async def delete() -> None:
        await load_saved(name)
        await Consortium.adelete(name)

    asyncio.run(delete())
    say(f"removed {name}")
    return Exit.ANSWER


async def _documents() -> list[tuple[str, dict[str, Any]]]:
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        response = await client.request(
            "POST",
            "/block_documents/filter",
            json={"block_types": {"slug": {"any_": [Consortium.get_block_type_slug()]}}},
        )
    return sorted((document["name"], document["data"].get("config", {})) for document in response.json())
