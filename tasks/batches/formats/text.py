"""Lines of a file, whatever their length and encoding, and the format that is no more than that."""

import io
from collections.abc import Iterator
from typing import BinaryIO

from consensus_flows.tasks.batches.limits import MAX_ROW_CHARACTERS
from consensus_flows.tasks.batches.row import Broken, Item
from consensus_flows.tasks.errors import ConfigurationError

TOO_LONG = f"the line is longer than {MAX_ROW_CHARACTERS:,} characters"


def lines_of(file: BinaryIO, newline: str = "\n") -> Iterator[str | None]:
    """Yield the lines of a file with their ends, and None for one that is too long to be held.

    Bytes that are no UTF-8 come as lone surrogates, so that the rest of the file can be read. A byte order mark is
    left out.

    Args:
        file: Open in binary mode.
        newline: What ends a line, as in `open`.

    Raises:
        ConfigurationError: If the file is UTF-16 or UTF-32.
    """
    buffered = io.BufferedReader(file, 1 << 16)  # type: ignore[type-var]
    if buffered.peek(2)[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        raise ConfigurationError("input: it is encoded in UTF-16 or UTF-32: save it as UTF-8")
    text = io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="surrogateescape", newline=newline)
    while line := text.readline(MAX_ROW_CHARACTERS):
        if len(line) < MAX_ROW_CHARACTERS or line.endswith(("\n", "\r")):
            yield line
            continue
        while line and not line.endswith(("\n", "\r")):
            line = text.readline(MAX_ROW_CHARACTERS)
        yield None


def read_lines(file: BinaryIO) -> Iterator[Item | Broken]:
    """Yield every line that is not blank as a prompt."""
    for number, line in enumerate(lines_of(file, newline=""), 1):
        if line is None:
            yield Broken(number, TOO_LONG)
        elif line.strip():
            yield Item(number, line.rstrip("\r\n"))
