"""An empty Prefect database, kept from one run of the tests to the next: to make its tables is two thirds of a server's start."""

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import prefect

KEPT = Path(__file__).parents[2] / ".pytest_cache" / f"prefect-{prefect.__version__}.db"
SETTINGS = {
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
}
"""Of a server that need not enter the kinds of blocks, because they are in it."""


@contextmanager
def prepared(database: Path) -> Iterator[dict[str, str]]:
    """Have the server that is started here find its tables; give its environment. The first one makes them, and they are kept."""
    KEPT.parent.mkdir(exist_ok=True)
    with KEPT.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not KEPT.exists():
            yield {}
            new = KEPT.with_suffix(f".{os.getpid()}")
            with closing(sqlite3.connect(database)) as made, closing(sqlite3.connect(new)) as copy:
                made.backup(copy)
            new.rename(KEPT)
            return
    shutil.copy(KEPT, database)
    yield SETTINGS
