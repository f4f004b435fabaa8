"""Comma or tab separated values, with a line of names first."""

import csv
from collections.abc import Iterator
from typing import BinaryIO

from consensus_flows.tasks.batches.formats.text import TOO_LONG, lines_of
from consensus_flows.tasks.batches.limits import MAX_ROW_CHARACTERS, check_names
from consensus_flows.tasks.batches.row import Broken, Item
from consensus_flows.tasks.errors import ConfigurationError


class _Lines:
    """The lines of a file as `csv` takes them, counted; one that is too long is remembered, and read as empty."""

    def __init__(self, lines: Iterator[str | None]) -> None:
        self._lines = lines
        self.number = 0
        self.too_long = False

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        if line is None:
            self.too_long = True
            return "\n"
        return line


def read_csv(file: BinaryIO, delimiter: str | None = None) -> Iterator[Item | Broken | list[str]]:
    """Yield the names of the columns, then the rows.

    Args:
        file: Open in binary mode, UTF-8.
        delimiter: What separates the fields. None for a comma; or a semicolon, which spreadsheets write where the
            comma is the decimal sign, if the line of names has semicolons and no comma.

    Raises:
        ConfigurationError: If the names cannot be read, or one is there twice.
    """
    lines = _Lines(lines_of(file, newline=""))
    first = next(lines, None)
    if first is None:
        return
    if lines.too_long:
        raise ConfigurationError(f"input: line 1, the names of the columns: {TOO_LONG}")
    delimiter = delimiter or (";" if ";" in first and "," not in first else ",")
    # Of the module, not of a reader; the default of 128 kB is less than a prompt may have.
    csv.field_size_limit(MAX_ROW_CHARACTERS)
    reader = csv.reader(_after(first, lines), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader)]
    except csv.Error as error:
        raise ConfigurationError(f"input: line 1, the names of the columns: {error}") from None
    check_names(names)
    yield names
    while True:
        start, lines.too_long = lines.number + 1, False
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Broken(start, _explain(error))
            continue
        if lines.too_long:
            yield Broken(start, TOO_LONG)
        elif len(fields) not in {0, len(names)}:
            yield Broken(start, f"it has {len(fields)} fields, and there are {len(names)} columns")
        elif fields:
            yield Item(start, dict(zip(names, fields, strict=True)))


def _after(first: str, lines: _Lines) -> Iterator[str]:
    yield first
    yield from lines


def _explain(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end" in text or "field limit" in text:
        return "a quotation mark is opened and not closed"
    return f"broken CSV: {text}"
