"""Where the journal of a batch is, and which day's output it is for."""

import hashlib
import os
import re
from datetime import UTC, date, datetime
from pathlib import Path

from prefect.runtime import flow_run
from prefect.settings import get_current_settings

from consensus_flows.tasks.batches.addresses import place_of
from consensus_flows.tasks.errors import ConfigurationError

ENDING = ".partial"
DATE = "{date}"
_SHOWN_BYTES = 200
"""Of an output's name, in that of a journal in Prefect's home."""


def day_of_run() -> date:
    """Return the day on which the run was scheduled; today if it was started by hand or is no flow run. Days are of UTC."""
    return (flow_run.scheduled_start_time or datetime.now(UTC)).astimezone(UTC).date()


def dated(address: str, day: date | None = None) -> str:
    """Put a day in the place of `{date}`: a batch of every night, a file of each.

    Args:
        address: Of the output.
        day: None for that of the run.

    Raises:
        ConfigurationError: If another name is in braces: one misspelt, every night would write over the night before.
    """
    folder, _, name = address.rpartition("/")
    # A folder that is there may be called what it likes.
    named = name if os.path.isdir(folder) else address  # noqa: PTH112 - an address need not be a path
    if other := re.search(r"\{\w*\}", named.replace(DATE, "")):
        raise ConfigurationError(f"output: {other[0]} stands for nothing; only {DATE} does, for the day")
    return address.replace(DATE, (day or day_of_run()).isoformat()) if DATE in address else address


def same_place(one: str, other: str) -> bool:
    """Tell whether two addresses are of one file, by whatever links."""
    places = place_of(one, "input"), place_of(other, "output")
    paths = {os.path.realpath(place.path) if place.local else place.path for place in places}
    return len(paths) == 1 and places[0].fs.protocol == places[1].fs.protocol


def journal_path(output: str) -> Path:
    """Return where the journal of an output is: beside it, or where that is no file of this machine in Prefect's home.

    It is beside the file that links lead to, so that two batches on one file find each other.
    """
    place = place_of(output, "output")
    if place.local:
        return Path(os.path.realpath(place.path) + ENDING)
    name = hashlib.sha256(output.encode()).hexdigest()[:16]
    # A store's names may be longer than those of a file; the digest tells them apart.
    shown = (
        place.name if len(place.name.encode("utf-8", "replace")) <= _SHOWN_BYTES else place.name[: _SHOWN_BYTES // 4]
    )
    return get_current_settings().home / "consensus-batches" / f"{shown}-{name}{ENDING}"
