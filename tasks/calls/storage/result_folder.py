"""Keeps the local result folder private, and other people's code out of it; reads and writes each record once.

Prefect picks the deserialiser that a stored record names, so a pickle laid into the folder would run code even in a
store that writes JSON; and its JSON decoder calls whatever a `__class__` in the record names. So a record is read here
first, as plain data, and is left to Prefect only when it is exactly what `ask` stores.

Prefect's own folder finds out anew where it is, eight times a call, and reads a record in two more threads: together a
tenth of what a call costs. `PrivateFolder` does neither, and hands on the very bytes that were checked.
"""

import json
import os
import shutil
import stat
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from prefect.filesystems import LocalFileSystem
from prefect.logging import get_logger
from prefect.results import ResultStore
from pydantic import PrivateAttr
from pydantic_core import from_json

from consensus_flows.tasks.atomic_write import atomic_write
from consensus_flows.tasks.calls.request import Answer
from consensus_flows.tasks.calls.storage.answer_record import is_answer_record
from consensus_flows.tasks.calls.storage.checked_storage import CheckedStorage
from consensus_flows.tasks.calls.storage.rejected import note_rejected
from consensus_flows.tasks.errors import ConfigurationError

ROOM = 1 << 20
"""Bytes that must be free before a call is paid for: room for its answer and for those under way beside it."""
_REMEDY = "set PREFECT_RESULTS_LOCAL_STORAGE_PATH to a folder of your own"
LOOKED_S = 0.2
"""Seconds for which a folder that was found in order counts as such: a batch makes hundreds of calls a second."""
AT_HAND = 256
"""Records that a folder keeps at hand from the moment they are checked until Prefect has read them."""


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

    def place_of(self, key: str) -> Path:
        """Return the file in which the record of `key` is kept."""
        return self._folder / key

    def check(self, key: str) -> None:
        """Check the folder, and the record of `key` before Prefect reads it; a record that is none is moved aside.

        Raises:
            ConfigurationError: If the folder belongs to another user or cannot be written, or the record not be read.
        """
        now = time.monotonic()
        if now - self._looked > LOOKED_S:
            private_folder(self._folder)
            self._looked = now
        self._at_hand.pop(self._folder / key, None)
        self._checked(self._folder / key)

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
        if not resolved.parent.exists():  # cleaned away while the model answered
            private_folder(resolved.parent)
        # Not in a thread: that costs ten times as much as writing these few bytes, and a kill meanwhile the answer.
        part = f"{resolved.name}.{os.urandom(6).hex()}.part"
        try:
            with atomic_write(resolved, part=part, mode=0o600, follow=False) as file:
                file.write_bytes(content)
        except BaseException:
            self._looked = float("-inf")  # whatever was in order a moment ago is not any more
            raise
        self._keep_at_hand(resolved, content)
        return str(resolved)

    def _resolve_path(self, path: str) -> Path:
        # As Prefect asks: for the folder, for a key, and for what it was told of a key.
        name = path.removeprefix(f"{self._folder}{os.sep}") if path else ""
        if name and (os.sep in name or name in {".", ".."} or name.startswith("~")):
            return super()._resolve_path(path)
        return self._folder / name

    def _checked(self, path: Path) -> bytes | None:
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
                "Stored answer %s is no answer of ours; moved aside to %s", path.name, aside.name
            )
            return None
        self._keep_at_hand(path, content)
        return content

    def _keep_at_hand(self, path: Path, content: bytes) -> None:
        # Each step stands alone: event loops of other threads do the same.
        self._at_hand.pop(path, None)
        self._at_hand[path] = content
        if len(self._at_hand) > AT_HAND:
            self._at_hand.popitem(last=False)


_folders: dict[tuple[str, UUID | None], PrivateFolder] = {}


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


def place_of(store: ResultStore | None, key: str) -> Path | None:
    """Return the file in which `store` keeps the answer of `key`; None where it keeps none in a local folder."""
    storage = store.result_storage if store is not None else None
    return PrivateFolder.of(storage).place_of(key) if isinstance(storage, LocalFileSystem) else None


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
            raise ConfigurationError(f"result folder {path} is no folder: {_REMEDY}")
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
