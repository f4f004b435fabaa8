"""Keeps the local result folder private, and other people's pickles out of it.

Prefect picks the deserialiser that a stored record names, so a pickle laid into the folder would run code even in a
store that writes JSON.
"""

import json
import os
from functools import lru_cache
from pathlib import Path

from prefect.filesystems import LocalFileSystem
from prefect.logging import get_logger
from prefect.results import ResultStore

from tasks.errors import ConfigurationError

JSON_SERIALIZERS = frozenset({"json", "compressed/json"})


def guard(store: ResultStore | None, key: str) -> None:
    """Check the record of `key` before Prefect reads it; a record that is not JSON is moved aside.

    Raises:
        ConfigurationError: If the result folder belongs to another user or cannot be written.
    """
    storage = store.result_storage if store is not None else None
    if not isinstance(storage, LocalFileSystem):
        return
    folder = storage._resolve_path("")
    private_folder(str(folder))
    path = folder / key
    if path.is_file() and not _is_json_record(path):
        aside = path.with_name(path.name + ".rejected")
        path.replace(aside)
        get_logger("consensus").warning("Stored answer %s is no JSON record; moved aside to %s", key, aside.name)


@lru_cache(maxsize=16)
def private_folder(folder: str) -> None:
    """Make `folder` with mode 0700, or tighten it.

    Raises:
        ConfigurationError: If it belongs to another user or cannot be written.
    """
    path = Path(folder)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid") and path.stat().st_uid != os.getuid():
            raise ConfigurationError(f"result folder {path} belongs to another user: set PREFECT_RESULTS_LOCAL_STORAGE_PATH")
        path.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(f"result folder {path} cannot be used: {error.strerror}") from None
    if not os.access(path, os.W_OK):
        raise ConfigurationError(f"result folder {path} cannot be written: paid answers would be lost")


def _is_json_record(path: Path) -> bool:
    try:
        metadata = json.loads(path.read_bytes())["metadata"]
        kind = metadata["serializer"]["type"]
    except (ValueError, KeyError, TypeError, OSError):
        # Half-written: Prefect treats it as missing and the answer is asked for again.
        return True
    return kind in JSON_SERIALIZERS
