"""Settings of a call that come from the environment."""

import os
from math import isfinite

from consensus_flows.tasks.errors import ConfigurationError


def setting(name: str, default: float) -> float:
    """Read `CONSENSUS_<name>` from the environment.

    Raises:
        ConfigurationError: If it is no number, or below 0.
    """
    value = os.environ.get(f"CONSENSUS_{name}")
    if not value:
        return default
    try:
        number = float(value)
    except ValueError:
        number = -1
    if not isfinite(number) or number < 0:
        raise ConfigurationError(f"CONSENSUS_{name} is {value!r}: write a number from 0 up")
    return number
