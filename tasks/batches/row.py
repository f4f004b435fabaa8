"""What a batch reads: rows with a prompt, and rows that cannot be used, with what is wrong."""

from typing import Any, NamedTuple


class Row(NamedTuple):
    """One prompt of a batch.

    Attributes:
        number: Place in the input, from 0, counting every row, bad ones too.
        line: Where it is: the line on which the row starts; in JSON and Parquet the item and in a folder the file, from 1.
        id: From the id column; without one the line, or in a folder the file's name without its ending.
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


class Inventory(NamedTuple):
    """What is in an input.

    Attributes:
        rows: Rows that can be used.
        bad_rows: Rows that cannot.
        bad: The first 100 of those.
        size: Of all prompts together, in bytes of UTF-8.
        columns: Names of the rows' own columns, in the order in which they are first seen.
        sha256: Over the id, the prompt and the own columns of each row that can be used, in order.
    """

    rows: int
    bad_rows: int
    bad: tuple[BadRow, ...]
    size: int
    columns: tuple[str, ...]
    sha256: str


class Item(NamedTuple):
    """What a format found at one place: an object of columns, or a text alone."""

    line: int
    value: Any
    name: str | None = None
    """The id that it has of its own; None for its line."""


class Broken(NamedTuple):
    """A place at which a format found what it cannot read."""

    line: int
    message: str
    name: str | None = None
    """What the place is called, if not by its number."""
