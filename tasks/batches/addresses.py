"""Where rows come from and go to: a local path, or an address that `fsspec` understands; and where the journal is."""

import hashlib
import os
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prefect.runtime import flow_run
from prefect.settings import get_current_settings

from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.files import deployed, place

EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
    "adl": "azure",
}
"""The extra of this package with which an address can be reached, by the address's scheme.

These stores are also all that a run which was started from a deployment may reach beside its folder.
"""

ENDING = ".partial"
DATE = "{date}"
_SHOWN_BYTES = 200
"""Of an output's name, in that of a journal in Prefect's home."""
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz"}


class Place(NamedTuple):
    """A file or folder in a file system of fsspec."""

    address: str
    fs: Any
    path: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def local(self) -> bool:
        """Whether it is a path of this machine."""
        return "file" in _protocols(self.fs)

    def suffixes(self) -> tuple[str, str | None]:
        """Return the ending that tells the format, in lower case, and the compression if there is one."""
        path = PurePosixPath(self.path.lower())
        compression = COMPRESSIONS.get(path.suffix)
        return (PurePosixPath(path.stem).suffix if compression else path.suffix), compression


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def place_of(address: str, parameter: str) -> Place:
    """Find the file system of an address.

    Args:
        address: A local path, or `scheme://...`.
        parameter: What the address was given as; errors name it.

    Raises:
        ConfigurationError: If there is no such file system, or the module for it is not installed.
    """
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]  # takes 0.1 s to import

    address = str(address).strip()
    if not address:
        raise ConfigurationError(f"{parameter}: must not be empty: use a path or a URL such as s3://bucket/file.jsonl")
    scheme = address.partition("://")[0] if "://" in address else ""
    try:
        fs, path = url_to_fs(address)
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        how = f"pip install 'consensus-flows[{extra}]'" if extra else str(error)
        raise ConfigurationError(
            f"{parameter}: {scheme}:// URLs require a module that is not installed: {how}"
        ) from None
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"{parameter}: {address} cannot be used: {error}") from None
    return Place(address, fs, str(path))


def confined(address: str, parameter: str) -> str:
    """Return an address that a parameter names, where it may be read and written.

    Who runs a batch oneself may read and write what one may. A run that was started from a deployment stays in the
    worker's folder, as `place` has it, or goes to a store in the cloud, with what the worker itself may do there. Every
    other file system of fsspec is refused: those that read through another one (`simplecache::file:///etc`), those that
    fetch from whatever host is named, and the next one that fsspec will have.

    Args:
        address: A local path, or `scheme://...`.
        parameter: What the address was given as; errors name it.

    Raises:
        ConfigurationError: If the run was started from a deployment, and the address leads elsewhere.
    """
    if not deployed():
        return address
    from fsspec.utils import get_protocol  # type: ignore[import-untyped]

    address = str(address).strip()
    if not address:
        raise ConfigurationError(f"{parameter}: must not be empty: use a path or a URL such as s3://bucket/file.jsonl")
    protocol = get_protocol(address)
    if "::" not in address:
        if protocol in EXTRAS:
            return address
        if _is_local(protocol):
            return str(place(address.partition("://")[2] if "://" in address else address, parameter))
    stores = ", ".join(f"{scheme}://" for scheme in EXTRAS)
    raise ConfigurationError(
        f"{parameter}: {address!r} is neither a path nor an address of a store ({stores}): nothing else is read or written "
        "by a run that was started from a deployment"
    )


def _is_local(protocol: str) -> bool:
    """Tell whether fsspec takes an address for a path of this machine, whatever it calls that today."""
    from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
    from fsspec.registry import known_implementations, registry  # type: ignore[import-untyped]

    if protocol in registry:
        return issubclass(registry[protocol], LocalFileSystem)
    named = known_implementations.get(protocol, {}).get("class")
    return bool(named == f"{LocalFileSystem.__module__}.{LocalFileSystem.__qualname__}")


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
        ConfigurationError: If another name is in braces: one misspelt, every night would write over the night before.
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
