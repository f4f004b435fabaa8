"""Reads stored answers from storage that others can write to, a bucket for example, as plain data first.

Prefect would pick the deserialiser that a record names, and a pickle runs code. In a local folder a foreign record is moved
aside (`result_folder`); here it is treated as if it were not there, and the new answer takes its place.
"""

from typing import Any

from prefect.filesystems import WritableFileSystem
from prefect.logging import get_logger
from pydantic import PrivateAttr

from tasks.calls.answer_record import is_answer_record


class CheckedStorage(WritableFileSystem):
    """Storage of which only answers can be read; all else goes to the storage inside."""

    _block_type_name = "Consensus Checked Storage"

    _inside: WritableFileSystem = PrivateAttr()

    @classmethod
    def around(cls, storage: WritableFileSystem) -> "CheckedStorage":
        """Return storage that checks what it reads from `storage`."""
        made = cls()
        made._inside = storage
        # Records say in which saved block they are.
        made._block_document_id = storage._block_document_id  # noqa: SLF001 - Prefect asks for it by this name
        made._block_document_name = storage._block_document_name  # noqa: SLF001
        return made

    async def aread_path(self, path: str) -> bytes:
        """Read a record.

        Raises:
            ValueError: If it is none of ours; Prefect takes it for missing.
        """
        return _checked(path, await self._inside.aread_path(path))  # type: ignore[attr-defined]

    async def awrite_path(self, path: str, content: bytes) -> Any:
        """Write a record."""
        return await self._inside.awrite_path(path, content)  # type: ignore[attr-defined]

    def read_path(self, path: str) -> bytes:  # type: ignore[override]
        """Read a record.

        Raises:
            ValueError: If it is none of ours.
        """
        return _checked(path, self._inside.read_path(path, _sync=True))  # type: ignore[call-arg, arg-type]

    def write_path(self, path: str, content: bytes) -> Any:  # type: ignore[override]
        """Write a record."""
        return self._inside.write_path(path, content, _sync=True)  # type: ignore[call-arg]

    def _resolve_path(self, path: str) -> Any:
        resolve = getattr(self._inside, "_resolve_path", None)
        return resolve(path) if resolve else path


def _checked(path: str, content: bytes) -> bytes:
    if not is_answer_record(content):
        get_logger("consensus").warning("Stored answer %s is no answer of ours; asked for again", path)
        raise ValueError(f"{path} is no answer of ours")
    return content
