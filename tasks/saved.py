"""Loads a saved configuration."""

from typing import Any

from pydantic import ValidationError

from blocks.consortium import Consortium, ConsortiumConfig
from tasks.errors import ConfigurationError


async def load_saved(name: str) -> ConsortiumConfig:
    """Load the saved configuration `name`.

    Raises:
        ConfigurationError: If there is none, or it can no longer be used.
    """
    try:
        block: Any = await Consortium.aload(name)
        # Prefect stores every field. Only what differs from the default was chosen, and may lie over other settings.
        return ConsortiumConfig.model_validate(block.config.model_dump(exclude_defaults=True))
    except (ValidationError, RuntimeError) as error:
        raise ConfigurationError(f"the configuration saved as {name!r} cannot be used: {error}") from None
    except ValueError:
        raise ConfigurationError(
            f"no configuration is saved as {name!r}: "
            f"`consensus save {name} -m provider/model:count --arbiter provider/model`"
        ) from None
