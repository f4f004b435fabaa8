"""Where answers are stored: keeps the local result folder private, and other people's code out; reads each record once.

Prefect picks the deserializer that a stored record names, so a pickle laid into the folder would run code even in a store
that writes JSON; and its JSON decoder calls whatever a `__class__` in the record names. So a record is read here first, as
plain data, and is left to Prefect only when it is exactly what `ask` stores. One that is not is moved aside in a folder, and
counts as missing in other storage, a bucket for example.

Prefect's own folder finds out anew where it is, eight times a call, and reads a record in two more threads: together a
tenth of what a call costs. `PrivateFolder` does neither, and hands on the very bytes that were checked. It keeps answers in
256 folders, named after the beginning of their keys: a million files in one are slow to list, and some tools give up.
"""

import inspect
import json
import os
import re
import shutil
import stat
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import Any
from uuid import UUID

from prefect.filesystems import LocalFileSystem, WritableFileSystem
from prefect.logging import get_logger
from prefect.results import ResultStore
from prefect.serializers import JSONSerializer
from prefect.utilities.importtools import to_qualified_name
from pydantic import PrivateAttr
from pydantic_core import from_json

from consensus_flows.tasks.calls.request import Answer
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.files import atomic_write

ROOM = 1 << 20
"""Bytes that must be free before a call is paid for: room for its answer and for those under way beside it."""
_REMEDY = "set PREFECT_RESULTS_LOCAL_STORAGE_PATH to a folder of your own"
LOOKED_S = 0.2
"""Seconds for which a folder that was found in order counts as such: a batch makes hundreds of calls a second."""
AT_HAND = 256
"""Records that a folder keeps at hand from the moment they are checked until Prefect has read them."""
PATTERN = "answer-*"
"""Names of cached answers, and of those that were moved aside."""
_KEY = re.compile(r"answer-([0-9a-f]{2})[0-9a-f]{62}")
_SHARD = re.compile(r"[0-9a-f]{2}")
"""The folders of answers, in that of the results."""
_ANSWER = to_qualified_name(Answer)
MOST_REJECTED = 10_000
"""Records remembered at most that were not used: of a call that is never made nobody takes the note away."""

_rejected: OrderedDict[str, None] = OrderedDict()


def is_answer_record(content: bytes) -> bool:
    """Tell whether a stored record is whole and may be left to Prefect, without running anything that it names."""
    try:
        from_json(content)  # the parser that Prefect reads records with
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


def note_rejected(key: str) -> None:
    """Note that the record of `key`, a storage key or a path that ends in it, was not used."""
    _rejected[PurePath(key).name] = None
    if len(_rejected) > MOST_REJECTED:
        _rejected.popitem(last=False)


def was_rejected(key: str) -> bool:
    """Tell once whether the record of `key` was not used."""
    return _rejected.pop(PurePath(key).name, _rejected) is None


class PrivateFolder(LocalFileSystem):
    """A result folder as Prefect's `LocalFileSystem`, but it knows where it is and keeps at hand what was just checked."""

    _block_type_name = "Private Result Folder"
    _block_type_slug = "private-result-folder"

    _folder: Path = PrivateAttr()
    _looked: float = PrivateAttr(default=float("-inf"))
    _at_hand: OrderedDict[Path, bytes] = PrivateAttr(default_factory=OrderedDict)

    @classmethod
    def of(cls, storage: LocalFileSystem) -> "PrivateFolder":
        """Return the folder that `storage` writes to; one for all calls of the process."""
        if isinstance(storage, cls):
            return storage
        saved = storage._block_document_id  # noqa: SLF001  # Prefect asks for it in the same way
        place = (str(Path(storage.basepath or ".").expanduser().absolute()), saved)
        if place not in _folders:
            made = cls(basepath=place[0])
            made._folder = Path(place[0]).resolve()
            made._block_document_id = saved  # a saved block is named in the records
            _folders[place] = made
        return _folders[place]

    def found_at(self, key: str) -> Path:
        """Return the file in which the record of `key` is kept, if it is: one of an earlier version is not in a folder of its own."""
        path, old = self.path_of(key), self._folder / key
        return old if old != path and not path.exists() and old.exists() else path

    def path_of(self, key: str) -> Path:
        """Return the file to which the record of `key` is written."""
        found = _KEY.fullmatch(key)
        return self._folder / found[1] / key if found else self._folder / key

    def check(self, key: str) -> None:
        """Check the folder, and the record of `key` before Prefect reads it; a record that is none is moved aside.

        Raises:
            ConfigurationError: If the folder belongs to another user or cannot be written, or the record not be read.
        """
        now = time.monotonic()
        if now - self._looked > LOOKED_S:
            private_folder(self._folder)
            self._looked = now
        path = self.path_of(key)
        self._at_hand.pop(path, None)
        self._checked(path)

    async def aread_path(self, path: str) -> bytes:
        """Return the record at `path`; only one that was checked."""
        resolved = self._resolve_path(path)
        content = self._at_hand.get(resolved) or self._checked(resolved)
        if content is None:
            raise ValueError(f"Path {resolved} does not exist.")
        return content

    async def awrite_path(self, path: str, content: bytes) -> str:
        """Write a record as a whole or not at all, for its owner's eyes only."""
        resolved = self._resolve_path(path)
        # Not in a thread: that costs ten times as much as writing these few bytes, and a kill meanwhile the answer.
        part = f"{resolved.name}.{os.urandom(6).hex()}.part"
        try:
            if not resolved.parent.exists():  # the first of its folder, or cleaned away while the model answered
                private_folder(self._folder)
                private_folder(resolved.parent)
            with atomic_write(resolved, part=part, mode=0o600, follow=False) as file:
                file.write_bytes(content)
        except BaseException:
            self._looked = float("-inf")  # whatever was in order a moment ago is not any more
            raise
        self._keep_at_hand(resolved, content)
        return str(resolved)

    def _resolve_path(self, path: str) -> Path:
        # Prefect passes the folder, a key, or a path that it got for a key.
        name = path.removeprefix(f"{self._folder}{os.sep}") if path else ""
        known = _KEY.fullmatch(name.rpartition(os.sep)[2])
        if known and name in {known[0], f"{known[1]}{os.sep}{known[0]}"}:
            return self._folder / known[1] / known[0]
        if name and (os.sep in name or name in {".", ".."} or name.startswith("~")):
            return super()._resolve_path(path)
        return self._folder / name

    def _checked(self, place: Path) -> bytes | None:
        """Return the record that belongs at `place`, and keep it at hand."""
        path = self.found_at(place.name) if place == self.path_of(place.name) else place
        try:
            # A link would lead out of the folder.
            with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigurationError(f"stored answer {path} cannot be read: {error.strerror}") from None
        if not is_answer_record(content):
            # Half of one is none either: ours are written as a whole or not at all, so nobody is at work on it.
            aside = path.with_name(path.name + ".rejected")
            with suppress(FileNotFoundError):  # another process was faster
                path.replace(aside)
            note_rejected(path.name)
            get_logger("consensus").warning(
                "Foreign file %s in the answer cache, quarantined as %s", path.name, aside.name
            )
            return None
        self._keep_at_hand(place, content)
        return content

    def _keep_at_hand(self, path: Path, content: bytes) -> None:
        # Each step stands alone: event loops of other threads do the same.
        self._at_hand.pop(path, None)
        self._at_hand[path] = content
        if len(self._at_hand) > AT_HAND:
            self._at_hand.popitem(last=False)


_folders: dict[tuple[str, UUID | None], PrivateFolder] = {}


class CheckedStorage(WritableFileSystem):
    """Storage of which nothing but answers can be read."""

    _block_type_name = "Checked Result Storage"
    _block_type_slug = "checked-result-storage"

    _inside: WritableFileSystem = PrivateAttr()

    @classmethod
    def around(cls, storage: WritableFileSystem) -> "CheckedStorage":
        """Return storage that checks what it reads from `storage`."""
        if isinstance(storage, cls):
            return storage
        made = cls()
        made._inside = storage
        # A saved block is named in the records.
        made._block_document_id = storage._block_document_id  # noqa: SLF001  # Prefect asks for it in the same way
        return made

    async def read_path(self, path: str) -> bytes:
        """Return the record at `path`.

        Raises:
            ValueError: If it is none of ours, which Prefect takes for missing.
        """
        content: bytes = await self._call("read_path", path)
        if not is_answer_record(content):
            note_rejected(path)
            get_logger("consensus").warning("Foreign file %s in the answer cache; asking again", path)
            raise ValueError(f"{path} is not a cached answer")
        return content

    async def write_path(self, path: str, content: bytes) -> None:
        """Write a record."""
        await self._call("write_path", path, content)

    async def _call(self, method: str, *arguments: Any) -> Any:
        # Prefect's own storages have both forms, those of its integrations one or the other.
        inside = self._inside
        found = getattr(inside, f"a{method}", None) or getattr(inside, method)
        done = found(*arguments)
        return await done if inspect.isawaitable(done) else done

    def _resolve_path(self, path: str) -> Any:
        resolve = getattr(self._inside, "_resolve_path", None)
        return resolve(path) if resolve else path


def guard(store: ResultStore | None, key: str) -> None:
    """Check the folder and the record of `key`, and let `store` read and write through the folder that was checked.

    A record in another storage, a bucket for example, is checked when it is read.

    Raises:
        ConfigurationError: If the result folder belongs to another user or cannot be written.
    """
    if store is None:
        return
    if isinstance(store.result_storage, LocalFileSystem):
        folder = PrivateFolder.of(store.result_storage)
        folder.check(key)
        store.result_storage = folder
    elif store.result_storage is not None:
        store.result_storage = CheckedStorage.around(store.result_storage)


def path_of(store: ResultStore | None, key: str) -> Path | None:
    """Return the file to which `store` writes the answer of `key`; None where it keeps none in a local folder."""
    storage = store.result_storage if store is not None else None
    return PrivateFolder.of(storage).path_of(key) if isinstance(storage, LocalFileSystem) else None


async def is_stored(store: ResultStore, key: str) -> bool:
    """Tell whether `store` has the answer of `key`."""
    storage = store.result_storage
    if isinstance(storage, LocalFileSystem):
        return PrivateFolder.of(storage).found_at(key).exists()
    return await store.aexists(key)


def holds(path: Path, answer: Answer) -> bool:
    """Tell whether the record at `path` is that of `answer`, whole.

    Prefect logs what fails while a result is committed, a full disk for one, and the task completes all the same.
    """
    try:
        # As Prefect reads it: the standard library takes half a surrogate pair, which an answer may hold, and pydantic none.
        data = json.loads(from_json(path.read_bytes())["result"])["data"]
        return bool(data["text"] == answer.text and data["latency_s"] == answer.latency_s)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def private_folder(path: Path) -> None:
    """Make the folder with mode 0700, or tighten it.

    Raises:
        ConfigurationError: If it belongs to another user, is shared by all, cannot be written, or has no room left.
    """
    try:
        try:
            found = path.stat()
        except FileNotFoundError:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = path.stat()
        if not stat.S_ISDIR(found.st_mode):
            raise ConfigurationError(f"result folder {path} is not a folder: {_REMEDY}")
        if hasattr(os, "getuid") and found.st_uid != os.getuid():
            raise ConfigurationError(f"result folder {path} belongs to another user: {_REMEDY}")
        if found.st_mode & stat.S_ISVTX:
            # Everybody's folder, like /tmp: to close it would lock the others out.
            raise ConfigurationError(f"result folder {path} is shared by all users: {_REMEDY}")
        if stat.S_IMODE(found.st_mode) != 0o700:
            path.chmod(0o700)
        room = shutil.disk_usage(path)
    except OSError as error:
        raise ConfigurationError(f"result folder {path} cannot be used: {error.strerror}; {_REMEDY}") from None
    if not os.access(path, os.W_OK):
        raise ConfigurationError(f"result folder {path} cannot be written, so paid answers would be lost: {_REMEDY}")
    if room.total and room.free < ROOM:
        raise ConfigurationError(
            f"result folder {path} is on a disk with {room.free} bytes left, so paid answers would be lost: make room, or "
            f"{_REMEDY}"
        )


@dataclass(frozen=True)
class Files:
    """Some files.

    Attributes:
        number: How many.
        size: Their bytes in all.
    """

    number: int = 0
    size: int = 0


def old_files(folder: Path, seconds: float, pattern: str = PATTERN, *, delete: bool) -> Files:
    """Find, or delete, the files in a folder that were written longer ago: the cached answers, if not told otherwise.

    What else is in the folder, results of flows for example, is left alone. Names are not collected: there may be millions.

    Args:
        folder: The folder.
        seconds: How long ago.
        pattern: What their names are like.
        delete: Whether to delete them.
    """
    before = time.time() - seconds
    number = size = 0
    for entry in _entries(folder, pattern):
        try:
            found = entry.stat(follow_symlinks=False)
            if found.st_mtime >= before or not stat.S_ISREG(found.st_mode):
                continue
            if delete:
                Path(entry.path).unlink()
        except FileNotFoundError:  # another one was faster
            continue
        number, size = number + 1, size + found.st_size
    return Files(number, size)


def _entries(folder: Path | str, pattern: str) -> Iterator["os.DirEntry[str]"]:
    """List what is called so in a folder and in its folders of answers."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
        for entry in found:
            if _SHARD.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                yield from _entries(entry.path, pattern)
            elif fnmatchcase(entry.name, pattern):
                yield entry
