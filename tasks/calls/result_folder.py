"""Keeps the local result folder private, and other people's code out of it.

Prefect picks the deserialiser that a stored record names, so a pickle laid into the folder would run code even in a
store that writes JSON; and its JSON decoder calls whatever a `__class__` in the record names. So a record is read here
first, as plain data, and is left to Prefect only when it is exactly what `ask` stores.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

from prefect.filesystems import LocalFileSystem
from prefect.logging import get_logger
from prefect.results import ResultStore
from prefect.serializers import JSONSerializer
from prefect.utilities.importtools import to_qualified_name
from pydantic_core import from_json

from tasks.calls.request import Answer
from tasks.errors import ConfigurationError

_ANSWER = to_qualified_name(Answer)
_REMEDY = "set PREFECT_RESULTS_LOCAL_STORAGE_PATH to a folder of your own"


def guard(store: ResultStore | None, key: str) -> None:
    """Check the folder, and the record of `key` before Prefect reads it; a record that is none is moved aside.

    Raises:
        ConfigurationError: If the result folder belongs to another user or cannot be written.
    """
    storage = store.result_storage if store is not None else None
    if not isinstance(storage, LocalFileSystem):
        return
    folder = storage._resolve_path("")  # noqa: SLF001  # Prefect has no public way to ask where a key goes
    private_folder(folder)
    path = folder / key
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigurationError(f"stored answer {path} cannot be read: {error.strerror}") from None
    if not is_answer_record(content):
        aside = path.with_name(path.name + ".rejected")
        path.replace(aside)
        get_logger("consensus").warning("Stored answer %s is no answer of ours; moved aside to %s", key, aside.name)


def private_folder(path: Path) -> None:
    """Make the folder with mode 0700, or tighten it.

    Raises:
        ConfigurationError: If it belongs to another user, is shared by all, or cannot be written.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
        if hasattr(os, "getuid") and found.st_uid != os.getuid():
            raise ConfigurationError(f"result folder {path} belongs to another user: {_REMEDY}")
        if found.st_mode & stat.S_ISVTX:
            # Everybody's folder, like /tmp: to close it would lock the others out.
            raise ConfigurationError(f"result folder {path} is shared by all users: {_REMEDY}")
        if stat.S_IMODE(found.st_mode) != 0o700:
            path.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(f"result folder {path} cannot be used: {error.strerror}; {_REMEDY}") from None
    if not os.access(path, os.W_OK):
        raise ConfigurationError(f"result folder {path} cannot be written, so paid answers would be lost: {_REMEDY}")


def is_answer_record(content: bytes) -> bool:
    """Tell whether a stored record may be left to Prefect, without running anything that it names.

    A record that is no JSON yet is one being written: Prefect takes it for missing, and so it stays where it is.
    """
    try:
        from_json(content)  # the parser that Prefect reads records with
    except ValueError:
        return True
    try:
        record = json.loads(content.decode(), object_pairs_hook=_plain)
        # Exactly these two: Prefect reads a serializer beside them too, from the days of an older format.
        if set(record) != {"metadata", "result"}:
            return False
        # Read as Prefect does: for each object, whatever order it comes in, a `__class__` is called.
        payload = json.loads(record["result"], object_pairs_hook=_plain)
        if set(payload) != {"__class__", "data"} or payload["__class__"] != _ANSWER:
            return False
        Answer.model_validate(payload["data"])  # knows no field `__class__` at any depth, and forbids others
        serializer = record["metadata"]["serializer"]
        return bool(serializer.get("type") == "json" and serializer.items() <= JSONSerializer().model_dump().items())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False


def _plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; of a key that comes twice, one reader may see the first and another the last."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key comes twice")
    return fields
