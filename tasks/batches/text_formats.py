"""Rows of text files: a prompt a line, CSV, JSON lines, or one JSON array, each read as it comes and never held whole."""

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from consensus_flows.tasks.batches.rows import MAX_ROW_CHARACTERS, TOO_DEEP, Broken, Item, check_names, fault_in_text
from consensus_flows.tasks.errors import ConfigurationError

TOO_LONG = f"the line is longer than {MAX_ROW_CHARACTERS:,} characters"
MOST_DIGITS = 4300
"""Of a whole number: what Python converts."""
_CHUNK = 1 << 16
_LONGEST_LITERAL = len("-Infinity")
_SPACES = re.compile(r"[ \t\r\n]*")


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits.removeprefix("-")) <= MOST_DIGITS else float(digits)


_JSON = json.JSONDecoder(parse_int=_whole_number)
"""NaN and numbers that are too large become floats that are not finite, which make the row a bad one."""


def _text(file: BinaryIO, newline: str) -> io.TextIOWrapper:
    buffered = io.BufferedReader(file, 1 << 16)  # type: ignore[type-var]
    if buffered.peek(2)[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        raise ConfigurationError("input: the file is UTF-16 or UTF-32: save it as UTF-8")
    return io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


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
    text = _text(file, newline)
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
            yield Broken(start, f"{len(fields)} fields, but {len(names)} columns")
        elif fields:
            yield Item(start, dict(zip(names, fields, strict=True)))


def _after(first: str, lines: _Lines) -> Iterator[str]:
    yield first
    yield from lines


def _explain(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end" in text or "field limit" in text:
        return "unclosed quotation mark"
    return f"broken CSV: {text}"


def read_json_lines(file: BinaryIO) -> Iterator[Item | Broken]:
    """Yield the values of a file that has one a line; blank lines are skipped."""
    for number, line in enumerate(lines_of(file), 1):
        if line is None:
            yield Broken(number, TOO_LONG)
            continue
        if not line.strip():
            continue
        if fault := fault_in_text(line):
            yield Broken(number, fault)
            continue
        try:
            value = _JSON.decode(line)
        except RecursionError:
            yield Broken(number, TOO_DEEP)
        except ValueError as error:
            yield Broken(number, f"broken JSON: {error}")
        else:
            yield Item(number, value)


def read_json_array(file: BinaryIO) -> Iterator[Item | Broken]:
    """Yield the items of one array.

    Raises:
        ConfigurationError: If it is no array, or has an item that is broken, too long or nested without end: where the
            next item begins cannot be told then.
    """
    array = _Array(_text(file, "\n"))
    first = array.peek()
    if first not in {"", "["}:
        raise ConfigurationError(
            "input: it must hold an array of objects or of texts; one object a line is read from a file .jsonl"
        )
    if not first:
        return
    number = 0
    array.skip()
    while array.peek() != "]" or number:
        number += 1
        yield Item(number, array.value(number))
        if array.peek() != ",":
            break
        array.skip()
    if array.peek() != "]":
        raise _unreadable(number + 1, "expected , or ] in the array")
    array.skip()
    if array.peek():
        raise _unreadable(number + 1, "unexpected data after the array")


def _unreadable(number: int, why: str) -> ConfigurationError:
    return ConfigurationError(f"input: broken JSON at item {number}, so that what follows cannot be read: {why}")


class _Array:
    """The text of a JSON array, of which no more is held than the item that is being read."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._held, self._at = "", 0

    def peek(self) -> str:
        """Return the next character that is no space; an empty text at the end."""
        while True:
            self._at = _SPACES.match(self._held, self._at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if self._at < len(self._held):
                return self._held[self._at]
            if not self._more():
                return ""

    def skip(self) -> None:
        """Go on behind the character that `peek` has returned."""
        self._at += 1

    def value(self, number: int) -> Any:
        """Return the next value. Of one that is cut off, twice as much is tried each time, so that it takes linear time.

        Raises:
            ConfigurationError: If it cannot be read.
        """
        self.peek()
        while True:
            try:
                value, end = _JSON.raw_decode(self._held, self._at)
            except RecursionError:
                raise _unreadable(number, TOO_DEEP) from None
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos > len(self._held) - _LONGEST_LITERAL
                if not cut or not self._more():
                    raise _unreadable(number, error.msg) from None
            else:
                # A number may go on in what follows.
                if end < len(self._held) or not self._more():
                    self._at = end
                    return value
            if len(self._held) > MAX_ROW_CHARACTERS:
                raise _unreadable(number, f"it is longer than {MAX_ROW_CHARACTERS:,} characters")

    def _more(self) -> bool:
        """Read on, at least as much as is held."""
        left = self._held[self._at :]
        found = self._text.read(max(_CHUNK, len(left)))
        self._held, self._at = left + found, 0
        return bool(found)
