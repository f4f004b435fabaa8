"""`consensus models`: the models that the providers offer."""

import asyncio
from typing import Annotated

from cyclopts import Parameter

from consensus_flows.deployments.commands.settings.keys import saved as saved_keys
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, Stop, put, put_json, say
from consensus_flows.tasks.calls.probe import offered
from consensus_flows.tasks.calls.providers import built_in, close_clients, endpoint_of, is_self_hosted
from consensus_flows.tasks.errors import ConfigurationError, ModelError

Found = list[str] | ConfigurationError | ModelError


def models(provider: str | None = None, *, json: Annotated[bool, Parameter(negative="")] = False) -> Exit:
    """List the available models as provider/model.

    The exit code is 1 if a provider that has a key does not answer.

    Args:
        provider: Provider; default: all that have a key.
        json: Print JSON: a list for each provider.
    """
    connect()
    found = asyncio.run(_models(provider))
    if provider is None:
        # A server of one's own that does not run is no vendor that fails.
        found = {name: one for name, one in found.items() if not (is_self_hosted(name) and _is_away(one))}
    if provider and isinstance(error := found[provider], ConfigurationError):
        raise Stop(error.message)
    listed = {name: sorted(one) for name, one in found.items() if isinstance(one, list)}
    if json:
        put_json(listed)
    else:
        for name, offers in listed.items():
            for model in offers:
                put(f"{name}/{model}")
    silent = {name: one for name, one in found.items() if isinstance(one, ModelError)}
    for name, failed in silent.items():
        say(f"consensus: {name}: {failed.message}")
    if not any(listed.values()) and not silent:
        raise Stop(
            "no provider has a key: `consensus keys set openai`, or set its variable, for example OPENAI_API_KEY"
        )
    return Exit.NO_ANSWER if silent else Exit.ANSWER


def _is_away(found: Found) -> bool:
    return isinstance(found, ModelError) and found.kind == "connection"


async def _models(provider: str | None) -> dict[str, Found]:
    names = [provider] if provider else dict.fromkeys([*(name for name, _, _ in await saved_keys()), *built_in()])
    try:
        return dict(zip(names, await asyncio.gather(*map(_offered, names)), strict=True))
    finally:
        await close_clients()


async def _offered(provider: str) -> Found:
    try:
        return await offered(await endpoint_of(provider, ""))
    except (ConfigurationError, ModelError) as error:
        return error
