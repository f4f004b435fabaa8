"""The output of a batch: one row an answer, in a file that is seen only when it is whole; and that of its parts.

A part, on which one of several runs works, is a file of JSON lines: its rows in the order of the input, then the sums
over its calls.
"""

import hashlib
import heapq
import json
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from consensus_flows.blocks.spelling import did_you_mean
from consensus_flows.tasks.addresses import Place, place_of
from consensus_flows.tasks.batches.journal import Finished
from consensus_flows.tasks.batches.parquet import pyarrow_for, write_parquet
from consensus_flows.tasks.batches.results import ANSWERS, BY_MEMBER, RESULT_COLUMNS, flat_answers
from consensus_flows.tasks.batches.rows import Inventory, Item, Row
from consensus_flows.tasks.batches.source import FORMATS as READERS
from consensus_flows.tasks.batches.source import Source
from consensus_flows.tasks.batches.totals import Totals
from consensus_flows.tasks.batches.writing import write_csv, write_json_lines
from consensus_flows.tasks.errors import ConfigurationError, OutputError
from consensus_flows.tasks.files import atomic_write, is_stream
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.record import Record

_NAME_BYTES = 200
"""Of a record's name; most file systems take 255."""
COMPARED = 20
"""Rows of an output that are looked at to tell whose it is."""
PART_COLUMNS = ("row", "result", "own", "calls")

Write = Callable[[Path, Iterable[dict[str, Any]], Sequence[str]], None]

FORMATS: dict[str, Write] = {
    ".jsonl": write_json_lines,
    ".ndjson": write_json_lines,
    ".csv": write_csv,
    ".parquet": lambda path, rows, columns: write_parquet(path, rows, columns, RESULT_COLUMNS, BY_MEMBER),
}


def own_names(columns: Iterable[str], id_column: str | None = None, members: Sequence[str] = ()) -> dict[str, str]:
    """Return what each own column of the input is called in the output.

    One that has the name of a result is called `input_...`. The id column is left out if it is called `id`: the result
    of that name holds the same.

    Args:
        columns: The input's columns, in order.
        id_column: The one that the ids are from.
        members: Names of members that have columns.
    """
    results = {*RESULT_COLUMNS, *members}
    own = [name for name in columns if not (name == id_column == "id")]
    taken = {*own, *results}
    names = {}
    for name in own:
        new = name
        if name in results:
            new = f"input_{name}"
            while new in taken:
                new = f"input_{new}"
            taken.add(new)
        names[name] = new
    return names


def output_row(
    result: Mapping[str, Any], own: Mapping[str, Any], names: Mapping[str, str], results: Iterable[str] = RESULT_COLUMNS
) -> dict[str, Any]:
    """Return a row of the output: the results, then the row's own columns by their `own_names`."""
    row = {name: result.get(name) for name in results}
    row.update((names[name], value) for name, value in own.items() if name in names)
    return row


def check_output(address: str, parameter: str = "output", *, page: bool = False) -> None:
    """Check that rows can be written to an address.

    Args:
        address: Local path or address.
        parameter: What it was given as; errors name it.
        page: Whether it may be a page of HTML too.

    Raises:
        ConfigurationError: If not; it says what would be right.
    """
    place = place_of(address, parameter)
    try:
        is_folder = place.fs.isdir(place.path)
    except Exception as error:
        # Whatever a store's client raises: no credentials, no network, no such bucket.
        raise ConfigurationError(
            f"{parameter}: {address} cannot be reached: {type(error).__name__}: {str(error)[:200]}"
        ) from None
    if is_folder:
        raise ConfigurationError(f"{parameter}: {address} is a folder: give a file in it, for example answers.jsonl")
    if not (page and place.suffixes() == (".html", None)) and ending_of(address, parameter) == ".parquet":
        pyarrow_for(parameter)
    if not place.local:
        _try_store(place, parameter)
    elif not is_stream(Path(place.path)):
        folder = _real(place).parent
        if not folder.is_dir():
            raise ConfigurationError(f"{parameter}: no such folder: {folder}")
        try:
            # Tried and not looked up: permissions alone do not tell of a file system that is read-only or full.
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise ConfigurationError(
                f"{parameter}: the folder {folder} cannot be written to: {error.strerror}"
            ) from None


def check_replaced(address: str, source: Source, inventory: Inventory) -> None:
    """Check that an output that is there already is one of this input, which is replaced by what comes now.

    It is if one of its first rows is a row of the input: rows may have been added or mended since. A run of some rows does not
    replace an output of more.

    Raises:
        ConfigurationError: If not.
    """
    place = place_of(address, "output")
    count, some = 0, source.selection.limit or source.selection.sample
    if (
        (place.local and is_stream(Path(place.path)))
        or not place.fs.exists(place.path)
        or not place.fs.size(place.path)
    ):
        return
    ending, compression = place.suffixes()
    try:
        with place.fs.open(place.path, "rb", compression=compression) as file:
            items = (one.value for one in READERS[ending](file) if isinstance(one, Item))
            old = {str(row.get("id")): row for row in islice(items, COMPARED) if isinstance(row, dict)}
            count = len(old) + sum(1 for _ in items) if some else 0
    except Exception:  # whatever it is, it is no output of this batch
        old = {}
    if count > inventory.rows:
        raise ConfigurationError(
            f"output: {address} has {plural(count, 'row')}, and this run of some rows would leave {inventory.rows}: name another file, or "
            "replace it with --overwrite (overwrite: true)"
        )
    names = own_names(inventory.columns, source.id_column)

    def texts(row: Row) -> dict[str, str]:
        return {names[name]: value for name, value in row.columns.items() if name in names and isinstance(value, str)}

    rows = (row for row in (source.all_rows() if old else ()) if isinstance(row, Row))
    first: list[dict[str, str]] = []
    for row in rows:
        if (before := old.get(row.id)) and texts(row).items() <= before.items():
            return
        if len(first) < COMPARED:
            first.append(texts(row))
    other_ids = any(one and one.items() <= before.items() for one in first for before in old.values())
    raise ConfigurationError(
        f"output: {address} is there and {'holds rows of this input under other ids' if other_ids else 'holds nothing of this input'}: "
        "--overwrite (overwrite: true) replaces it, or name another file"
    )


def check_records(address: str) -> None:
    """Make the folder for records if only it itself is missing.

    Raises:
        ConfigurationError: If that is not possible.
    """
    place = place_of(address, "records")
    try:
        if place.local:
            Path(place.path).mkdir(exist_ok=True)
        else:
            place.fs.makedirs(place.path, exist_ok=True)
    except Exception as error:  # a store's client has errors of its own
        raise ConfigurationError(
            f"records: the folder {address} cannot be made: {getattr(error, 'strerror', None) or error}"
        ) from None


def record_name(row_id: str) -> str:
    """Return what the record of a row is called: its id, with what cannot be in a file's name as %XX."""
    name = re.sub(r'^\.|[/\\%:*?"<>|\x00-\x1f\x7f]', lambda found: f"%{ord(found[0]):02X}", row_id)
    if len(name.encode("utf-8", "replace")) > _NAME_BYTES:
        name = f"{name[: _NAME_BYTES // 8]}-{hashlib.sha256(row_id.encode()).hexdigest()[:16]}"
    return f"{name}.json"


def write_record(address: str, row_id: str, record: Record) -> None:
    """Write the record of a row; the file is never seen half-written.

    Raises:
        OutputError: If it cannot be written.
    """
    place = place_of(address, "records")
    text = record.model_dump_json(indent=2) + "\n"
    try:
        if place.local:
            with atomic_write(Path(place.path, record_name(row_id))) as file:
                file.write_text(text, encoding="utf-8", errors="replace")
        else:
            place.fs.pipe_file(f"{place.path}/{record_name(row_id)}", text.encode("utf-8", "replace"))
    except Exception as error:  # a store's client has errors of its own
        raise OutputError(
            f"records: the record of {row_id} cannot be written: {getattr(error, 'strerror', None) or error}. Finished rows "
            "are kept: start again with the same arguments when that is mended"
        ) from None


def write_rows(address: str, rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> None:
    """Write rows to an address, in constant memory.

    The file is written beside its place, or for a store in the cloud in a temporary folder, and moved or uploaded when it
    is complete: whoever looks at the address sees the file that was there before, or the whole new one.

    Args:
        address: Local path or address, ending in .jsonl, .ndjson, .csv or .parquet; all but Parquet also with .gz.
        rows: The rows; `output_row` makes them.
        columns: Names of all columns of the output, in order.

    Raises:
        ConfigurationError: If the address cannot be used.
        OSError: If writing fails; nothing has changed at the address then.
    """
    write = FORMATS[ending_of(address, "output")]
    write_file(address, lambda file: write(file, rows, columns))


def write_file(address: str, write: Callable[[Path], object]) -> None:
    """Write a file to an address, so that nobody sees half of it.

    Args:
        address: Local path or address.
        write: Writes it to a path of this machine.

    Raises:
        OSError: If writing fails; nothing has changed at the address then.
    """
    place = place_of(address, "output")
    if place.local:
        part = _part_name(place)
        # What a killed run has left: whoever writes an output holds its journal, so nobody is at work on these.
        for left in _real(place).parent.glob(f".*-{part.partition('-')[2]}"):
            left.unlink(missing_ok=True)
        with atomic_write(Path(place.path), part=part, sync=True) as file:
            write(file)
        return
    with tempfile.TemporaryDirectory(prefix="consensus-output-") as folder:
        file = Path(folder) / _part_name(place)
        write(file)
        _upload(place, file, place.path)


def _part_name(place: Place) -> str:
    """Name the file that is not complete: shorter than its journal's name, so that it can be made wherever that one can.

    The ending stays, because it tells whether to compress.
    """
    ending, compression = place.suffixes()
    path = os.path.realpath(place.path) if place.local else place.path
    name = hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f".{os.getpid()}-{name}{ending}{'.gz' if compression else ''}"


def _upload(place: Place, file: Path, path: str) -> None:
    """Copy a file of this machine to a store.

    Raises:
        OSError: If that fails, whatever error of its own the store's client has for it.
    """
    try:
        place.fs.put_file(str(file), path)
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {str(error)[:200]}") from error


def _try_store(place: Place, parameter: str) -> None:
    """Write a small object beside an output in a store, as the output will be written, and delete it.

    Whether a bucket can be listed does not tell whether it can be written to.
    """
    probe = f"{place.path}.probe-{secrets.token_hex(4)}"
    with tempfile.NamedTemporaryFile(prefix="consensus-probe-") as file:
        file.write(b"Tells whether answers can be written here; it may be deleted.\n")
        file.flush()
        try:
            _upload(place, Path(file.name), probe)
        except OSError as error:
            raise ConfigurationError(
                f"{parameter}: {place.address} cannot be written to: {error.strerror or str(error) or type(error).__name__}"
            ) from None
    with suppress(Exception):  # who may write need not be allowed to delete
        place.fs.rm_file(probe)


def ending_of(address: str, parameter: str) -> str:
    """Return the ending that tells the format of an output.

    Raises:
        ConfigurationError: If there is no such format.
    """
    place = place_of(address, parameter)
    ending, compression = place.suffixes()
    if ending not in FORMATS or (compression and (ending == ".parquet" or compression != "gzip")):
        raise ConfigurationError(
            f"{parameter}: {place.address} has an unsupported extension.{did_you_mean(ending, FORMATS)} Use one of {', '.join(FORMATS)}; all but "
            ".parquet also with .gz"
        )
    return ending


def _real(place: Place) -> Path:
    """The path that is written: a link stays, and what it points to is replaced."""
    return Path(os.path.realpath(place.path))


def write_output(
    address: str,
    rows: Iterable[Finished],
    inventory: Inventory,
    id_column: str | None,
    members: Sequence[str] | None = None,
) -> None:
    """Write the rows of a batch as its output.

    Args:
        address: Local path or address.
        rows: The rows.
        inventory: What is in the input.
        id_column: The column that the ids are from.
        members: Members that have a column each in place of `answers`; None to keep that.

    Raises:
        OSError: If it cannot be written.
    """
    names = own_names(inventory.columns, id_column, members or ())
    results = (
        [*RESULT_COLUMNS] if members is None else [*(name for name in RESULT_COLUMNS if name != ANSWERS), *members]
    )
    written = (output_row(one.result | flat_answers(one.result), one.own, names, results) for one in rows)
    write_rows(address, written, [*results, *names.values()])


def write_part(address: str, rows: Iterable[Finished], totals: Totals) -> None:
    """Write the rows of a part of a batch.

    Raises:
        OSError: If it cannot be written.
    """

    def lines() -> Iterator[dict[str, Any]]:
        for one in rows:
            yield {"row": one.number, "result": one.result, "own": one.own}
        yield {"calls": totals.dump()}

    write_rows(address, lines(), PART_COLUMNS)


def merged(addresses: Sequence[str], totals: Totals) -> Iterator[Finished]:
    """Read the rows of all parts in the order of the input, and add their calls to `totals`."""
    return heapq.merge(*(_rows(address, totals) for address in addresses), key=lambda one: one.number)


def _rows(address: str, totals: Totals) -> Iterator[Finished]:
    place = place_of(address, "output")
    with place.fs.open(place.path, "rb") as file:
        for line in file:
            entry = json.loads(line)
            if "calls" in entry:
                totals.add(entry["calls"])
            else:
                yield Finished(entry["row"], entry["result"], entry["own"])
