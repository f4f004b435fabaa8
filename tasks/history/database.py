"""The tables of the history, and the connection: SQLite with one writer at a time, PostgreSQL, or another database of SQLAlchemy's.

Names of columns are those of the record where they mean the same. Tables that are missing or of an older version are
brought up to date when the history is opened.
"""

import asyncio
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from sqlalchemy import (
    URL,
    Boolean,
    Column,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    create_engine,
    event,
    inspect,
    literal_column,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from consensus_flows.tasks.calls.redact import redact
from consensus_flows.tasks.errors import HistoryError, RowError
from consensus_flows.tasks.history.address import OFF, VARIABLE, Address, known_address, source

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

BUSY_S = 30.0
"""Seconds that a writer waits for another one."""
CONNECT_S = 10
LOCK = 0x636F6E73
"""Number of the advisory lock that a migration takes on PostgreSQL."""
MIGRATIONS = Path(__file__).parent / "migrations"

T = TypeVar("T")
Work = Callable[[Connection], T]


metadata = MetaData()


class Moment(TypeDecorator[datetime]):
    """A point in time. SQLite keeps no time zone: there it is UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return the time in UTC."""
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return the time with its zone."""
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


conversations = Table(
    "conversations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("username", Text, nullable=False),
    Column("started_at", Moment, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    # The flow run's id; of a flow run that was retried the second and further ones end in -2, -3, ... The rows of a batch
    # have ids of their own.
    Column("id", Text, primary_key=True),
    Column("flow_run_id", Text),
    Column("position", Integer, nullable=False),
    Column("flow", Text, nullable=False),
    Column("name", Text),
    Column("username", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("degraded", Boolean, nullable=False),
    Column("confidence", Float),
    Column("agreement", Float),
    Column("cost_usd", Float),
    Column("calls", Integer, nullable=False),
    Column("cached_calls", Integer, nullable=False),
    Column("duration_s", Float, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("conversation_id", Text, ForeignKey("conversations.id")),
    Column("prompt", Text, nullable=False),
    Column("answer", Text),
    Column("error", Text),
    # Last, because a list of runs does not read it.
    Column("record", Text, nullable=False),
    UniqueConstraint("flow_run_id", "position", name="runs_flow_run"),
    # With what tells whether a run is a row of a batch, so that a list of the others does not read a million rows.
    Index("runs_started_at", "started_at", "id", "flow", "flow_run_id"),
)
IS_BATCH = runs.c.position == literal_column("0")
"""Whether a run is a batch as a whole; spelled as in the index, which SQLite uses only where the number is in the query."""
Index("runs_batches", runs.c.flow_run_id, runs.c.position, sqlite_where=IS_BATCH, postgresql_where=IS_BATCH)

iterations = Table(
    "iterations",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("duration_s", Float, nullable=False),
    Column("agreement", Float),
    Column("confidence", Float),
    Column("arbiter", Text),
    Column("chosen", Text),
    Column("synthesis", Text),
)

calls = Table(
    "calls",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("iteration", Integer, nullable=False),
    Column("role", Text, nullable=False),
    Column("member", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("instance", Integer, nullable=False),
    Column("error_kind", Text),
    Column("error", Text),
    Column("latency_s", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("cached", Boolean, nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("cached_input_tokens", Integer, nullable=False),
    Column("reasoning_tokens", Integer, nullable=False),
    Column("cost_usd", Float),
    Column("won", Boolean, nullable=False),
    Column("agreement", Float),
    Column("text", Text),
    # All that statistics read: the texts of a million calls are gigabytes.
    Index(
        "calls_model",
        *("provider", "model", "error_kind", "cached", "latency_s", "role"),
        *("cost_usd", "won", "agreement", "output_tokens", "run_id"),
    ),
)

turns = Table(
    "turns",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("conversation_id", Text, ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False),
    Column("parent_id", Text, ForeignKey("turns.run_id", ondelete="CASCADE")),
    Column("ended_at", Moment, nullable=False),
    # Messages as JSON that were given to the run beside the turns before it.
    Column("given", Text),
    Index("turns_conversation", "conversation_id", "ended_at"),
    Index("turns_ended_at", "ended_at"),
)


class Database:
    """The history, for use in one thread that runs no event loop.

    Args:
        address: Where it is.

    Raises:
        HistoryError: From every method, with one sentence that holds no password.
    """

    def __init__(self, address: Address) -> None:
        with _explained(address if isinstance(address, Path) else VARIABLE):
            self._url = url_of(address)
            self._name = _public(self._url)
            self._secrets = _secrets_of(self._url)
            self._lock = threading.Lock()
            self._runner: asyncio.Runner | None = None
            self._engine: Engine | None = None
            self._async: AsyncEngine | None = None
            self._connect()
        self._ready = False

    def open(self) -> None:
        """Connect, and bring the tables up to date."""
        self.read(lambda _: None)

    def read(self, work: Work[T]) -> T:
        """Do `work` in one transaction that reads."""
        return self._do(work, write=False)

    def write(self, work: Work[T]) -> T:
        """Do `work` in one transaction that writes."""
        return self._do(work, write=True)

    def shrink(self) -> None:
        """Give the disk back what deleted rows took, and leave nothing of them; PostgreSQL's autovacuum does that itself."""
        if self._engine is None or self._url.get_backend_name() != "sqlite":
            return
        with self._lock, _explained(self._name, self._secrets):
            raw = self._engine.raw_connection()
            try:
                raw.cursor().execute("VACUUM")
                raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.Error as error:
                raise HistoryError(f"the history at {self._name} cannot be made smaller now: {error}") from None
            finally:
                raw.close()

    def close(self) -> None:
        """Close all connections; SQLite then puts its write-ahead log into the file."""
        with suppress(Exception):
            if self._async is not None and self._runner is not None:
                self._runner.run(self._async.dispose())
                self._runner.close()
            if self._engine is not None:
                self._engine.dispose()

    def _connect(self) -> None:
        if self._url.get_backend_name() == "sqlite":
            if self._url.database and not self._url.query:
                _make_private(Path(self._url.database))
            self._engine = create_engine(self._url, connect_args={"timeout": BUSY_S})
            event.listen(self._engine, "connect", _on_connect)
            event.listen(self._engine, "begin", _on_begin)
        elif self._url.get_dialect().is_async:
            from sqlalchemy.ext.asyncio import create_async_engine

            self._runner = asyncio.Runner()
            self._async = create_async_engine(self._url, connect_args={"timeout": CONNECT_S})
        else:
            self._engine = create_engine(self._url)

    def _do(self, work: Work[T], *, write: bool) -> T:
        with self._lock, _explained(self._name, self._secrets):
            if not self._ready:
                self._migrate()
                self._ready = True
            return self._transact(work, write=write)

    def _transact(self, work: Work[T], *, write: bool) -> T:
        if self._async is not None and self._runner is not None:
            return self._runner.run(_run(self._async, work))
        assert self._engine is not None
        with self._engine.execution_options(consensus_write=write).begin() as connection:
            return work(connection)

    def _migrate(self) -> None:
        # Alembic costs 0.15 s to import, so it is asked only about tables whose revision is not the newest file's.
        if self._transact(revision_of, write=False) != newest_revision():
            if self._url.get_backend_name() == "sqlite":
                self._use_wal()
            self._transact(_upgrade, write=True)

    def _use_wal(self) -> None:
        """Let readers and the writer not wait for each other. Where several switch at once, SQLite itself does not wait."""
        assert self._engine is not None
        deadline = time.monotonic() + BUSY_S
        raw = self._engine.raw_connection()
        try:
            while True:
                try:
                    raw.cursor().execute("PRAGMA journal_mode=WAL")
                except sqlite3.Error as error:
                    if "locked" not in str(error) or time.monotonic() > deadline:
                        raise HistoryError(f"the history at {self._name} cannot be used: {error}") from None
                    time.sleep(0.02)
                else:
                    return
        finally:
            raw.close()


async def _run(engine: "AsyncEngine", work: Work[T]) -> T:
    async with engine.begin() as connection:
        return await connection.run_sync(work)


@contextmanager
def opened() -> Iterator[Database]:
    """Open the history for a command.

    Raises:
        HistoryError: If it is off.
    """
    address = known_address()
    if address is None:
        raise HistoryError(f"the history is disabled: {VARIABLE} is {OFF}")
    database = Database(address)
    try:
        yield database
    finally:
        database.close()


def url_of(address: Address) -> URL:
    """Return the address of a history, with a driver that is installed."""
    if isinstance(address, Path):
        return URL.create("sqlite", database=str(address))
    url = make_url(address)
    if url.drivername in {"postgres", "postgresql"}:
        if find_spec("psycopg"):
            return url.set(drivername="postgresql+psycopg")
        # asyncpg comes with Prefect. It has another name for what addresses of hosted databases usually end with.
        known = {"ssl" if name == "sslmode" else name: value for name, value in url.query.items()}
        return url.set(drivername="postgresql+asyncpg", query=known)
    return url.set(drivername="sqlite") if url.drivername == "sqlite+aiosqlite" else url


def shown(address: Address | None) -> str:
    """Return where the history is, for a person and without a password."""
    if address is None:
        return f"off ({VARIABLE})"
    with _explained(VARIABLE):
        return str(address) if isinstance(address, Path) else _public(url_of(address))


def _public(url: URL) -> str:
    """Return an address for a person: without the password, and without settings, which may be secrets too."""
    return url.set(query={}).render_as_string(hide_password=True)


def _secrets_of(url: URL) -> list[str]:
    """Return what of an address nobody is to read, as a driver might quote it."""
    texts = [str(url.password or "")]
    texts += [text for value in url.query.values() for text in ([value] if isinstance(value, str) else value)]
    return sorted({form for text in texts for form in (text, quote(text, safe=""))}, key=len, reverse=True)


def revision_of(connection: Connection) -> str | None:
    """Return which revision the tables have, or None where there are none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def newest_revision() -> str:
    """Return the newest revision: the file of a revision begins with its number."""
    return max(path.name for path in MIGRATIONS.glob("versions/v*.py"))[1:5]


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")  # does nothing where another process was faster
    except CommandError as error:
        where = _public(connection.engine.url)
        raise HistoryError(f"the history at {where} was made by another version: {error}") from None


def _make_private(path: Path) -> None:
    """Make the file before SQLite does: prompts and answers are for their owner's eyes."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_private(path)


def _on_connect(connection: Any, _: Any) -> None:
    # The driver would begin transactions by rules of its own; we say when, and of which kind.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    # A writer that begins as a reader fails at once when another one has written meanwhile; this one waits its turn.
    write = connection.get_execution_options().get("consensus_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def _explained(address: Address, secrets: Iterable[str] = ()) -> Iterator[None]:
    """Turn what the database says into one sentence."""
    try:
        yield
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError):
        raise HistoryError(
            f"the history URL ({source()}) is not a valid database URL: use sqlite:////path or postgresql://..."
        ) from None
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None:
            raise
        raise HistoryError(
            f"the history at {address} cannot be used: the driver knows no setting {unknown[1]!r}"
        ) from None
    except (SQLAlchemyError, OSError) as error:
        cause = getattr(error, "orig", None) or error
        kind = RowError if isinstance(error, IntegrityError | DataError) else HistoryError
        message = f"the history at {address} cannot be used: {type(cause).__name__}: {cause}"
        raise kind(redact(" ".join(message.split()), secrets)) from None
