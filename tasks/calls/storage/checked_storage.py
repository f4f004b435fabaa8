"""Reads stored answers, from storage that others can write to too, as plain data first: a bucket, for example.

Prefect would pick the deserialiser that a record names, and a pickle runs code. In a local folder a foreign record is moved
aside (`result_folder`); here it counts as missing, and the new answer takes its place.
"""

import inspect
from typing import Any

from prefect.filesystems import WritableFileSystem
from prefect.logging import get_logger
from pydantic import PrivateAttr

from consensus_flows.tasks.calls.storage.answer_record import is_answer_record
from consensus_flows.tasks.calls.storage.rejected import note_rejected


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
            get_logger("consensus").warning("Stored answer %s is no answer of ours; it is asked for again", path)
            raise ValueError(f"{path} is no answer of ours")
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
