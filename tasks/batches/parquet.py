"""Parquet, read some rows at a time, and written with a schema that holds for all rows.

A column's type is known only when its last value was seen. So rows that are written go to a temporary file first, and
from there into row groups: memory stays the same whatever their number.
"""

import base64
import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, TextIO

from consensus_flows.tasks.batches.rows import MAX_ROW_CHARACTERS, TOO_LARGE, Broken, Item, check_names
from consensus_flows.tasks.batches.writing import json_text
from consensus_flows.tasks.errors import ConfigurationError

BATCH_ROWS = 16
"""Rows that are read at once: each may have a text of some megabytes, which is written once for all of them."""
_LISTS = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
MOST_BYTES = 4 * MAX_ROW_CHARACTERS
"""Of the values of one row; a character has four bytes at most."""
GROUP_ROWS = 1000
GROUP_CHARACTERS = 8_000_000
"""A row group ends at whichever of both is reached first."""
_INT64 = 2**63
_EXACT_FLOAT = 2**53


def pyarrow_for(parameter: str) -> tuple[ModuleType, ModuleType]:
    """Return `pyarrow` and `pyarrow.parquet`.

    Args:
        parameter: Whose value needs them; the error names it.

    Raises:
        ConfigurationError: If they are not installed.
    """
    try:
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as pq  # type: ignore[import-untyped]
    except ImportError:
        raise ConfigurationError(
            f"{parameter}: Parquet needs a module that is not here: pip install 'consensus-flows[parquet]'"
        ) from None
    return pa, pq


def read_parquet(file: BinaryIO) -> Iterator[Item | Broken | list[str]]:
    """Yield the names of the columns, then the rows.

    Raises:
        ConfigurationError: If it is no Parquet file, or broken, or `pyarrow` is not installed.
    """
    pa, pq = pyarrow_for("input")
    try:
        opened = pq.ParquetFile(file, pre_buffer=False)
        names = opened.schema_arrow.names
        check_names(names)
        yield names
        # Metadata of columns are never asked for: over damaged ones Arrow ends the process (pyarrow 26.0).
        columns = [opened.schema.column(number) for number in range(len(opened.schema))]
        lists = [one.path for one in columns if one.max_repetition_level and one.physical_type == "BYTE_ARRAY"]
        number = 0
        for group in range(opened.num_row_groups):
            for batch in _batches(pq, file, group, lists):
                yield from _rows(pa, batch, number)
                number += batch.num_rows
    except MemoryError:  # before those of Arrow, of which one is both
        raise ConfigurationError("input: not readable as Parquet: its rows do not fit in memory") from None
    except (pa.ArrowException, ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:
        # Arrow's own are OSErrors too; the last ones come where a damaged file has names that are no UTF-8 or days that
        # are in no calendar.
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"input: not readable as Parquet: {str(error)[:200]}") from None


def _batches(pq: ModuleType, file: BinaryIO, group: int, lists: list[str]) -> Iterator[Any]:
    """Yield some rows of a row group at a time; texts in lists as numbers in a dictionary, because there may be any number."""
    for how in ({"read_dictionary": lists}, {}) if lists else ({},):
        batches = pq.ParquetFile(file, pre_buffer=False, **how).iter_batches(BATCH_ROWS, row_groups=[group])
        try:
            first = next(batches, None)
        except OSError:  # there are encodings that cannot be read as a dictionary
            if not how:
                raise
            continue
        if first is not None:
            yield first
            yield from batches
        return


def _rows(pa: ModuleType, batch: Any, before: int) -> Iterator[Item | Broken]:
    rows: list[Any] = [None] * batch.num_rows
    if _bytes(pa, batch) <= MOST_BYTES:
        with suppress(UnicodeDecodeError):
            rows = batch.to_pylist()
    for at, row in enumerate(rows):
        number = before + at + 1
        if row is not None:
            yield Item(number, plain(row))
            continue
        one = batch.slice(at, 1)
        if _bytes(pa, one) > MOST_BYTES:
            yield Broken(number, TOO_LARGE)
            continue
        try:
            yield Item(number, plain(one.to_pylist()[0]))
        except UnicodeDecodeError as error:
            yield Broken(number, f"wrong encoding: {error.reason}")


def _bytes(pa: ModuleType, batch: Any) -> int:
    return sum(bytes_of(pa, column) for column in batch.columns)


def bytes_of(pa: Any, array: Any) -> int:
    """Return about how many bytes the values of an array take as Python's objects, without making them.

    Args:
        pa: The module `pyarrow`.
        array: An array of any type.
    """
    import pyarrow.compute as pc  # type: ignore[import-untyped]

    kind, size = array.type, 8 * len(array)
    if isinstance(array, pa.ExtensionArray):
        return bytes_of(pa, array.storage)
    if pa.types.is_dictionary(kind):
        if not hasattr(array.dictionary, "dictionary") and _is_text(pa, array.dictionary.type):
            lengths = pc.binary_length(array.dictionary)
            return size + int(pc.sum(pc.take(lengths, array.indices)).as_py() or 0)
        return size + 64 * len(array)
    if pa.types.is_map(kind):  # `keys` and `items` are those of the whole array of which this may be a part
        first, last = (array.offsets[at].as_py() for at in (0, -1))
        return size + sum(bytes_of(pa, part.slice(first, last - first)) for part in (array.keys, array.items))
    if any(getattr(pa.types, name)(kind) for name in _LISTS):
        return size + bytes_of(pa, array.flatten())
    if pa.types.is_struct(kind):
        return size + sum(bytes_of(pa, part) for part in array.flatten())
    return size + int(array.nbytes)


def _is_text(pa: Any, kind: Any) -> bool:
    return any(
        getattr(pa.types, name)(kind) for name in ("is_string", "is_large_string", "is_binary", "is_large_binary")
    )


def plain(value: Any) -> Any:
    """Return a value of a Parquet file as JSON has it.

    Times become ISO 8601, bytes their text or base64, decimals a number where one holds them exactly, else text; NaN,
    with which many programs write a missing value, becomes null.
    """
    if isinstance(value, str | bool | int | None):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Decimal):
        return float(value) if Decimal(repr(float(value))) == value else str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    return str(value)


def write_parquet(
    path: Path,
    rows: Iterable[dict[str, Any]],
    columns: Sequence[str],
    types: Mapping[str, type] | None = None,
    structs: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write rows into one file, compressed by zstd.

    A column of numbers, of truth values or of texts is one. One of `structs` is a struct with a field for each key. One
    with anything else, or with several kinds of values, holds the JSON text of each value. One without any value holds
    texts.

    Args:
        path: The file.
        rows: The rows.
        columns: Names of all columns, in order.
        types: What a column holds if there is no value to tell, or only whole numbers where others can be.
        structs: Columns of objects by some key, with the names and types of the fields that each object has.
    """
    pa, pq = pyarrow_for("output")
    structs = structs or {}
    kinds: dict[str, set[str]] = {name: set() for name in columns}
    keys: dict[str, dict[str, None]] = {name: {} for name in structs}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace", prefix="consensus-rows-") as spool:
        for row in rows:
            values = [row.get(name) for name in columns]
            for name, value in zip(columns, values, strict=True):
                if value is not None:
                    kinds[name].add(_kind(value))
                    if name in keys:
                        keys[name].update(dict.fromkeys(value))
            spool.write(json_text(values) + "\n")
        spool.seek(0)
        names = {name: _type(kinds[name], (types or {}).get(name, str)) for name in columns}
        arrow = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "str": pa.string(), "json": pa.string()}
        arrow |= {name: _struct(pa, dict.fromkeys(found, structs[name])) for name, found in keys.items() if found}
        names |= {name: name for name, found in keys.items() if found}
        schema = pa.schema([(name, arrow[kind]) for name, kind in names.items()])
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for group in _groups(spool):
                cells = [
                    pa.array([_value(row[at], kind) for row in group], type=arrow[kind])
                    for at, kind in enumerate(names.values())
                ]
                writer.write_table(pa.Table.from_arrays(cells, schema=schema))


def _struct(pa: ModuleType, fields: Mapping[str, Any]) -> Any:
    """Return Arrow's type of an object with these fields."""
    plain_types = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}
    return pa.struct(
        [(name, _struct(pa, kind) if isinstance(kind, Mapping) else plain_types[kind]) for name, kind in fields.items()]
    )


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
