"""Finds the settings that a run is given, which algorithm they are for, and those of the saved panels that it asks."""

from contextlib import suppress
from typing import Any, TypeVar

from prefect.blocks.core import Block
from pydantic import BaseModel, ValidationError

from consensus_flows.blocks.calibration import SavedPanel
from consensus_flows.blocks.member import PANEL
from consensus_flows.blocks.panel import RunConfig
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.algorithms import algorithm, algorithms
from consensus_flows.tasks.errors import ConfigurationError

Config = TypeVar("Config", bound=RunConfig)
DEEPEST = 4
"""How many panels may lie in each other."""
DEFAULT = "default"
"""The saved configuration that is meant where none is named."""


class NotSavedError(ConfigurationError):
    """No configuration is saved under a name."""


async def resolve_config(block_class: type[Block], config: Config | str | None) -> Config:
    """Return the settings of a run: those given, or a saved configuration.

    Args:
        block_class: The block in which configurations are saved.
        config: The settings, or the name of a saved configuration; None or empty for the one called `default`.

    Raises:
        ConfigurationError: If no configuration of that name is saved, or it can no longer be used.
    """
    if isinstance(config, BaseModel):
        return config
    config_class: type[Config] = block_class.model_fields["config"].annotation  # type: ignore[assignment]
    return await load_config(block_class, config_class, config or DEFAULT)


async def load_config(block_class: type[Block], config_class: type[Config], name: str) -> Config:
    """Load the configuration that is saved as `name` in a block of `block_class`.

    Args:
        block_class: The type of the block.
        config_class: The settings in it.
        name: The block's name.

    Raises:
        ConfigurationError: If there is none, or it can no longer be used.
    """
    kind = block_class.get_block_type_slug()
    try:
        block: Any = await block_class.aload(name)
        # Prefect stores every field. Only what differs from the default was chosen, and may lie over other settings.
        return config_class.model_validate(block.config.model_dump(exclude_defaults=True))
    except (ValidationError, RuntimeError) as error:
        raise ConfigurationError(f"the configuration saved as {name!r} cannot be used: {error}") from None
    except ValueError:
        raise NotSavedError(
            f"no configuration is saved as {name!r} for {kind}: `consensus save {name} --flow {kind} -m provider/model ...`"
        ) from None


def validated(config_class: type[Config], values: dict[str, Any]) -> Config:
    """Make a configuration of plain values that were given as a flow's parameter.

    Raises:
        ConfigurationError: Naming each field that is wrong.
    """
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        lines = [
            f"config.{'.'.join(map(str, item['loc']))}: {item['msg'].removeprefix('Value error, ')}" for item in found
        ]
        raise ConfigurationError("\n".join(lines)) from None


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


async def with_panels(config: Config, within: tuple[str, ...] = (), *, by_schema: bool = False) -> Config:
    """Return the settings of a run with those of every saved panel that it asks, so that all its models are known beforehand.

    Args:
        config: The settings.
        within: The panels around it, the outermost first.
        by_schema: Whether its answer must be JSON by the schema of whoever asks it.

    Raises:
        ConfigurationError: If one is not saved, contains itself, lies too deep, or cannot answer what it is asked.
    """
    if by_schema and (why := config.schema_refusal()) is not None:
        raise ConfigurationError(
            f"{_path(within)}: this panel cannot answer by a JSON schema, which judges do: {why}; use one that answers with a text"
        )
    asked = [*config.models(), *config.grading.models()]
    names = dict.fromkeys(name.model for name in asked if name.provider == PANEL)
    judges = {name.model for name in config.by_schema() if name.provider == PANEL}
    panels = {name: await _panel(config, name, within, by_schema=by_schema or name in judges) for name in names}
    if panels:
        config = config.model_copy(update={"panels": panels})
    if isinstance(config, VoteConfig) and config.cascade is not None and isinstance(config.saved_panel, str):
        then = await _behind(config.saved_panel)
        config = config.model_copy(update={"cascade": config.cascade.model_copy(update={"then": then})})
    return config


async def _panel(config: RunConfig, name: str, within: tuple[str, ...], *, by_schema: bool) -> SavedPanel:
    """Return the panel that is asked as panel/NAME: the one that the settings hold, else the saved one."""
    inside = (*within, name)
    if name in within:
        raise ConfigurationError(f"{PANEL}/{name} contains itself: {_path(inside)}")
    if len(inside) > DEEPEST:
        raise ConfigurationError(f"{_path(inside)}: panels may be nested at most {DEEPEST} deep")
    try:
        if given := config.panels.get(name):
            flow, found = given.flow, validated(algorithm(given.flow).config_class(), given.config)
        else:
            flow, found = await load_saved(name)
    except ConfigurationError as error:
        raise ConfigurationError(f"{_path(inside)}: {error.message.removeprefix('config: ')}") from None
    return _saved(name, flow, await with_panels(found, inside, by_schema=by_schema))


async def _behind(name: str) -> SavedPanel:
    """Return the saved panel that decides behind a cascade."""
    try:
        flow, found = await load_saved(name)
    except ConfigurationError as error:
        raise ConfigurationError(f"cascade: {error.message.removeprefix('config: ')}") from None
    if isinstance(found, VoteConfig) and found.saved_panel is not None:
        raise ConfigurationError(f"cascade: the saved panel {name!r} has itself a saved panel behind: name another one")
    return _saved(name, flow, await with_panels(found, (name,)))


def _saved(name: str, flow: str, config: RunConfig) -> SavedPanel:
    models = list(dict.fromkeys(map(str, config.all_models())))
    values = config.model_dump(mode="json", exclude_defaults=True)
    return SavedPanel(name=name, flow=flow, config=values, models=models)


def _path(panels: tuple[str, ...]) -> str:
    return " > ".join(f"{PANEL}/{name}" for name in panels)
