"""What the tests of a batch's input share."""

from pathlib import Path

import pytest

from consensus_flows.tasks.batches.rows import BadRow, Row
from consensus_flows.tasks.batches.source import Source
from consensus_flows.tasks.errors import ConfigurationError

ROOT = Path(__file__).parent.parent.parent


def rows_of(path, **options) -> list[Row | BadRow]:
    return list(Source(str(path), **options).rows())


def good(path, **options) -> list[Row]:
    found = rows_of(path, **options)
    assert all(isinstance(row, Row) for row in found), found
    return found


def bad(path, **options) -> dict[int, str]:
    return {row.line: row.message for row in rows_of(path, **options) if isinstance(row, BadRow)}


def written(folder: Path, name: str, data: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def refused(path, **options) -> str:
    with pytest.raises(ConfigurationError) as caught:
        rows_of(path, **options)
    return caught.value.message
