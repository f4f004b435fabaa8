"""Loads a saved configuration of any kind."""

from typing import Any, TypeVar

from prefect.blocks.core import Block
from pydantic import BaseModel, ValidationError

from tasks.errors import ConfigurationError

Config = TypeVar("Config", bound=BaseModel)


class NotSavedError(ConfigurationError):
    """No configuration is saved under a name."""


async def load_config(
    block_class: type[Block], config_class: type[Config], name: str, kind: str | None = None
) -> Config:
    """Load the configuration that is saved as `name` in a block of `block_class`.

    Args:
        block_class: The type of the block.
        config_class: The settings in it.
        name: The block's name.
        kind: What the command line calls this kind of configuration, if not by the block's slug.

    Raises:
        ConfigurationError: If there is none, or it can no longer be used.
    """
    kind = kind or block_class.get_block_type_slug()
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
