"""Rows that are no file: from standard input, of a data frame, and an output as a data frame."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from consensus_flows.tasks.batches.addresses import batches_folder
from consensus_flows.tasks.batches.parquet import plain
from consensus_flows.tasks.batches.results import ANSWERS, RESULT_COLUMNS, RowResult
from consensus_flows.tasks.batches.source import Source
from consensus_flows.tasks.batches.writing import json_text
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.files import atomic_write

Library = Literal["pandas", "polars", "pyarrow"]
InputFormat = Literal["csv", "tsv", "jsonl", "json", "txt"]
_READERS = {"pandas": "to_dict", "polars": "to_dicts", "pyarrow": "to_pylist"}
_NESTED = [name for name, field in RowResult.model_fields.items() if "dict" in str(field.annotation)]


def kept(data: bytes, ending: str) -> str:
    """Keep an input as a file in Prefect's home, named after its content, so that its batch can be resumed and retried.

    Args:
        data: The whole input.
        ending: The ending that tells its format.
    """
    path = _path(f"input-{hashlib.sha256(data).hexdigest()[:16]}{ending}")
    with atomic_write(path, mode=0o600) as file:  # again for each run, as its age is what it is deleted by
        file.write_bytes(data)
    return str(path)


def unnamed_output(*depends_on: object) -> str:
    """Return where the answers go if no file was named: the same place for the same batch, so that it can be resumed."""
    digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return str(_path(f"answers-{digest}.jsonl"))


def _path(name: str) -> Path:
    folder = batches_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / name


def guess_format(data: bytes) -> InputFormat:
    """Tell the format of a text by its beginning: JSON by its bracket, else CSV."""
    first = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    return "jsonl" if first == b"{" else "json" if first == b"[" else "csv"


def kept_rows(rows: object) -> str:
    """Keep a data frame of pandas, Polars or Arrow, or a list of objects or texts, as a file.

    Raises:
        ConfigurationError: If it is none of them.
    """
    lines = [json_text(plain(row)) for row in _records(rows)]
    return kept("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass"), ".jsonl")


def _records(rows: Any) -> Iterable[Any]:
    library = type(rows).__module__.partition(".")[0]
    if library in _READERS and hasattr(rows, _READERS[library]):
        return rows.to_dict("records") if library == "pandas" else getattr(rows, _READERS[library])()  # type: ignore[no-any-return]
    if isinstance(rows, Iterable) and not isinstance(rows, Mapping | bytes):
        return list(rows)
    raise ConfigurationError(
        f"input: {type(rows).__name__} is not a path, a pandas, Polars or Arrow table, or a list of rows"
    )


def output_rows(address: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of an output, with the types of its columns whatever the format."""
    for row in Source(address).records():
        yield {name: _typed(name, value) for name, value in row.items()}


def _typed(name: str, value: Any) -> Any:
    if name not in RESULT_COLUMNS or not isinstance(value, str):
        return value
    kind = RESULT_COLUMNS[name]
    if not value:
        return None
    if name in _NESTED or kind is bool:
        with suppress(ValueError):
            return json.loads(value)
    return kind(value) if kind in {int, float} else value


def frame_of(address: str, library: Library | None) -> Any:
    """Read an output as a data frame.

    Args:
        address: The output.
        library: What to read it with; None for the first of pandas, Polars and Arrow that is installed.

    Raises:
        ConfigurationError: If none is installed.
    """
    for name in (library,) if library else ("pandas", "polars", "pyarrow"):
        with suppress(ImportError):
            module = import_module(name)
            rows = list(output_rows(address))
            if name == "pandas":
                return module.DataFrame.from_records(rows)
            # As in Parquet: a struct of all answers that were ever given would have a field for each of them.
            for row in rows:
                row.update((key, json_text(row[key])) for key in _NESTED if key != ANSWERS and row.get(key) is not None)
            if name == "polars":
                return module.from_dicts(rows, infer_schema_length=None)
            return module.Table.from_pylist(rows)
    raise ConfigurationError(
        f"to_frame: {library or 'pandas, Polars or pyarrow'} is not installed: pip install {library or 'pandas'}"
    )
