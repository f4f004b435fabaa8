"""A prompt made of a row's columns: `"Translate into {language}: {text}"`."""

import json
from collections.abc import Mapping
from string import Formatter
from typing import Any

from consensus_flows.tasks.errors import ConfigurationError


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
            raise ConfigurationError(f"prompt_template: {error}; write {{{{ for a brace") from None
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
        raise ConfigurationError("prompt_template: {} names no column: write {column}, and {{ for a brace")
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
