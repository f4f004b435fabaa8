"""What a batch reads: rows with a prompt, rows that cannot be used, and the limits that tell one from the other."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.record import Attachment


class Row(NamedTuple):
    """One prompt of a batch.

    Attributes:
        number: Place in the input, from 0, counting every row, bad ones too.
        line: Where it is: the line on which the row starts; in JSON and Parquet the item and in a folder the file, from 1.
        id: From the id column; without one the row's number from 1, or in a folder the file's name without its ending.
        prompt: What is asked.
        columns: The row's own columns in their order, as plain JSON values.
    """

    number: int
    line: int
    id: str
    prompt: str
    columns: dict[str, Any]


class BadRow(NamedTuple):
    """A row that cannot be used.

    Attributes:
        number: Place in the input, from 0, counting every row.
        line: As in `Row`.
        where: The file and the place in it, for people.
        message: What is wrong.
    """

    number: int
    line: int
    where: str
    message: str


class Files(NamedTuple):
    """The files of all rows together, as far as they can be looked at before they are sent.

    Attributes:
        images: How many images.
        pages: The pages of all PDFs.
        size: The bytes of all text files.
        remote: How many are on other machines, which nobody has looked at.
        problems: What is wrong with some of them.
    """

    images: int = 0
    pages: int = 0
    size: int = 0
    remote: int = 0
    problems: tuple[str, ...] = ()

    def and_also(self, other: "Files", times: int = 1) -> "Files":
        """Return both together, the other ones so many times."""
        return Files(
            self.images + times * other.images,
            self.pages + times * other.pages,
            self.size + times * other.size,
            self.remote + times * other.remote,
            self.problems + other.problems,
        )


def files_of(*attachments: Attachment) -> Files:
    """Return what is known of files that were read."""
    return Files(
        images=sum(one.kind == "image" for one in attachments),
        pages=sum(one.pages or 0 for one in attachments),
        size=sum(one.size for one in attachments if one.kind == "text"),
    )


class Inventory(NamedTuple):
    """What is in an input.

    Attributes:
        rows: Rows that can be used.
        bad_rows: Rows that cannot.
        bad: The first 100 of those.
        size: Of all prompts together, in bytes of UTF-8.
        columns: Names of the rows' own columns, in the order in which they are first seen.
        sha256: Over the id, the prompt and the own columns of each row that can be used, in order.
        files: What is known of the files that the prompts are about.
        left: The first rows that are not finished, where it was told which ones are.
    """

    rows: int
    bad_rows: int
    bad: tuple[BadRow, ...]
    size: int
    columns: tuple[str, ...]
    sha256: str
    files: Files = Files()
    left: tuple[Row, ...] = ()


class Item(NamedTuple):
    """What a format found at one place: an object of columns, or a text alone."""

    line: int
    value: Any
    name: str | None = None
    """The id that it has of its own; None for its number."""


class Broken(NamedTuple):
    """A place at which a format found what it cannot read."""

    line: int
    message: str
    name: str | None = None
    """What the place is called, if not by its number."""


MAX_PROMPT_CHARACTERS = 1_000_000
"""Of one prompt; more than the context of any model today."""
MAX_ROW_CHARACTERS = 16_000_000
"""Of one line, of one item of a JSON array, or of all texts of one row."""
MAX_DEPTH = 64
"""Of nested arrays and objects in one row."""
TOO_DEEP = f"it is nested deeper than {MAX_DEPTH} levels"
TOO_LARGE = f"the row is larger than {MAX_ROW_CHARACTERS:,} characters"


def fault_in(value: Any) -> str | None:
    """Return what makes a row of JSON values unusable, or None.

    Values are visited without recursion, so no nesting is too deep for it.
    """
    if isinstance(value, dict) and all(type(one) is str for one in value.values()):  # as every row of a CSV file
        text = "".join([*value, *value.values()])
        if len(value) + len(text) <= MAX_ROW_CHARACTERS and fault_in_text(text) is None:
            return None
    size = 0
    left = [(value, 1)]
    while left:
        one, depth = left.pop()
        if isinstance(one, str):
            size += len(one)
            if fault := fault_in_text(one):
                return fault
        elif isinstance(one, float) and not math.isfinite(one):
            return f"the number {one} is too large" if math.isinf(one) else "NaN is not valid JSON"
        elif isinstance(one, dict | list):
            if depth > MAX_DEPTH:
                return TOO_DEEP
            size += len(one)
            if isinstance(one, dict):
                left.extend((key, depth) for key in one)
                left.extend((item, depth + 1) for item in one.values())
            else:
                left.extend((item, depth + 1) for item in one)
        if size > MAX_ROW_CHARACTERS:
            return TOO_LARGE
    return None


def fault_in_text(text: str) -> str | None:
    """Return what makes a text unusable, or None."""
    if "\0" in text:
        return "contains a NUL byte"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            what = f"byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"half a character, \\u{code:04x},"
            return f"wrong encoding: {what} is not UTF-8"
    return None


def check_names(names: Iterable[str]) -> None:
    """Check that no two columns have the same name.

    Raises:
        ConfigurationError: If two have.
    """
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise ConfigurationError(f"input: duplicate column {min(twice)!r}")


def row_text(row: Row) -> bytes:
    """Return what of a row is compared with other readings of an input: its id, its prompt and its columns."""
    return json.dumps([row.id, row.prompt, row.columns]).encode()


class Fingerprint:
    """Counts the rows of one reading of an input and hashes the usable ones, so that a later reading can be compared."""

    def __init__(self) -> None:
        self.rows = 0
        self.bad_rows = 0
        self._digest = hashlib.sha256()

    def add(self, row: Row | BadRow) -> bytes:
        """Add the next row; return what `row_text` makes of it."""
        if isinstance(row, BadRow):
            self.bad_rows += 1
            return b""
        self.rows += 1
        text = row_text(row)
        self._digest.update(text + b"\n")
        return text

    def sha256(self) -> str:
        """Return the digest of the rows so far: of the id, the prompt and the own columns of each, in order."""
        return self._digest.hexdigest()

    def matches(self, inventory: Inventory) -> bool:
        """Tell whether this reading found what an inventory did."""
        return (self.rows, self.bad_rows, self.sha256()) == (inventory.rows, inventory.bad_rows, inventory.sha256)

    def difference(self, inventory: Inventory) -> str:
        """Say how many rows there are now and how many an inventory has; nothing where these are the same."""
        if (self.rows, self.bad_rows) == (inventory.rows, inventory.bad_rows):
            return ""
        some = self.bad_rows or inventory.bad_rows
        bad = f", and {self.bad_rows} bad ones instead of {inventory.bad_rows}" if some else ""
        return f"it has {plural(self.rows, 'row')} instead of {inventory.rows}{bad}"


def input_changed(address: str, how: str = "") -> str:
    """Say that an input is no longer what was inspected, and what to do."""
    return (
        f"input: {address} has changed while the batch was running{f': {how}' if how else ''}. Finished rows are kept: when "
        "nobody writes to the input any more, the same command does the rows that are missing or have changed"
    )
