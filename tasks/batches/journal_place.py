"""Where the journal of a batch is, and which day's output it is for."""

import hashlib
import os
import re
from datetime import UTC, datetime
from pathlib import Path

from prefect.runtime import flow_run
from prefect.settings import get_current_settings

from tasks.batches.places import place_of
from tasks.errors import ConfigurationError

ENDING = ".partial"
DATE = "{date}"


def dated(address: str) -> str:
    """Put the day on which the run was scheduled in the place of `{date}`: a batch of every night, a file of each.

    A run that was started by hand or is not a flow run has the day of today. Days are those of UTC.

    Raises:
        ConfigurationError: If another name is in braces: one misspelt, every night would write over the night before.
    """
    if other := re.search(r"\{\w*\}", address.replace(DATE, "")):
        raise ConfigurationError(f"output: {other[0]} stands for nothing; only {DATE} does, for the day")
    if DATE not in address:
        return address
    when = flow_run.scheduled_start_time or datetime.now(UTC)
    return address.replace(DATE, when.astimezone(UTC).date().isoformat())


def same_place(one: str, other: str) -> bool:
    """Tell whether two addresses are of one file, by whatever links."""
    places = place_of(one, "input"), place_of(other, "output")
    paths = {os.path.realpath(place.path) if place.local else place.path for place in places}
    return len(paths) == 1 and places[0].fs.protocol == places[1].fs.protocol


def journal_path(output: str) -> Path:
    """Return where the journal of an output is: beside it, or where that is no file of this machine in Prefect's home."""
    place = place_of(output, "output")
    if place.local:
        return Path(place.path + ENDING)
    name = hashlib.sha256(output.encode()).hexdigest()[:16]
    return get_current_settings().home / "consensus-batches" / f"{place.name}-{name}{ENDING}"
