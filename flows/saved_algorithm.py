"""Finds the settings that a flow is given, and which algorithm they are for."""

from contextlib import suppress
from typing import Any

from consensus_flows.blocks.calibration import SavedPanel
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.algorithms import algorithm, algorithms
from consensus_flows.flows.run import DEFAULT, Config, NotSavedError, load_config, validated
from consensus_flows.tasks.errors import ConfigurationError


async def load_saved(name: str, flow: str | None = None) -> tuple[str, Any]:
    """Load the configuration that is saved as `name`, of whatever algorithm it is.

    Args:
        name: The block's name.
        flow: The algorithm that it must be for; None for any.

    Raises:
        ConfigurationError: If there is none, or several algorithms have one of that name, or it can no longer be used.
    """
    found: dict[str, Any] = {}
    for one in algorithms().values():
        with suppress(NotSavedError):
            found[one.name] = await load_config(one.block_class(), one.config_class(), name)
    if not found:
        raise ConfigurationError(
            f"config: no configuration is saved as {name!r}: `consensus save {name} --flow {flow or 'vote'} -m provider/model ...`"
        )
    if flow is None and len(found) == 1:
        return next(iter(found.items()))
    if flow in found:
        return flow, found[flow]
    kinds = " and for ".join(found)
    wanted = "say which in flow" if flow is None else f"not for {flow}: give its flow, too"
    raise ConfigurationError(f"config: {name!r} is saved for {kinds}, {wanted}")


async def settings_of(
    flow: str | None, config: dict[str, Any] | str | None, default: str | None = None
) -> tuple[str, Any]:
    """Return the algorithm and its settings, as a flow's parameters `flow` and `config` give them.

    Args:
        flow: The algorithm; None for that of the saved configuration, or the default.
        config: Settings, or the name of a saved configuration; None for the one called default.
        default: The algorithm of settings that come without one.

    Raises:
        ConfigurationError: Naming what cannot be used.
    """
    if not isinstance(config, dict):
        return await load_saved(config or DEFAULT, flow)
    name = flow or default
    if name is None:
        raise ConfigurationError("name the algorithm of these settings", field="flow")
    return name, validated(algorithm(name).config_class(), config)


async def with_saved_panel(config: Config) -> Config:
    """Return the settings of a run with the saved panel that they name, so that all its models are known beforehand.

    Raises:
        ConfigurationError: If there is none, or it has itself a saved panel behind.
    """
    if not isinstance(config, VoteConfig) or config.cascade is None or not isinstance(config.saved_panel, str):
        return config
    name = config.saved_panel
    try:
        flow, found = await load_saved(name)
    except ConfigurationError as error:
        raise ConfigurationError(f"cascade: {error.message.removeprefix('config: ')}") from None
    if isinstance(found, VoteConfig) and found.saved_panel is not None:
        raise ConfigurationError(f"cascade: the saved panel {name!r} has itself a saved panel behind: name another one")
    models = list(dict.fromkeys(map(str, found.models())))
    panel = SavedPanel(name=name, flow=flow, config=found.model_dump(mode="json", exclude_defaults=True), models=models)
    return config.model_copy(update={"cascade": config.cascade.model_copy(update={"then": panel})})
