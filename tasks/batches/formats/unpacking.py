"""Limits of what a small file may become when it is unpacked, and of one text in JSON that is read as it comes."""

import io
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

from consensus_flows.tasks.batches.limits import MAX_ROW_CHARACTERS
from consensus_flows.tasks.errors import ConfigurationError

MOST_TIMES = 200
"""How many times as large as the file its content may be; text is packed to a tenth, rarely to a hundredth."""
ALWAYS_BYTES = 256_000_000
"""So many bytes may be in any file."""
MOST_TEXT_BYTES = 6 * MAX_ROW_CHARACTERS
"""Of one text in JSON, in which a character takes six bytes at most."""
_PIECE = 1 << 16
_LARGEST_PIECE = 1 << 24


def check_unpacked(size: int, packed: int) -> None:
    """Check that what comes out of a file is in proportion to it.

    Args:
        size: Bytes that came out of it or are to come.
        packed: Bytes of the file.

    Raises:
        ConfigurationError: If not.
    """
    if size > ALWAYS_BYTES and size > MOST_TIMES * packed:
        raise ConfigurationError(
            f"input: its {packed:,} bytes unpack to more than {max(ALWAYS_BYTES, MOST_TIMES * packed):,}: unpack it "
            "yourself if you know what it is"
        )


class Unpacked(io.RawIOBase):
    """A file that is unpacked while it is read, and no further than `check_unpacked` allows.

    Args:
        file: What unpacks, open in binary mode.
        packed: Bytes of the packed file.
    """

    def __init__(self, file: BinaryIO, packed: int) -> None:
        self._file = file
        self._packed = packed
        self._size = 0

    def readable(self) -> bool:
        """It can be read, and no more than that."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes.

        Raises:
            ConfigurationError: If there are too many.
        """
        data = self._file.read(len(buffer))
        self._size += len(data)
        check_unpacked(self._size, self._packed)
        buffer[: len(data)] = data
        return len(data)


class _Pieces(Protocol):
    def read(self, size: int = -1) -> bytes:
        """Return the next piece."""


class Growing:
    """JSON for a parser that begins a text anew with every piece: pieces of a long text grow, so that it is read in linear time.

    Args:
        pieces: What is read.
    """

    def __init__(self, pieces: _Pieces) -> None:
        self._pieces = pieces
        self._size = 0
        """Bytes since the parser has last found something."""

    def read(self, size: int = -1) -> bytes:
        """Return the next piece, twice as large as all since the parser has found something.

        Raises:
            ConfigurationError: If a text is longer than a row may be.
        """
        if size == 0:  # the parser looks what kind of file it is
            return b""
        if self._size > MOST_TEXT_BYTES:
            raise ConfigurationError(
                f"input: it holds a text of more than {MAX_ROW_CHARACTERS:,} characters, so that what follows cannot be read"
            )
        wanted = min(max(_PIECE, self._size), _LARGEST_PIECE)
        parts: list[bytes] = []
        held = 0
        while held < wanted and (piece := self._pieces.read(_PIECE)):
            parts.append(piece)
            held += len(piece)
        self._size += held
        return b"".join(parts)

    def followed(self, events: Iterator[Any]) -> Iterator[Any]:
        """Yield what the parser finds, and take note that it has found something."""
        for event in events:
            self._size = 0
            yield event
