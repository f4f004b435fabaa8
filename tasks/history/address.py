"""Where the history is kept, and what everybody who opens it has to know."""

import os
from pathlib import Path

from prefect.settings import get_current_settings

from consensus_flows.blocks.history import HISTORY_BLOCK

FILE = "consensus-history.db"
VARIABLE = "CONSENSUS_HISTORY_URL"
OFF = "off"
HEAD = "0001"
"""The newest revision in `migrations/versions`."""
BUSY_S = 30.0
"""Seconds that a writer waits for another one."""

Place = Path | str
"""A file for SQLite, or a database URL as SQLAlchemy reads it."""


saved: dict[str, str | None] = {}
"""What the block of a server says, by the server's address, once it was asked; None if it has no such block."""


def history_place() -> Place | None:
    """Return where the history is kept as far as it is known, or None if no history is wanted.

    It is what `CONSENSUS_HISTORY_URL` says, `off` for none; else what the block `consensus-history` of the Prefect server
    says, if that was asked (`saved_place`); else a file in Prefect's home folder.
    """
    url = given()
    if url.lower() == OFF:
        return None
    return url or saved.get(server_address()) or get_current_settings().home / FILE


def given() -> str:
    """Return what the environment says."""
    return os.environ.get(VARIABLE, "").strip()


def server_address() -> str:
    """Return whose blocks are meant."""
    return str(get_current_settings().api.url)


def said_by() -> str:
    """Return what has decided where the history is."""
    if given():
        return VARIABLE
    return f"block {HISTORY_BLOCK}" if saved.get(server_address()) else "default"
