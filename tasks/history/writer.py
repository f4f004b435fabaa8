"""The one thread of a process that writes the history: runs that end at once are written in one transaction."""

import atexit
import os
import queue
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from consensus_flows.tasks.history.address import Place
from consensus_flows.tasks.history.errors import HistoryError, RowError
from consensus_flows.tasks.history.rows import Entry
from consensus_flows.tasks.history.saving import save
from consensus_flows.tasks.history.sqlite_file import SqliteFile, file_of

if TYPE_CHECKING:
    from consensus_flows.tasks.history.database import Database

AT_ONCE = 200
"""Runs that are written in one transaction at most."""
IDLE_S = 5.0
"""Seconds without work after which the connections are closed."""
CLOSE_S = 5.0


class _Job(NamedTuple):
    entry: Entry | None
    done: "Future[str]"


class Writer:
    """Writes runs in a thread of its own, in the order in which they are handed over."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._database: Database | SqliteFile | None = None
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    def write(self, entry: Entry) -> "Future[str]":
        """Hand over a run; the future has its id, or a HistoryError."""
        job = _Job(entry, Future())
        self._jobs.put(job)
        return job.done

    def warm_up(self) -> None:
        """Open the history while the models think."""
        self._jobs.put(_Job(None, Future()))

    def close(self) -> None:
        """Write what was handed over, and end."""
        self._jobs.put(None)
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while True:
            try:
                first = self._jobs.get(timeout=IDLE_S if self._database else None)
            except queue.Empty:
                self._forget()
                continue
            jobs = [first]
            with suppress(queue.Empty):
                while len(jobs) < AT_ONCE:
                    jobs.append(self._jobs.get_nowait())
            self._write([job for job in jobs if job is not None])
            if None in jobs:
                self._forget()
                return

    def _write(self, jobs: list[_Job]) -> None:
        entries = [job for job in jobs if job.entry is not None]
        try:
            ids = self._save(entries)
        except Exception as error:
            if len(entries) > 1 and (isinstance(error, RowError) or not isinstance(error, HistoryError)):
                for job in entries:  # one of them is at fault: each for itself
                    self._write([job])
                return
            for job in entries:
                job.done.set_exception(_plain(error))
        else:
            for job, found in zip(entries, ids, strict=True):
                job.done.set_result(found)

    def _save(self, jobs: list[_Job]) -> list[str]:
        if self._database is None:
            self._database = _opened(self._place)
        entries = [job.entry for job in jobs if job.entry is not None]
        if not entries:
            self._database.warm_up()
            return []
        return self._database.save(lambda transaction: [save(transaction, entry) for entry in entries])

    def _forget(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def _opened(place: Place) -> "Database | SqliteFile":
    file = file_of(place)
    if file is not None:
        return SqliteFile(file)
    from consensus_flows.tasks.history.database import Database

    return Database(place)


def _plain(error: Exception) -> HistoryError:
    return error if isinstance(error, HistoryError) else HistoryError(f"{type(error).__name__}: {error}")


_writers: dict[Place, Writer] = {}
_lock = threading.Lock()


def writer_of(place: Place) -> Writer:
    """Return the writer of this process for the history at `place`."""
    with _lock:
        if place not in _writers:
            if not _writers:
                atexit.register(close_writers)
            _writers[place] = Writer(place)
        return _writers[place]


def close_writers() -> None:
    """Write what was handed over, and end all writers."""
    with _lock:
        found = list(_writers.values())
        _writers.clear()
    for writer in found:
        writer.close()


def _after_fork() -> None:
    """Forget the writers: threads do not live on in a child, and a connection must not be shared with one."""
    global _lock  # noqa: PLW0603 - the lock may have been held by a thread that is no more.
    _lock = threading.Lock()
    _writers.clear()


os.register_at_fork(after_in_child=_after_fork)
