"""From what a format found to the id and the prompt of a row: its columns, and templates over them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

from consensus_flows.blocks.spelling import did_you_mean
from consensus_flows.tasks.batches.rows import MAX_PROMPT_CHARACTERS, Broken, Item, fault_in
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.json_text import parse

PROMPT = "prompt"
ID = "id"
"""The column that is taken for the id when none is named and every row has it."""
PREFERRED = (PROMPT, "question")
"""Columns that are taken for the prompt when none is named, the first that there is."""
LISTED = 20
"""Columns that an error lists."""


class MissingColumnError(KeyError):
    """A row has no value for a column that its prompt is made of."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


class Template:
    """A text with columns in braces, `{{` for a brace.

    Only the plain name of a column may be in braces: no attribute, no index, no conversion and no format, which would
    let a text from outside reach into Python's objects.

    Attributes:
        columns: The columns that it names, each once.

    Raises:
        ConfigurationError: If the text is no such template.
    """

    def __init__(self, text: str) -> None:
        self._parts: list[tuple[str, str | None]] = []
        try:
            parts = list(Formatter().parse(text))
        except ValueError as error:
            raise ConfigurationError(f"prompt_template: {error}; use {{{{ for a brace") from None
        for literal, name, form, conversion in parts:
            if name is not None:
                _check(name, form, conversion)
            self._parts.append((literal, name))
        self.columns = tuple(dict.fromkeys(name for _, name in self._parts if name is not None))
        if not self.columns:
            raise ConfigurationError(
                "prompt_template: it names no column, so that every row would ask the same: write {column}"
            )

    def fill(self, columns: Mapping[str, Any]) -> str:
        """Return the prompt of a row.

        Raises:
            MissingColumnError: If the row has no value for a column.
        """
        return "".join(literal + ("" if name is None else _text(columns, name)) for literal, name in self._parts)


def _check(name: str, form: str | None, conversion: str | None) -> None:
    if not name.strip():
        raise ConfigurationError("prompt_template: {} names no column: use {column}, and {{ for a brace")
    if form or conversion or any(sign in name for sign in ".[]{}"):
        shown = f"{{{name}{'!' + conversion if conversion else ''}{':' + form if form else ''}}}"
        raise ConfigurationError(
            f"prompt_template: {shown} is not the plain name of a column: attributes, indexes, conversions and formats "
            "cannot be used; write {column}, and {{ for a brace"
        )


def _text(columns: Mapping[str, Any], name: str) -> str:
    value = columns.get(name)
    if value is None:
        raise MissingColumnError(name)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class Columns:
    """Reads the prompt and the id of rows.

    Args:
        prompt_column: The column of the prompt, if one was named.
        template: What makes the prompt in place of a column.
        id_column: The column of the id; None for `id` where all rows that are looked at have it, else the row's number.
        attach_column: The column of the files that the prompt is about.
    """

    def __init__(
        self,
        prompt_column: str | None,
        template: Template | None,
        id_column: str | None,
        attach_column: str | None = None,
    ) -> None:
        self._template = template
        self._attach_column = attach_column
        self.id_column = id_column
        self._prompt_column = prompt_column or PROMPT
        self._named = prompt_column is not None
        self._wanted: dict[str, str] = {}
        self._unseen: set[str] = set()
        self._known: dict[str, None] = {}
        self._ids: set[bytes] = set()

    def choose(self, items: Sequence[Item | Broken], names: Sequence[str] | None, *, whole: bool) -> None:
        """Choose the column of the prompt, and check that those there are which were named.

        Args:
            items: The first rows.
            names: All columns, where the format names them.
            whole: Whether there are no other rows.

        Raises:
            ConfigurationError: If no column can be chosen, or one that was named is not there.
        """
        seen: list[Any] = [_columns(one.value) for one in items if isinstance(one, Item)]
        self._known = dict.fromkeys(names or (name for row in seen if isinstance(row, dict) for name in row))
        if self._template is None and not self._named:
            if not self._known:
                return  # nothing but bad rows
            self._prompt_column = self._choice()
        if self.id_column is None and seen and all(row and row.get(ID) not in (None, "") for row in seen):
            self.id_column = ID
        wanted = dict.fromkeys(self._template.columns if self._template else (self._prompt_column,), "")
        parameter = "prompt_template" if self._template else "prompt_column"
        self._wanted = dict.fromkeys(wanted, parameter) | ({self.id_column: "id_column"} if self.id_column else {})
        if self._attach_column is not None:
            self._wanted[self._attach_column] = "attach_column"
        self._unseen = {name for name in self._wanted if name not in self._known}
        if names is not None or (whole and self._known):
            self.check_seen()

    def check_seen(self) -> None:
        """Check that every column that was named was in a row.

        Raises:
            ConfigurationError: If not.
        """
        for name, parameter in self._wanted.items():
            if name in self._unseen and self._known:
                raise ConfigurationError(
                    f"{parameter}: no column {name!r}.{did_you_mean(name, self._known)} The {self._listed()}"
                )

    def read(self, item: Item, number: int) -> tuple[str, str, dict[str, Any]] | str:
        """Return the id, the prompt and the columns of a row, or what is wrong with it.

        Args:
            item: What was found.
            number: The row's place in the input, from 0.
        """
        columns = _columns(item.value)
        if columns is None:
            return f"it is {_kind(item.value)}, neither an object nor a text"
        if self._unseen:
            self._unseen -= columns.keys()
            if len(self._known) < LISTED:
                self._known.update(dict.fromkeys(columns))
        if fault := fault_in(columns):
            return fault
        prompt = self.prompt(columns)
        if isinstance(prompt, Exception):
            return str(prompt)
        try:
            self.files(columns)
        except ValueError as error:
            return str(error)
        name = self._id(item, columns, number)
        if isinstance(name, Exception):
            return str(name)
        return name, prompt, columns

    def files(self, columns: dict[str, Any]) -> list[str]:
        """Return the paths and URLs of the files of a row: one, a JSON list, or one a line.

        Raises:
            ValueError: If the column is none of these.
        """
        value = columns.get(self._attach_column) if self._attach_column else None
        if isinstance(value, str):
            text = value.strip()
            try:
                value = parse(text) if text.startswith("[") else text.splitlines()
            except ValueError:
                value = text.splitlines()
        listed = value or []
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise ValueError(f"column {self._attach_column!r} is neither a path or URL nor a list of them")
        return [one.strip() for one in listed if one.strip()]

    def _choice(self) -> str:
        for name in PREFERRED:
            if name in self._known:
                return name
        if len(self._known) == 1:
            return next(iter(self._known))
        raise ConfigurationError(
            f"prompt_column: name the column that is the prompt, or give prompt_template; the {self._listed()}"
        )

    def _listed(self) -> str:
        names = [repr(name) for name in self._known]
        return f"columns are {', '.join(names[:LISTED])}{', ...' if len(names) > LISTED else ''}"

    def prompt(self, columns: dict[str, Any]) -> str | ValueError:
        """Return the prompt of a row, or what is wrong with it."""
        if self._template is not None:
            try:
                prompt = self._template.fill(columns)
            except MissingColumnError as error:
                return ValueError(f"column {error.column!r} {'is empty' if error.column in columns else 'is missing'}")
        else:
            value = columns.get(self._prompt_column)
            if value is None:
                state = "is empty" if self._prompt_column in columns else "is missing"
                return ValueError(f"column {self._prompt_column!r} {state}")
            if isinstance(value, bool | list | dict):
                return ValueError(f"column {self._prompt_column!r} is {_kind(value)}, not a text")
            prompt = str(value)
        if not prompt.strip():
            return ValueError("the prompt is empty")
        if len(prompt) > MAX_PROMPT_CHARACTERS:
            return ValueError(f"the prompt is longer than {MAX_PROMPT_CHARACTERS:,} characters")
        return prompt

    def _id(self, item: Item, columns: dict[str, Any], number: int) -> str | ValueError:
        if self.id_column is None and item.name is None:
            return str(number + 1)
        value = columns.get(self.id_column) if self.id_column else item.name
        if value is None or not str(value).strip():
            state = "is empty" if self.id_column in columns else "is missing"
            return ValueError(f"column {self.id_column!r}, the id, {state}")
        if isinstance(value, bool | list | dict):
            return ValueError(f"column {self.id_column!r}, the id, is {_kind(value)}, neither a text nor a number")
        name = str(value)
        # A digest and not the id: 100,000 of them take some megabytes, however long the ids are.
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        if digest in self._ids:
            return ValueError(f"duplicate id {_short(name)}")
        self._ids.add(digest)
        return name


def _columns(value: Any) -> dict[str, Any] | None:
    """Return the columns of what was found; a text alone is a prompt."""
    if isinstance(value, dict):
        return value
    return {PROMPT: value} if isinstance(value, str) else None


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", list: "an array", dict: "an object", str: "a text"}
    return names.get(type(value), "a number")


def _short(text: str, most: int = 80) -> str:
    return json.dumps(text if len(text) <= most else text[: most - 3] + "...", ensure_ascii=False)
