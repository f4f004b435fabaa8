"""Batches of earlier days that did not end: whoever starts one again after midnight continues it.

The day in an output's name is that of the run, and the journal is beside the output. So a batch that was killed at 23:50
and is started again at 00:10 would begin anew, with neither the rows nor the bill nor the budget of what was done.
"""

import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from prefect.runtime import flow_run

from consensus_flows.tasks.addresses import Place, place_of
from consensus_flows.tasks.batches.addresses import DATE, dated, journal_path

AT_WORK_S = 12 * 3600.0
"""Seconds after which no run continues the batch of the day before on its own: half of what is between two nights."""
DAYS = 14
"""Days that are looked back."""
BY_SCHEDULE = "auto-scheduled"
"""Prefect's tag of runs that a schedule has made."""


class Unfinished(NamedTuple):
    """A batch of an earlier day that has not ended.

    Attributes:
        output: Its output.
        idle_s: Seconds since it was last at work.
        resumes: Whether a run that is started now is meant to continue it.
        rows: The digest of its input.
    """

    output: str
    idle_s: float
    resumes: bool
    rows: str | None = None

    def describe(self, instead: str) -> str:
        """Say what becomes of it.

        Args:
            instead: The output that the run has by its own day.
        """
        if self.resumes:
            return f"{self.output} was at work {_ago(self.idle_s)} and did not end: this run continues it in place of {instead}"
        return f"{self.output} did not end: a batch with that output continues it"


def unfinished(address: str, plan: Mapping[str, Any], today: date) -> Iterator[Unfinished]:
    """Find the batches of earlier days that have left a journal, the latest first.

    A run that a schedule has started is that of its day. Any other continues the batch of the day before if that has
    the same plan and was at work less than twelve hours ago, and if nothing is there yet of the run's own day. Whether it
    has the same rows is for the caller to tell. One that is still at work is left out.

    Args:
        address: The output as it was given; without `{date}` there is nothing to find.
        plan: What the journal must be of.
        today: The day of the run.
    """
    if DATE not in address:
        return
    own = dated(address, today)
    free = started_by_hand() and not journal_path(own).exists() and not _exists(place_of(own, "output"))
    for days in range(1, DAYS + 1):
        output = dated(address, today - timedelta(days=days))
        path = journal_path(output)
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                head = json.loads(file.readline())
            found, rows = head["batch"], head.get("rows")
            idle_s = time.time() - path.stat().st_mtime
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(found, dict) and all(found.get(name) == value for name, value in plan.items()):
            yield Unfinished(output, idle_s, resumes=free and days == 1 and idle_s < AT_WORK_S, rows=rows)


def unfinished_shards(address: str, folder_ending: str, today: date) -> Unfinished | None:
    """Find a batch in shards of the day before that a run is meant to continue.

    Args:
        address: The output as it was given.
        folder_ending: What is put to an output to name the folder of its shards; it tells the plan and the rows.
        today: The day of the run.
    """
    if DATE not in address or not started_by_hand():
        return None
    own, before = dated(address, today), dated(address, today - timedelta(days=1))
    if _exists(place_of(own, "output")) or _exists(place_of(own + folder_ending, "output")):
        return None
    idle_s = _idle_s(place_of(before + folder_ending, "output"))
    return None if idle_s is None or idle_s >= AT_WORK_S else Unfinished(before, idle_s, resumes=True)


def started_by_hand() -> bool:
    """Tell whether the run is one that somebody has started, and not one of a schedule."""
    return BY_SCHEDULE not in (flow_run.tags or [])


def _exists(place: Place) -> bool:
    try:
        return bool(place.fs.exists(place.path))
    except Exception:  # whatever a store's client raises; the check of the output says so
        return False


def _idle_s(folder: Place) -> float | None:
    """Return the seconds since the last file of a folder was written, or None where that cannot be told."""
    try:
        times = [folder.fs.modified(path) for path in folder.fs.ls(folder.path, detail=False)]
    except Exception:  # there is no such folder, or a store that knows no times
        return None
    known = [when if when.tzinfo else when.replace(tzinfo=UTC) for when in times]
    return (datetime.now(UTC) - max(known)).total_seconds() if known else None


def _ago(seconds: float) -> str:
    return f"{seconds / 3600:.0f} hours ago" if seconds >= 2 * 3600 else f"{max(seconds, 0) / 60:.0f} minutes ago"
