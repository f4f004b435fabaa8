"""Which files of this machine a run may touch that somebody else has started.

The command line and Python read and write what their user may. Who starts a deployment over the Prefect server sends
parameters from elsewhere, and a path among them is a wish to read or to write on the worker's machine.
"""

import os
from pathlib import Path

from prefect import context
from prefect.context import FlowRunContext

from consensus_flows.tasks.errors import ConfigurationError

FOLDER = "CONSENSUS_FILES"
"""The environment variable, on a worker, that names the folder for files that parameters may name; by default where it runs."""


def deployed() -> bool:
    """Tell whether this code is part of a run that was started from a deployment."""
    run = FlowRunContext.get()
    if run is not None and run.flow_run is not None and run.flow_run.deployment_id is not None:
        return True
    # Prefect's own note of it for flows within the deployed one.
    noted = getattr(context, "_deployment_id", None)
    return noted is not None and noted.get() is not None


def place(path: str | Path, field: str, *also: Path) -> Path:
    """Return the file or folder that the parameter `field` names, without links and dots.

    Args:
        path: What was given; a relative one is below the folder where this process runs, or that of a worker.
        field: The parameter, for the error.
        also: Further folders that a deployed run may look into.

    Raises:
        ConfigurationError: If the run was started from a deployment and the path leads out of the worker's folder, or is none.
    """
    if not deployed():
        return Path(path).expanduser().resolve()
    folder = Path(os.environ.get(FOLDER) or ".").expanduser().resolve()
    try:
        found = (folder / path).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a NUL byte
        raise ConfigurationError(f"{field}: {str(path)!r} is no path: {error}") from None
    if any(found.is_relative_to(one) for one in (folder, *also)):
        return found
    raise ConfigurationError(
        f"{field}: {str(path)!r} leads out of {folder}: a run that was started from a deployment reads and writes only "
        f"there; {FOLDER} on the worker names another folder"
    )
