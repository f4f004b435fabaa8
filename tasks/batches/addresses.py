"""Where the output of a batch is, on which day; and where its journal is."""

import hashlib
import os
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prefect.runtime import flow_run
from prefect.settings import get_current_settings

from consensus_flows.tasks.addresses import place_of
from consensus_flows.tasks.errors import ConfigurationError

ENDING = ".partial"
DATE = "{date}"
_SHOWN_BYTES = 200
"""Of an output's name, in that of a journal in Prefect's home."""


def day_of_run(timezone: str | None = None) -> date:
    """Return the day for which the run was scheduled; today if it was started by hand or is no flow run.

    Args:
        timezone: Where it is that day, such as Europe/Berlin; None for the time zone of this machine.

    Raises:
        ConfigurationError: If there is no such time zone.
    """
    moment = datetime.fromtimestamp((flow_run.scheduled_start_time or datetime.now(UTC)).timestamp(), UTC)
    return moment.astimezone(_zone(timezone)).date()


def next_time(clock: str, timezone: str | None = None) -> float:
    """Return when it is so late next, in seconds since the epoch.

    Args:
        clock: Hours and minutes, such as 06:00.
        timezone: Where, such as Europe/Berlin; None for the time zone of this machine.

    Raises:
        ConfigurationError: If there is no such time zone.
    """
    now = datetime.now(UTC).astimezone(_zone(timezone))
    hour, minute = map(int, clock.split(":"))
    then = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return (then if then > now else then + timedelta(days=1)).timestamp()


def _zone(timezone: str | None) -> ZoneInfo | None:
    try:
        return ZoneInfo(timezone) if timezone else None
    except (ZoneInfoNotFoundError, ValueError):
        raise ConfigurationError(
            f"timezone: unknown time zone {timezone!r}: use a name such as Europe/Berlin"
        ) from None


def dated(address: str, day: date | None = None) -> str:
    """Put a day in the place of `{date}`: a batch of every night, a file of each.

    Args:
        address: Of the output.
        day: None for that of the run, in the time zone of this machine.

    Raises:
        ConfigurationError: If another name is in braces: one misspelled, every night would write over the night before.
    """
    folder, _, name = address.rpartition("/")
    # A folder that is there may be called what it likes.
    named = name if os.path.isdir(folder) else address  # noqa: PTH112 - an address need not be a path
    if other := re.search(r"\{\w*\}", named.replace(DATE, "")):
        raise ConfigurationError(f"output: {other[0]} is not a placeholder: only {DATE} is, for the day")
    return address.replace(DATE, (day or day_of_run()).isoformat()) if DATE in address else address


def same_place(one: str, other: str) -> bool:
    """Tell whether two addresses are of one file, by whatever links."""
    places = place_of(one, "input"), place_of(other, "output")
    paths = {os.path.realpath(place.path) if place.local else place.path for place in places}
    return len(paths) == 1 and places[0].fs.protocol == places[1].fs.protocol


def batches_folder() -> Path:
    """Return the folder in Prefect's home of what a batch keeps that has no file beside which it could be."""
    return get_current_settings().home / "consensus-batches"


def journal_path(output: str) -> Path:
    """Return where the journal of an output is: beside it if it is a local file, else in Prefect's home.

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
    return batches_folder() / f"{shown}-{name}{ENDING}"
