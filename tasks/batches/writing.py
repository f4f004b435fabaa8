"""Writes rows as lines: JSON or CSV, compressed if the file's name ends in .gz."""

import csv
import gzip
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

_CRLF = "\r\n"
_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}
"""Of `str.splitlines`, those that JSON may hold as they are."""


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Open a file for text. Half a surrogate pair, which a model may write and UTF-8 cannot hold, becomes `?`."""
    with path.open("wb") as file:
        if path.suffix.lower() != ".gz":
            with io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="") as text:
                yield text
            return
        # Without name and time, so that the same rows make the same file.
        with (
            gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed,
            io.TextIOWrapper(packed, encoding="utf-8", errors="replace", newline="") as text,
        ):
            yield text


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> None:
    """Write one object a line, with its columns in order; a row need not have all of them.

    What many readers take for the end of a line besides the line feed is written as an escape, so that a row is a line
    for them too.
    """
    with _opened(path) as file:
        for row in rows:
            line = json_text({name: row[name] for name in columns if name in row})
            file.write(line.translate(_LINE_ENDS) + "\n")


def write_csv(path: Path, rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> None:
    """Write a line of names and a line a row.

    Texts are written as they are, also where a spreadsheet would take them for a formula: what is read back is what was
    written, as with pandas, DuckDB or PostgreSQL. No value is an empty cell, true and false and whatever is nested are
    JSON.
    """
    with _opened(path) as file:
        writer = csv.writer(_Lines(file), lineterminator=_CRLF)
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(row.get(name)) for name in columns])


class _Lines:
    """A file whose lines end in a line feed, as a `csv.writer` sees it that ends each row in CR LF.

    Before Python 3.13 a writer quotes only such line breaks as its own line ends have, and a field with a carriage return
    alone would be cut in two by whoever reads it.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> int:
        """Write a row."""
        return self._file.write(row.removesuffix(_CRLF) + "\n")


def _cell(value: Any) -> str | int | float:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, str | float) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    return json_text(value)


def json_text(value: Any) -> str:
    """Return a value as JSON in legible characters; a number that JSON cannot express becomes null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(finite(value), ensure_ascii=False)


def finite(value: Any) -> Any:
    """Return a value with null for each number that JSON cannot express."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value
