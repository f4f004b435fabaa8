"""Finds out which algorithm a saved configuration is for."""

from typing import Any

from consensus_flows.flows.algorithms import algorithms
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.saved_config import NotSavedError, load_config


async def load_saved(name: str, algorithm: str | None = None) -> tuple[str, Any]:
    """Load the configuration that is saved as `name`, of whatever algorithm it is.

    Args:
        name: The block's name.
        algorithm: The algorithm that it must be for; None for any.

    Raises:
        ConfigurationError: If there is none, or several algorithms have one of that name, or it can no longer be used.
    """
    found: list[tuple[str, Any]] = []
    missing = None
    for kind, one in algorithms().items():
        if algorithm not in (None, kind):
            continue
        try:
            found.append((kind, await load_config(one.block_class(), one.config_class(), name)))
        except NotSavedError as error:
            missing = error
    if not found:
        if algorithm is not None and missing is not None:
            raise missing
        raise ConfigurationError(
            f"saved: no configuration is saved as {name!r}: `consensus save {name} --flow vote -m provider/model ...`, or "
            "give flow and config"
        )
    if len(found) > 1:
        raise ConfigurationError(
            f"saved: {name!r} is saved for {' and for '.join(kind for kind, _ in found)}: say which flow"
        )
    return found[0]
