"""Parquet, read some hundred rows at a time."""

import base64
import io
import math
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import ModuleType
from typing import Any, BinaryIO

from consensus_flows.tasks.batches.formats.parquet_footer import check_footer
from consensus_flows.tasks.batches.formats.parquet_size import bytes_of, check_parquet, rows_at_once, to_be_numbered
from consensus_flows.tasks.batches.limits import MAX_ROW_CHARACTERS, check_names
from consensus_flows.tasks.batches.row import Broken, Item
from consensus_flows.tasks.errors import ConfigurationError

MOST_BYTES = 4 * MAX_ROW_CHARACTERS
"""Of the values of one row; a character has four bytes at most."""


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
        check_footer(file)
        file.seek(0)
        opened = pq.ParquetFile(file, pre_buffer=False)
        names = opened.schema_arrow.names
        check_names(names)
        check_parquet(opened.metadata, file.seek(0, io.SEEK_END))
        if texts := to_be_numbered(file, opened.metadata):
            opened = pq.ParquetFile(file, pre_buffer=False, metadata=opened.metadata, read_dictionary=texts)
        yield names
        number = 0
        for group in range(opened.num_row_groups):
            rows = rows_at_once(file, opened.metadata.row_group(group))
            for batch in opened.iter_batches(batch_size=rows, row_groups=[group]):
                yield from _rows(pa, batch, number)
                number += batch.num_rows
    except MemoryError:  # before those of Arrow, of which one is both
        raise ConfigurationError("input: it cannot be read as Parquet: its rows are larger than the memory") from None
    except (pa.ArrowException, ArithmeticError, LookupError, TypeError, ValueError) as error:
        # The last ones are of pyarrow too, where a damaged file has names that are no UTF-8 or days that are in no calendar.
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"input: it cannot be read as Parquet: {str(error)[:200]}") from None


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
            yield Broken(number, f"the row is larger than {MAX_ROW_CHARACTERS:,} characters")
            continue
        try:
            yield Item(number, plain(one.to_pylist()[0]))
        except UnicodeDecodeError as error:
            yield Broken(number, f"wrong encoding: {error.reason}")


def _bytes(pa: ModuleType, batch: Any) -> int:
    return sum(bytes_of(pa, column) for column in batch.columns)


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
