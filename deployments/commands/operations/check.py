"""`consensus check`: is the server there, which credentials are found and do they answer, how much will a run call."""

import asyncio
import time
from http import HTTPStatus
from typing import Annotated

from cyclopts import Parameter

from consensus_flows.blocks.panel import RunConfig
from consensus_flows.deployments.commands.history import from_history
from consensus_flows.deployments.commands.settings.keys import saved as saved_keys
from consensus_flows.deployments.commands.settings.saved import find, saved_configurations
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, Stop, put
from consensus_flows.flows.algorithms import algorithm
from consensus_flows.flows.saved_algorithm import DEFAULT, with_panels
from consensus_flows.tasks.calls.probe import offered, probe
from consensus_flows.tasks.calls.providers import (
    built_in,
    check_models,
    close_clients,
    endpoint_of,
    is_keyless,
    load_sdks,
)
from consensus_flows.tasks.errors import ConfigurationError, ErrorKind, ModelError
from consensus_flows.tasks.history.address import known_address, source
from consensus_flows.tasks.plain_text import plural

NO_LIST: frozenset[ErrorKind] = frozenset({"not_found", "bad_request", "malformed", "empty", "unknown"})
"""How a server fails that has no list of models."""


def check(name: str | None = None, *, offline: Annotated[bool, Parameter(negative="")] = False) -> Exit:
    """Check the server, the API keys, and the models of a saved configuration.

    Providers are asked for their lists of models, which is free. A model that is not in its list is asked for a few tokens,
    with a message. The exit code is 2 if a provider or a model cannot be asked.

    Args:
        name: Name of a saved configuration; default: `default`.
        offline: Do not ask the providers.
    """
    info = connect()
    put(f"server      {info.api_url} answers; UI at {info.ui_url}")
    put(f"history     {_history()}")
    good = asyncio.run(_providers(offline=offline))
    try:
        put(f"run         {_calls(name or DEFAULT, offline=offline)}")
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
    return f"{plural(number, 'run')} in {shown(known_address())} ({source()})"


def _calls(name: str, *, offline: bool) -> str:
    """Say how many calls a run of a saved configuration makes.

    Raises:
        Stop: If there is none of that name, or a model of it cannot be asked.
    """
    from consensus_flows.tasks.batches.planning import calls_in_words

    saved = find(name)
    one = algorithm(saved.kind)
    try:
        config = asyncio.run(with_panels(one.config_class().model_validate(saved.values)))
        asyncio.run(_check(config, offline=offline))
        measured = config.calibrated_on()
        expected = "" if measured is None else f"; {measured.calls:g} a question on the labeled rows of its calibration"
        return (
            f"{name} ({saved.kind}): {calls_in_words(one.plan(config))}; without retries and second askings{expected}"
        )
    except ConfigurationError as error:
        raise Stop(f"{name} ({saved.kind}): {error.message}") from None


async def _check(config: RunConfig, *, offline: bool) -> None:
    endpoints = await check_models(config.all_models(), config.embedding())
    if offline:
        return
    try:
        found = await probe(endpoints, config.embedding())
    finally:
        await close_clients()
    if found.tested:
        put(f"            {found.describe()}")
    if found.problems:
        raise ConfigurationError("; ".join(found.problems.values()))


async def _providers(*, offline: bool) -> bool:
    found = [name for name, _, _ in await saved_keys()]
    names = [*found, *(name for name in built_in() if name not in found)]
    keyless = [name for name in names if name not in found and is_keyless(name)]
    names = [name for name in names if name not in keyless]
    try:
        lines = await asyncio.gather(*(_provider(name, saved=name in found, offline=offline) for name in names))
    finally:
        await close_clients()
    for name, (_, text) in zip(names, lines, strict=True):
        if text:
            put(f"{name:<12}{text}")
    if absent := [name for name, (_, text) in zip(names, lines, strict=True) if not text]:
        put(f"not running {', '.join(absent)}")
    if keyless:
        put(f"no key      {', '.join(keyless)}: `consensus keys set NAME`")
    return all(good for good, _ in lines)


async def _provider(name: str, *, saved: bool, offline: bool) -> tuple[bool, str]:
    """Return whether all is well, and what to say: nothing of a server of one's own that does not run."""
    try:
        endpoint = await endpoint_of(name, "")
    except ConfigurationError as error:
        # A built-in provider that cannot be asked, such as a local model that is not installed, is no fault.
        return not saved, error.message
    beside = endpoint.base_url.describe()
    if endpoint.credentials is None:
        return True, f"models that run here: {', '.join(await offered(endpoint)) or 'none yet'}"
    where = f"{endpoint.address} ({'saved' if saved else 'environment'}{beside and '; '}{beside})"
    if offline:
        return True, where
    await load_sdks([endpoint])
    started = time.monotonic()
    try:
        models = await offered(endpoint)
    except ModelError as error:
        if error.kind in NO_LIST or error.status == HTTPStatus.FORBIDDEN:
            return True, f"{where} answers, and does not list its models ({error.message})"
        if error.kind == "connection" and endpoint.is_free and not saved:
            return True, ""
        # Region or project may be set for something else on a machine that has no credentials for models.
        ambient = error.kind == "auth" and error.status is None and not saved
        return ambient, f"{where}: {error.message}"
    if not models:
        return True, f"{where} lists no models"
    listed = f" ({', '.join(models)})" if endpoint.is_free and models else ""
    return True, f"{where} answers in {time.monotonic() - started:.2f} s: {plural(len(models), 'model')}{listed}"
