"""`consensus check`: is the server there, which credentials are found and do they answer, how much will a run call."""

import asyncio
import time
from typing import Annotated

from cyclopts import Parameter

from consensus_flows.deployments.commands.history import from_history
from consensus_flows.deployments.commands.settings.keys import saved as saved_keys
from consensus_flows.deployments.commands.settings.saved import find, saved_configurations
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, Stop, put
from consensus_flows.flows.algorithms import algorithm
from consensus_flows.flows.run import DEFAULT
from consensus_flows.tasks.calls.providers import built_in, check_models, client_of, close_clients, endpoint_of
from consensus_flows.tasks.calls.redact import redact
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.history.address import known_address, source

PATIENCE_S = 15.0


def check(name: str | None = None, *, offline: Annotated[bool, Parameter(negative="")] = False) -> Exit:
    """Say whether the server is there, which credentials are found and answer, and how much a run will call.

    Nothing that is paid for is called: a provider is asked for its list of models.

    Args:
        name: Saved configuration, of any flow, whose calls are counted; `default` if none is named.
        offline: Do not ask the providers.
    """
    info = connect()
    put(f"server      {info.api_url} answers; UI at {info.ui_url}")
    put(f"history     {_history()}")
    good = asyncio.run(_providers(offline=offline))
    try:
        put(f"run         {_calls(name or DEFAULT)}")
    except Stop as stop:
        put(f"run         {stop.message}")
        # That nothing is saved as the default is no fault where nobody has asked for it.
        good = good and name is None and not asyncio.run(saved_configurations(DEFAULT))
    return Exit.ANSWER if good else Exit.BAD_INPUT


def _history() -> str:
    from consensus_flows.tasks.history.database import shown
    from consensus_flows.tasks.history.reading import count_runs

    try:
        number = from_history(count_runs)
    except Stop as stop:
        return stop.message
    return f"{number} runs in {shown(known_address())} ({source()})"


def _calls(name: str) -> str:
    """Say how many calls a run of a saved configuration makes.

    Raises:
        Stop: If there is none of that name, or a model of it cannot be asked.
    """
    from consensus_flows.tasks.batches.planning import calls_in_words

    saved = find(name)
    one = algorithm(saved.kind)
    config = one.config_class().model_validate(saved.values)
    try:
        asyncio.run(check_models(config.models(), config.embedding()))
        return f"{name} ({saved.kind}): {calls_in_words(one.plan(config))}; without retries and second askings"
    except ConfigurationError as error:
        raise Stop(f"{name} ({saved.kind}): {error.message}") from None


async def _providers(*, offline: bool) -> bool:
    found = [name for name, _, _ in await saved_keys()]
    names = list(dict.fromkeys([*found, *built_in()]))
    try:
        lines = await asyncio.gather(*(_provider(name, saved=name in found, offline=offline) for name in names))
    finally:
        await close_clients()
    for name, (_, text) in zip(names, lines, strict=True):
        put(f"{name:<12}{text}")
    return all(good for good, _ in lines)


async def _provider(name: str, *, saved: bool, offline: bool) -> tuple[bool, str]:
    """Return whether all is well, and what to say; a built-in provider without a key is no fault."""
    try:
        endpoint = await endpoint_of(name, "smollm2")
    except ConfigurationError as error:
        return not saved, error.message
    where = (
        "the model that runs here"
        if endpoint.credentials is None
        else f"{endpoint.address} ({'saved' if saved else 'environment'})"
    )
    if offline:
        return True, where
    started = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE_S):
            client = await client_of(endpoint, "smollm2")
            await endpoint.vendor.list_models(client, PATIENCE_S)
    except Exception as error:
        fault = endpoint.vendor.fault_of(error)
        kind = endpoint.vendor.classify(fault).kind
        return False, redact(f"{where}: {kind}: {fault.message}", endpoint.secrets)
    return True, f"{where} answers in {time.monotonic() - started:.2f} s"
