"""Asks the Prefect server where the history is: its block `consensus-history`, read once a process."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from weakref import WeakKeyDictionary

from prefect.context import AsyncClientContext
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from consensus_flows.blocks.history import HISTORY_BLOCK, HistoryDatabase
from consensus_flows.tasks.history.address import VARIABLE, Place, given, history_place, saved, server_address
from consensus_flows.tasks.history.errors import HistoryError

_asking: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


async def find_history() -> Place | None:
    """Return where the history is kept, or None if no history is wanted; the server is asked if the environment says nothing.

    Raises:
        HistoryError: If the server does not say. A file taken instead would hide a part of the history.
    """
    server = server_address()
    if not given() and server not in saved:
        async with _asking.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            if server not in saved:
                saved[server] = await _ask()
    return history_place()


def none_is_saved() -> bool:
    """Tell whether a server that would be started here certainly has no such block; its database is looked into.

    False means that this cannot be told: the database is on a machine of its own, is locked, or is not as expected.
    """
    # Here and not above: whoever writes a run would pay half a second for it.
    from sqlalchemy.engine import make_url

    configured = get_current_settings().server.database.connection_url
    url = make_url(configured.get_secret_value()) if configured is not None else None
    if url is None or url.get_backend_name() != "sqlite" or not url.database or ":memory:" in url.database:
        return False
    file = Path(url.database)
    if not file.exists():
        return True
    try:
        with contextlib.closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=1)
        ) as database:
            found = database.execute("SELECT 1 FROM block_document WHERE name = ? LIMIT 1", (HISTORY_BLOCK,)).fetchone()
    except sqlite3.Error:
        return False
    return found is None


async def _ask() -> str | None:
    try:
        async with AsyncClientContext.get_or_create() as context:
            document = await context.client.read_block_document_by_name(
                HISTORY_BLOCK, HistoryDatabase.get_block_type_slug(), include_secrets=True
            )
    except ObjectNotFound:
        return None
    except Exception as error:
        # Its type or status alone: a text may quote what the server sent.
        status = getattr(getattr(error, "response", None), "status_code", None)
        raise HistoryError(
            f"where the history is could not be asked of {server_address()}: {f'HTTP {status}' if status else type(error).__name__}; "
            f"{VARIABLE} would say it without the server"
        ) from None
    # Not made a block of: that would import and check more than is needed here.
    url = document.data.get("url")
    if not isinstance(url, str) or "://" not in url:
        raise HistoryError(
            f"the block {HISTORY_BLOCK} holds no database URL: save it again with `consensus history set`"
        )
    return url.strip()
