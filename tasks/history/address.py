"""Where the history is: what the environment says, else a block of the Prefect server, else a file."""

import asyncio
import contextlib
import os
import sqlite3
from pathlib import Path
from weakref import WeakKeyDictionary

from prefect.context import AsyncClientContext
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from consensus_flows.blocks.history import HISTORY_BLOCK, HistoryDatabase
from consensus_flows.tasks.errors import HistoryError

FILE = "consensus-history.db"
VARIABLE = "CONSENSUS_HISTORY_URL"
OFF = "off"

Address = Path | str
"""A file for SQLite, or a database URL as SQLAlchemy reads it."""

saved: dict[str, str | None] = {}
"""The URL in the block, by the address of the server that was asked; None if that server has no such block."""
_asking: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


def from_environment() -> str:
    """Return what the environment says, empty if it says nothing."""
    return os.environ.get(VARIABLE, "").strip()


def server_address() -> str:
    """Return the address of the server whose block counts."""
    return str(get_current_settings().api.url)


def known_address() -> Address | None:
    """Return where the history is, without asking the server; None if it is off."""
    url = from_environment()
    if url.lower() == OFF:
        return None
    return url or saved.get(server_address()) or get_current_settings().home / FILE


def source() -> str:
    """Return what decided on the address, for a person."""
    if from_environment():
        return VARIABLE
    return f"block {HISTORY_BLOCK}" if saved.get(server_address()) else "default"


async def find_address() -> Address | None:
    """Return where the history is, None if it is off; the server is asked once, unless the environment decides.

    Raises:
        HistoryError: If the server does not answer. Writing to a file instead would hide a part of the history.
    """
    server = server_address()
    if not from_environment() and server not in saved:
        async with _asking.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            if server not in saved:
                saved[server] = await _read_block()
    return known_address()


async def _read_block() -> str | None:
    try:
        async with AsyncClientContext.get_or_create() as context:
            document = await context.client.read_block_document_by_name(
                HISTORY_BLOCK, HistoryDatabase.get_block_type_slug(), include_secrets=True
            )
    except ObjectNotFound:
        return None
    except Exception as error:
        # Only its type or status: a message may quote what the server sent.
        status = getattr(getattr(error, "response", None), "status_code", None)
        raise HistoryError(
            f"{server_address()} could not be asked where the history is: {f'HTTP {status}' if status else type(error).__name__}; "
            f"set {VARIABLE} to do without the server"
        ) from None
    # Not loaded as a block, which would import and check more than is needed here.
    url = document.data.get("url")
    if not isinstance(url, str) or "://" not in url:
        raise HistoryError(
            f"the block {HISTORY_BLOCK} holds no database URL: save it again with `consensus history set`"
        )
    return url.strip()


def no_block_is_saved() -> bool:
    """Tell whether a server started on this machine certainly has no such block, by looking into its database.

    False means unknown: the database is on another machine, is locked, or looks different than expected.
    """
    from sqlalchemy.engine import make_url

    configured = get_current_settings().server.database.connection_url
    url = make_url(configured.get_secret_value()) if configured is not None else None
    if url is None or url.get_backend_name() != "sqlite" or not url.database or ":memory:" in url.database:
        return False
    file = Path(url.database)
    if not file.exists():
        return True
    uri = f"{file.absolute().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=1)) as database:
            found = database.execute("SELECT 1 FROM block_document WHERE name = ? LIMIT 1", (HISTORY_BLOCK,)).fetchone()
    except sqlite3.Error:
        return False
    return found is None
