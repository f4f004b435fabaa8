"""Writes into an SQLite file by Python's own driver: importing SQLAlchemy would cost every run half a second of CPU."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from consensus_flows.tasks.history.address import BUSY_S, HEAD, Place
from consensus_flows.tasks.history.errors import HistoryError, RowError
from consensus_flows.tasks.history.rows import Row
from consensus_flows.tasks.history.saving import Transaction

T = TypeVar("T")


def file_of(place: Place) -> Path | None:
    """Return the file of a history that is one, and has no settings of its own in its address."""
    if isinstance(place, Path):
        return place
    path = place.removeprefix("sqlite:///")
    return Path(path) if path not in {place, "", ":memory:"} and "?" not in path else None


class SqliteFile:
    """A history in a file, for use in one thread.

    Raises:
        HistoryError: From every method.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def save(self, work: Callable[[Transaction], T]) -> T:
        """Do `work` in one transaction."""
        with _explained(self._path):
            if self._connection is None:
                self._connection = self._open()
            # A writer that begins as a reader fails at once when another one has written meanwhile.
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                done = work(_Statements(self._connection))
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise
            return done

    def warm_up(self) -> None:
        """Open the file, and make it if there is none."""
        with _explained(self._path):
            if self._connection is None:
                self._connection = self._open()

    def close(self) -> None:
        """Close the file; SQLite then puts its write-ahead log into it."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        try:
            connection = self._connect()
            if self._is_current(connection):
                return connection
        except sqlite3.OperationalError:
            if self._path.exists():
                raise
        # Once in the life of a file, and after an update: SQLAlchemy and Alembic make the tables.
        from consensus_flows.tasks.history.database import Database

        database = Database(self._path)
        try:
            database.read(lambda _: None)
        finally:
            database.close()
        return self._connect()

    def _connect(self) -> sqlite3.Connection:
        address = f"file:{quote(str(self._path))}?mode=rw"
        connection = sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None)
        with _closed_on_error(connection):
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA foreign_keys=ON")
        return connection

    @staticmethod
    def _is_current(connection: sqlite3.Connection) -> bool:
        """Tell whether the tables are of this version; close the connection if not."""
        with _closed_on_error(connection):
            current = _revision(connection) == HEAD
        if not current:
            connection.close()
        return current


class _Statements:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def value(self, query: str, **given: Any) -> Any:
        found = self._connection.execute(query, given).fetchone()
        return found[0] if found else None

    def insert(self, table: str, rows: list[Row]) -> None:
        if rows:
            names = list(rows[0])
            # Names of tables and columns are ours; what others wrote goes in as parameters.
            statement = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"  # noqa: S608
            self._connection.executemany(statement, [{name: _stored(row[name]) for name in names} for row in rows])


def _stored(value: Any) -> Any:
    """Return a value as SQLAlchemy writes it into SQLite."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f") if isinstance(value, datetime) else value


def _revision(connection: sqlite3.Connection) -> str | None:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
        return None
    found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(found[0]) if found else None


@contextmanager
def _closed_on_error(connection: sqlite3.Connection) -> Iterator[None]:
    """Close the connection if the body fails: whoever keeps the exception would keep the file open."""
    try:
        yield
    except BaseException:
        connection.close()
        raise


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        kind = RowError if isinstance(error, sqlite3.IntegrityError | sqlite3.DataError) else HistoryError
        raise kind(f"the history at {path} cannot be used: {type(error).__name__}: {error}") from None
