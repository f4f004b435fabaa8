"""Writes rows as Parquet, with a schema that holds for all of them.

A column's type is known only when its last value was seen. So the rows go to a temporary file first, and from there into
row groups: memory stays the same whatever their number.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from consensus_flows.tasks.batches.formats.parquet_file import pyarrow_for
from consensus_flows.tasks.batches.formats.writing import json_text

GROUP_ROWS = 1000
GROUP_CHARACTERS = 8_000_000
"""A row group ends at whichever of both is reached first."""
_INT64 = 2**63
_EXACT_FLOAT = 2**53


def write_parquet(
    path: Path, rows: Iterable[dict[str, Any]], columns: Sequence[str], types: Mapping[str, type] | None = None
) -> None:
    """Write rows into one file, compressed by zstd.

    A column of numbers, of truth values or of texts is one. One with anything else, or with several kinds of values,
    holds the JSON text of each value. One without any value holds texts.

    Args:
        path: The file.
        rows: The rows.
        columns: Names of all columns, in order.
        types: What a column holds if there is no value to tell, or only whole numbers where others can be.
    """
    pa, pq = pyarrow_for("output")
    kinds: dict[str, set[str]] = {name: set() for name in columns}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace", prefix="consensus-rows-") as spool:
        for row in rows:
            values = [row.get(name) for name in columns]
            for name, value in zip(columns, values, strict=True):
                if value is not None:
                    kinds[name].add(_kind(value))
            spool.write(json_text(values) + "\n")
        spool.seek(0)
        names = {name: _type(kinds[name], (types or {}).get(name, str)) for name in columns}
        arrow = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "str": pa.string(), "json": pa.string()}
        schema = pa.schema([(name, arrow[kind]) for name, kind in names.items()])
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for group in _groups(spool):
                cells = [
                    pa.array([_value(row[at], kind) for row in group], type=arrow[kind])
                    for at, kind in enumerate(names.values())
                ]
                writer.write_table(pa.Table.from_arrays(cells, schema=schema))


def _groups(spool: TextIO) -> Iterator[list[list[Any]]]:
    group: list[list[Any]] = []
    size = 0
    for line in spool:
        group.append(json.loads(line))
        size += len(line)
        if len(group) >= GROUP_ROWS or size >= GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _kind(value: Any) -> str:
    if isinstance(value, bool | float | str):
        return type(value).__name__
    if isinstance(value, int):
        # What a float cannot hold exactly must not become one beside floats.
        return "int" if abs(value) <= _EXACT_FLOAT else "long" if -_INT64 <= value < _INT64 else "json"
    return "json"


def _type(kinds: set[str], otherwise: type) -> str:
    if not kinds:
        return otherwise.__name__
    if kinds <= {"int", "float"} and (otherwise is float or "float" in kinds):
        return "float"
    if kinds <= {"int", "long"}:
        return "int"
    return next(iter(kinds)) if len(kinds) == 1 else "json"


def _value(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "json":
        return json_text(value)
    return float(value) if kind == "float" else value
