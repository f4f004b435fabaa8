"""The input of a batch: rows of a file, a folder or an address, streamed in constant memory, as often as wanted."""

import lzma
import random
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from consensus_flows.blocks.spelling import did_you_mean
from consensus_flows.tasks.addresses import Place, place_of
from consensus_flows.tasks.attachments import local_file, looked_at
from consensus_flows.tasks.batches.columns import Columns, Template
from consensus_flows.tasks.batches.parquet import read_parquet
from consensus_flows.tasks.batches.rows import (
    MAX_PROMPT_CHARACTERS,
    BadRow,
    Broken,
    Files,
    Fingerprint,
    Inventory,
    Item,
    Row,
    files_of,
)
from consensus_flows.tasks.batches.text_formats import read_csv, read_json_array, read_json_lines, read_lines
from consensus_flows.tasks.calls.budget import most_tokens
from consensus_flows.tasks.errors import ConfigurationError

FORMATS: dict[str, Callable[[BinaryIO], Iterator[Any]]] = {
    ".csv": read_csv,
    ".tsv": partial(read_csv, delimiter="\t"),
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json_array,
    ".parquet": read_parquet,
    ".txt": read_lines,
}
"""What reads a file, by its ending. A list of texts that it yields first are the names of all columns."""
_ITEMS = {".json", ".parquet"}
"""Formats whose rows are counted as items and not by lines."""
ENDINGS = (".md", ".txt")
"""Of the files of a folder that are prompts."""
BAD_KEPT = 100
"""Bad rows that an inventory holds; all are counted."""
LEFT_BYTES = 1_000_000
"""Of the rows that come with an inventory."""
LOOKED_AT = 100
"""Rows by which the column of the prompt is chosen where a format does not name its columns."""


class Selection(NamedTuple):
    """Which usable rows of an input are taken; all by default.

    Attributes:
        limit: The first so many.
        sample: So many, drawn at random.
        seed: Draws other rows.
    """

    limit: int | None = None
    sample: int | None = None
    seed: int = 0


class Source:
    """The rows of an input.

    Args:
        address: A local path, or an address that fsspec understands, as `s3://bucket/questions.jsonl`: a file .csv, .tsv,
            .jsonl, .ndjson, .json, .parquet or .txt, all but Parquet also with .gz, or a folder of files .md and .txt.
        prompt_column: The column that holds the prompt; None for `prompt`, else `question`, else the only column.
        prompt_template: A text over columns, in place of a column.
        selection: Which rows are taken.
        id_column: The column that holds the row's id; None for `id` where there is one, else the number of the row, from 1.
        attach_column: The column of the files that the prompt is about: paths, relative to the input's folder, and URLs.

    Raises:
        ConfigurationError: If a parameter cannot be used; it names the parameter.
    """

    def __init__(
        self,
        address: str,
        *,
        prompt_column: str | None = None,
        prompt_template: str | None = None,
        id_column: str | None = None,
        attach_column: str | None = None,
        selection: Selection = Selection(),  # noqa: B008 - it cannot be changed
    ) -> None:
        if prompt_column is not None and prompt_template is not None:
            raise ConfigurationError("prompt_template: give it or prompt_column, not both")
        if selection.limit is not None and selection.sample is not None:
            raise ConfigurationError("sample: give it or limit, not both")
        self.selection = selection
        self._drawn: frozenset[int] | None = None
        self.address = str(address)
        self._place: Place = place_of(self.address, "input")
        self._template = None if prompt_template is None else Template(prompt_template)
        self._prompt_column, self.id_column, self.attach_column = prompt_column, id_column, attach_column
        self._columns: Columns | None = None
        self._folder = self._is_folder()
        self._ending, self._compression = ("", None) if self._folder else self._format()

    @property
    def whole_address(self) -> str:
        """The address as it holds wherever one stands; a local path is absolute."""
        return self._place.path if self._place.local else self.address

    def rows(self) -> Iterator[Row | BadRow]:
        """Yield the rows that were selected in order, and all bad ones on the way.

        Raises:
            ConfigurationError: As `all_rows`.
        """
        limit, sample, seed = self.selection
        if sample is not None and self._drawn is None:
            usable = [row.number for row in self.all_rows() if isinstance(row, Row)]
            self._drawn = frozenset(random.Random(seed).sample(usable, min(sample, len(usable))))
        left = limit
        for row in self.all_rows():
            if isinstance(row, BadRow) or self._drawn is None or row.number in self._drawn:
                yield row
                if left is not None and isinstance(row, Row) and (left := left - 1) == 0:
                    return

    def all_rows(self) -> Iterator[Row | BadRow]:
        """Yield all rows in order, each as one that can be used or one that cannot.

        Raises:
            ConfigurationError: If the input as a whole cannot be used: it is empty, or has no such column, or cannot be
                read to its end.
        """
        found = self._found()
        names: list[str] | None = None
        first = list(islice(found, 1))
        if first and isinstance(first[0], list):
            names, first = first[0], []
        looked_at = [*first, *islice(found, LOOKED_AT)]
        if not looked_at:
            raise ConfigurationError(f"input: {self._nothing(names)}")
        whole = len(looked_at) <= LOOKED_AT
        columns = Columns(self._prompt_column, self._template, self.id_column, self.attach_column)
        columns.choose(looked_at, names, whole=whole)
        self._columns = columns
        self.id_column = columns.id_column
        number = -1
        for number, one in enumerate(chain(looked_at, found)):
            made = one.message if isinstance(one, Broken) else columns.read(one, number)
            if isinstance(made, str):
                yield BadRow(number, one.line, self._where(one), made)
            else:
                yield Row(number, one.line, *made)
        columns.check_seen()

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the rows as they are, without looking for a prompt.

        Raises:
            ConfigurationError: If one cannot be read.
        """
        for one in self._found():
            if isinstance(one, Broken) or (isinstance(one, Item) and not isinstance(one.value, dict)):
                raise ConfigurationError(f"{self._where(one)}: {getattr(one, 'message', 'it is not an object')}")
            if isinstance(one, Item):
                yield one.value

    def prompt_of(self, own: dict[str, Any]) -> str:
        """Return the prompt of a row that `rows` has yielded, by its own columns."""
        assert self._columns is not None
        return str(self._columns.prompt(own))

    @property
    def folder(self) -> Path | None:
        """The folder from which relative paths in the input start; None if the input is not a local file."""
        if not self._place.local:
            return None
        path = Path(self._place.path)
        return path if self._folder else path.parent

    def files_of(self, own: dict[str, Any]) -> list[str]:
        """Return the files of a row that `rows` has yielded, as the row names them."""
        assert self._columns is not None
        return self._columns.files(own)

    def whole(self, file: str) -> str:
        """Return the path or URL of a file that a row names, as it holds wherever one stands."""
        if "://" in file or file.startswith("data:"):
            return file
        if self.folder is not None:
            return str(self.folder / Path(file).expanduser())
        return f"{self.address.rstrip('/') if self._folder else self.address.rpartition('/')[0]}/{file}"

    def inspect(self, held: Callable[[Row, bytes], bool] | None = None) -> Inventory:
        """Read everything once, and return what is there.

        Args:
            held: Tells whether a row is finished, by what `row_text` makes of it. The first ones that are not come with the
                inventory, so that nobody has to read all the others again to find them.

        Raises:
            ConfigurationError: As `rows`.
        """
        size, files = 0, Files()
        bad: list[BadRow] = []
        columns: dict[str, None] = {}
        left: list[Row] = []
        room = LEFT_BYTES
        seen = Fingerprint()
        for row in self.rows():
            text = seen.add(row)
            if isinstance(row, BadRow):
                if len(bad) < BAD_KEPT:
                    bad.append(row)
                continue
            size += most_tokens(row.prompt)
            columns.update(dict.fromkeys(row.columns))
            if self.attach_column is not None:
                files = files.and_also(self.look_at(row.id, self.files_of(row.columns)))
            if held is not None and room > 0 and not held(row, text):
                left.append(row)
                room -= len(text)
        return Inventory(seen.rows, seen.bad_rows, tuple(bad), size, tuple(columns), seen.sha256(), files, tuple(left))

    def look_at(self, row: str, files: Iterable[str]) -> Files:
        """Look at the files of a row; none is copied before the row is begun.

        Args:
            row: The row's id.
            files: Its files, as it names them.
        """
        found = Files()
        for source in files:
            whole = self.whole(source)
            if whole.startswith("data:") or "://" in whole:
                found = found.and_also(Files(remote=1))
                continue
            try:
                one = looked_at(local_file(source, "attach_column", self.folder), "attach_column")
            except ConfigurationError as error:
                found = found.and_also(Files(problems=(f"row {row}: {error.reason}",)))
                continue
            found = found.and_also(files_of(one))
        return found

    def _found(self) -> Iterator[Any]:
        """Yield what the format finds; whatever fails on the way makes the input unusable."""
        place, at = self._place, 0
        try:
            if self._folder:
                yield from read_folder(place.fs, place.path)
                return
            with place.fs.open(place.path, "rb", compression=self._compression) as file:
                for one in FORMATS[self._ending](file):
                    at = at if isinstance(one, list) else one.line
                    yield one
        except FileNotFoundError:
            raise ConfigurationError(f"input: no such file: {self.address}") from None
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            after = f" after {self._unit()} {at}" if at else ""
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigurationError(f"input: {self.address} cannot be read{after}: {reason}") from None

    def _is_folder(self) -> bool:
        try:
            return bool(self._place.fs.isdir(self._place.path))
        except Exception as error:
            # Whatever a store's client raises: no credentials, no network, no such bucket.
            raise ConfigurationError(
                f"input: {self.address} cannot be read: {type(error).__name__}: {str(error)[:200]}"
            ) from None

    def _format(self) -> tuple[str, str | None]:
        ending, compression = self._place.suffixes()
        if ending not in FORMATS or (compression and ending == ".parquet"):
            known = ", ".join(FORMATS)
            raise ConfigurationError(
                f"input: {self.address} has an unsupported extension.{did_you_mean(ending, FORMATS)} Use one of {known}; all but .parquet also with "
                ".gz; or a folder of prompts"
            )
        if not self._place.fs.exists(self._place.path):
            folder = Path(self._place.path).parent
            beside = [one.name for one in folder.iterdir()] if self._place.local and folder.is_dir() else []
            raise ConfigurationError(f"input: no such file: {self.address}.{did_you_mean(self._place.name, beside)}")
        return ending, compression

    def _nothing(self, names: list[str] | None) -> str:
        if self._folder:
            return f"no {' or '.join('*' + ending for ending in ENDINGS)} files in the folder {self.address}"
        return f"{self.address} has no rows" if names else f"{self.address} is empty"

    def _unit(self) -> str:
        return "file" if self._folder else "item" if self._ending in _ITEMS else "line"

    def _where(self, one: Item | Broken) -> str:
        if self._folder:
            name = one.value["file"] if isinstance(one, Item) else one.name
            return f"{self._place.name}/{name}"
        return f"{self._place.name} {self._unit()} {one.line}"


def read_folder(fs: Any, path: str) -> Iterator[Item | Broken | list[str]]:
    """Yield the names of the columns, then a row for each file *.md and *.txt of the folder, sorted by name; hidden ones are left out.

    Args:
        fs: The file system.
        path: The folder in it.
    """
    found = [one for one in fs.ls(path, detail=True) if one["type"] == "file"]
    files = {PurePosixPath(one["name"]).name: one for one in found}
    wanted = sorted(name for name in files if name.lower().endswith(ENDINGS) and not name.startswith("."))
    if wanted:
        yield ["file", "prompt"]
    for number, name in enumerate(wanted, 1):
        one = files[name]
        # Four bytes a character at most, so that a file above is too large whatever is in it.
        if (one.get("size") or 0) > 4 * MAX_PROMPT_CHARACTERS:
            yield Broken(number, f"the prompt is longer than {MAX_PROMPT_CHARACTERS:,} characters", name)
            continue
        try:
            text = fs.cat_file(one["name"]).decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            yield Broken(number, f"wrong encoding: byte 0x{error.object[error.start]:02x} is not UTF-8", name)
        except OSError as error:
            yield Broken(number, f"it cannot be read: {error.strerror or error}", name)
        else:
            yield Item(number, {"file": name, "prompt": text}, name=PurePosixPath(name).stem)
