"""Parquet, read some hundred rows at a time."""

import base64
import math
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import ModuleType
from typing import Any, BinaryIO

from tasks.batches.row import Broken, Item
from tasks.errors import ConfigurationError

BATCH_ROWS = 256


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
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigurationError(f"input: two columns are called {min(twice)!r}")
        yield names
        number = 0
        for batch in opened.iter_batches(batch_size=BATCH_ROWS):
            yield from _rows(batch, number)
            number += batch.num_rows
    except pa.ArrowException as error:
        raise ConfigurationError(f"input: it cannot be read as Parquet: {str(error)[:200]}") from None


def _rows(batch: Any, before: int) -> Iterator[Item | Broken]:
    try:
        rows: list[Any] = batch.to_pylist()
    except UnicodeDecodeError:
        rows = [None] * batch.num_rows
    for at, row in enumerate(rows):
        number = before + at + 1
        if row is not None:
            yield Item(number, plain(row))
            continue
        try:
            yield Item(number, plain(batch.slice(at, 1).to_pylist()[0]))
        except UnicodeDecodeError as error:
            yield Broken(number, f"wrong encoding: {error.reason}")


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
