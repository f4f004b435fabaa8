"""The configuration that a flow runs with: the one it is given, or a saved one of any kind."""

from typing import Annotated, Any, TypeVar, get_args

from prefect.blocks.core import Block
from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from consensus_flows.tasks.errors import ConfigurationError

Config = TypeVar("Config", bound=BaseModel)


class _NamesFields:
    """Reports what is wrong in settings by their fields alone; pydantic names the union's members, too, and each one's failure."""

    @staticmethod
    def __get_pydantic_core_schema__(source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        config_class = get_args(source)[0]
        return core_schema.no_info_before_validator_function(
            lambda value: config_class.model_validate(value) if isinstance(value, dict) else value, handler(source)
        )


ConfigOrName = Annotated[Config | str | None, _NamesFields]
"""A flow's parameter: the settings, or the name of a saved configuration; None or empty for the one called `default`."""

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
