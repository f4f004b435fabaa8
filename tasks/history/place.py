"""Where the history is kept, and what everybody who opens it has to know."""

import os
from pathlib import Path

from prefect.settings import get_current_settings

FILE = "consensus-history.db"
VARIABLE = "CONSENSUS_HISTORY_URL"
OFF = "off"
HEAD = "0001"
"""The newest revision in `migrations/versions`."""
BUSY_S = 30.0
"""Seconds that a writer waits for another one."""

Place = Path | str
"""A file for SQLite, or a database URL as SQLAlchemy reads it."""


def history_place() -> Place | None:
    """Return where the history is kept, or None if no history is wanted.

    It is what `CONSENSUS_HISTORY_URL` says, `off` for none; by default a file in Prefect's home folder.
    """
    url = os.environ.get(VARIABLE, "").strip()
    if url.lower() == OFF:
        return None
    return url or get_current_settings().home / FILE
