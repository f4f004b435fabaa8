"""`consensus check`: is the server there, which credentials are found and do they answer, how much will a run call."""

import asyncio
import time
from typing import Annotated

from cyclopts import Parameter

from consensus_flows.deployments.commands.history.runs import from_history
from consensus_flows.deployments.commands.settings.keys import saved as saved_keys
from consensus_flows.deployments.commands.settings.saved import find, saved_configurations
from consensus_flows.deployments.kinds import block_class
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, Stop, put
from consensus_flows.tasks.calls.clients import client_of, close_clients
from consensus_flows.tasks.calls.failures import classify, fault_of
from consensus_flows.tasks.calls.providers import BUILT_IN, LOCAL, Endpoint, check_models, endpoint_of
from consensus_flows.tasks.calls.scrub import scrub
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.history.address import history_place, said_by
from consensus_flows.tasks.saved_config import DEFAULT

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
    return f"{number} runs in {shown(history_place())} ({said_by()})"


def _calls(name: str) -> str:
    """Say how many calls a run of a saved configuration makes.

    Raises:
        Stop: If there is none of that name, or a model of it cannot be asked.
    """
    from consensus_flows.tasks.batches.planning import calls_in_words, planned_calls

    saved = find(name)
    config = block_class(saved.kind).model_fields["config"].annotation.model_validate(saved.values)
    try:
        asyncio.run(check_models(config.models(), config.embedding()))
        return f"{name} ({saved.kind}): {calls_in_words(planned_calls(config))}; without retries and second askings"
    except ConfigurationError as error:
        raise Stop(f"{name} ({saved.kind}): {error.message}") from None


async def _providers(*, offline: bool) -> bool:
    found = [name for name, _, _ in await saved_keys()]
    names = list(dict.fromkeys([*found, *BUILT_IN, LOCAL]))
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
        "the model that runs here" if name == LOCAL else f"{endpoint.address} ({'saved' if saved else 'environment'})"
    )
    if offline:
        return True, where
    started = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE_S):
            await _list_models(endpoint)
    except Exception as error:
        fault = fault_of(error)
        return False, scrub(f"{where}: {classify(fault).kind}: {fault.message}", endpoint.secrets)
    return True, f"{where} answers in {time.monotonic() - started:.2f} s"


async def _list_models(endpoint: Endpoint) -> None:
    client = await client_of(endpoint, "smollm2")
    if endpoint.wire == "google":
        await client.models.list()
    else:
        await client.models.list(timeout=PATIENCE_S)
