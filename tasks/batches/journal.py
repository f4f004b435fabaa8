"""The finished rows of a batch, one line each in a file that only grows: what a killed run leaves for the next one.

A row is in the file or it is not: each is written by one call, and half a line at the end of the file, which a crash may
leave, is cut off when the file is opened again. Calls have lines too, so that the bill is right after a crash in the
middle of a row; and so has each request before it goes out, so that what nobody could settle is not forgotten.

After every thousand rows comes an index of what the lines before it say, so that a run which resumes need not parse them. It
holds for those very lines only, by their checksum; without one that holds, they are read one by one.
"""

import errno
import fcntl
import hashlib
import json
import mmap
import os
import stat
import time
import uuid
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from consensus_flows.tasks.batches.rows import Row, row_text
from consensus_flows.tasks.batches.totals import Totals
from consensus_flows.tasks.calls.jobs import SentJob
from consensus_flows.tasks.errors import ConfigurationError, OutputError
from consensus_flows.tasks.record import Attachment

FORMAT = 1
"""Version of what a line means."""
_BEGINNING = b'{"batch": '
"""What every journal begins with, also one whose first line was not written to its end."""
_INDEX = b'{"index": '
INDEXED = 1000
"""Rows between two indexes."""
_CHUNK = 1024
_DIGEST = 16
"""Bytes of a row's digest."""


class Finished(NamedTuple):
    """A finished row: its number in the input, the results, and its own columns."""

    number: int
    result: dict[str, Any]
    own: dict[str, Any]


class _Places:
    """Where the line of each finished row is, with the digest of the row: 24 bytes a row, in chunks of consecutive numbers."""

    def __init__(self) -> None:
        self._chunks: dict[int, tuple[array[int], bytearray]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        for chunk in sorted(self._chunks):
            yield from (chunk * _CHUNK + at for at, offset in enumerate(self._chunks[chunk][0]) if offset)

    def offset(self, number: int) -> int:
        """Return where the line begins; 0, where the first line of every journal is, for a row that is not finished."""
        chunk, at = divmod(number, _CHUNK)
        return self._chunks[chunk][0][at] if chunk in self._chunks else 0

    def holds(self, number: int, digest: bytes) -> bool:
        """Tell whether a row is finished that has this digest."""
        chunk, at = divmod(number, _CHUNK)
        return bool(self.offset(number)) and self._chunks[chunk][1][at * _DIGEST : (at + 1) * _DIGEST] == digest

    def put(self, number: int, digest: bytes, offset: int) -> None:
        """Enter a row, with its offset, or take it out, with 0.

        Raises:
            ValueError: If it is none.
        """
        if number < 0 or len(digest) != _DIGEST:
            raise ValueError(f"{number} {digest!r} is no row")
        chunk, at = divmod(number, _CHUNK)
        if chunk not in self._chunks:
            self._chunks[chunk] = array("q", bytes(8 * _CHUNK)), bytearray(_DIGEST * _CHUNK)
        offsets, digests = self._chunks[chunk]
        self._count += bool(offset) - bool(offsets[at])
        offsets[at] = offset
        digests[at * _DIGEST : (at + 1) * _DIGEST] = digest


class Journal:
    """The journal of one batch, open and locked by this process: the book of its budget, and a watcher of its calls.

    Args:
        path: Its file; made if it is not there.
        plan: What the rows depend on: the flow, its configuration, how prompts are made. Another plan is another batch.
        rows: Digest of the input with which it begins; one that has changed since is no other batch.
        look: Whether only to look at what is in it, also while another process is at work on it.

    Raises:
        ConfigurationError: If the file belongs to another batch, is in use by another process, or cannot be written.
    """

    def __init__(self, path: Path, plan: dict[str, Any], rows: str | None = None, *, look: bool = False) -> None:
        self.path = path
        self.totals = Totals()
        self.jobs: dict[str, SentJob] = {}
        """The vendors' batches that have not ended, by their marks."""
        self.error: OutputError | None = None
        """Why a line could not be written: what enters calls and requests takes no notice of that."""
        self.kept: dict[str, Attachment] = {}
        """The files that rows which have begun are about, as they were when they were read first."""
        self._rows = _Places()
        self._crc = 0
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW) if look else self._opened()
        try:
            self._size = self._read(plan)
            self.found = len(self._rows)
            if look:
                return
            os.ftruncate(self._file, self._size)
            self.end_interrupted()  # whoever has sent these is no more
            if not self._size:
                self._write({"batch": plan, "format": FORMAT, "rows": rows})
            self._begin_span()
        except BaseException:
            os.close(self._file)
            raise

    def __len__(self) -> int:
        return len(self._rows)

    def holds(self, row: Row, text: bytes | None = None) -> bool:
        """Tell whether this very row is finished: of this number, with this id, this prompt and these columns.

        Args:
            row: The row.
            text: What `row_text` makes of it, if that is at hand.
        """
        return bool(self._rows.offset(row.number)) and self._rows.holds(row.number, digest(row, text))

    def add(self, row: Row, result: Mapping[str, Any]) -> None:
        """Enter a finished row.

        Raises:
            OutputError: If it cannot be written; the file is then as it was.
        """
        found, offset = digest(row), self._size
        self._write({"row": row.number, "digest": found.hex(), "result": result, "own": row.columns})
        self._rows.put(row.number, found, offset)
        self._span.append((row.number, found.hex(), offset))
        if len(self._span) >= INDEXED and not self.jobs:
            self._write_index()

    def _write_index(self) -> None:
        numbers, digests, offsets = zip(*self._span, strict=True)
        totals = self.totals.since(self._latencies)
        said = {"numbers": numbers, "offsets": offsets, "digests": "".join(digests), "totals": totals}
        text = json.dumps(said, separators=(",", ":"))
        self._write({"index": self._begin, "crc": zlib.crc32(text.encode(), self._crc), "says": text})
        self._begin_span()

    def _begin_span(self) -> None:
        """Begin what the next index is about."""
        self._begin, self._crc = self._size, 0
        self._span: list[tuple[int, str, int]] = []
        self._latencies = self.totals.counts()

    def keep(self, source: str, attachment: Attachment) -> None:
        """Enter a file of rows, so that a run which resumes sends the same.

        Raises:
            OutputError: If it cannot be written.
        """
        self._write({"attached": source, "file": attachment.model_dump(mode="json")})
        self.kept[source] = attachment
        self._begin_span()  # no index has these

    def forget(self, number: int) -> None:
        """Let the next run do a row again."""
        if self._rows.offset(number):
            self._rows.put(number, bytes(_DIGEST), 0)
            self._write({"forget": number})
            self._begin_span()

    async def on_event(self, event: str, value: Any) -> None:
        """Enter a call for which something was sent, when it ends and not when its row does.

        Raises:
            OutputError: If it cannot be written.
        """
        if event not in {"answered", "answered_within"} or value.panel is not None:
            return
        if value.attempts:
            self.add_call(
                {
                    "call": f"{value.provider}/{value.model}",
                    "s": value.latency_s,
                    "usd": value.cost_usd,
                    "requests": value.attempts,
                    "tokens": value.spent.input_tokens + value.spent.output_tokens,
                    "input": value.spent.input_tokens,
                    "cached": value.spent.cached_input_tokens,
                    "error": value.error.kind if value.error else None,
                    "tier": value.service_tier,
                    "possibly_billed": value.possibly_billed,
                    "entries": list(value.entries),
                }
            )
        elif value.cached:
            self.totals.add_stored(f"{value.provider}/{value.model}")

    def add_call(self, call: dict[str, Any]) -> None:
        """Enter a call that has ended, and count it.

        Raises:
            OutputError: If it cannot be written.
        """
        self._write(call)
        self.totals.add_call(call)

    def sent(self, model: str, tokens: int, cost_usd: float | None) -> int:
        """Enter a request at its worst case before it goes out; return its number.

        Raises:
            OutputError: If it cannot be written: it must not go out then, and the batch ends.
        """
        number = self.totals.next_request()
        entry = {"sent": number, "model": model, "tokens": tokens, "usd": cost_usd}
        self._write(entry)
        self.totals.add_sent(entry)
        return number

    def settled(self, number: int, tokens: int | None, cost_usd: float | None, *, lost: bool) -> None:
        """Enter what a request really took; None where that is not known. It never fails, because the answer is paid for.

        One that cannot be written stays entered at its worst case, and `error` ends the batch after the row.
        """
        entry = {"settled": number, "tokens": tokens, "usd": cost_usd, "lost": lost}
        with suppress(OutputError):
            self._write(entry)
            self.totals.add_settled(entry)

    def submitting(self, model: str, address: str, lines: Mapping[str, tuple[int, float | None]]) -> SentJob:
        """Enter a vendor's batch and all of its lines at their worst case, before it is submitted.

        Args:
            model: The model as provider/model.
            address: Where it is.
            lines: Tokens and US dollars, by the id of the line.

        Raises:
            OutputError: If it cannot be written: it must not be submitted then.
        """
        mark = f"consensus-{uuid.uuid4().hex}"
        first = self.totals.next_request()
        entry = {"vendor_batch": mark, "model": model, "address": address, "at": time.time(), "first": first}
        entry |= {"lines": [[name, *worst] for name, worst in lines.items()]}
        self._write(entry)
        self.sync()
        self._add_job(entry)
        self._begin_span()
        return self.jobs[mark]

    def accepted(self, job: "SentJob", id: str) -> None:
        """Enter that a vendor has accepted a batch, under this id."""
        self._write_of_job(job, {"id": id})
        self.sync()

    def dropped(self, job: "SentJob", lines: Iterable[str]) -> None:
        """Enter that lines were not executed, so that nothing is paid for them."""
        if found := [job.lines[name] for name in lines]:
            self._write_of_job(job, {"dropped": found})

    def job_ended(self, job: "SentJob") -> None:
        """Enter that all lines of a batch are ticked off."""
        self._write_of_job(job, {"ended": True})

    def open_line(self, number: int) -> tuple[int, float | None] | None:
        """Return the tokens and US dollars at which a line is entered; None for one whose call has ended."""
        found = self.totals.request(number)
        return None if found is None else (found.tokens, found.cost_usd)

    def _write_of_job(self, job: "SentJob", entry: dict[str, Any]) -> None:
        entry = {"vendor_batch": job.mark, **entry}
        self._write(entry)
        self._add_job(entry)
        self._begin_span()

    def _add_job(self, entry: dict[str, Any]) -> None:
        for number, (_, tokens, usd) in enumerate(entry.get("lines", ()), entry.get("first", 0)):
            self.totals.add_sent({"sent": number, "model": entry["model"], "tokens": tokens, "usd": usd})
        for number in entry.get("dropped", ()):
            self.totals.drop(number)
        _note_job(self.jobs, entry)

    def _awaited(self) -> set[int]:
        return {number for job in self.jobs.values() for number in job.lines.values()}

    def end_interrupted(self) -> None:
        """Count the requests whose call will never end; those in vendors' batches will."""
        self.totals.end_interrupted(self._awaited())

    def finished(self) -> Iterator[Finished]:
        """Read every finished row, in the order of the input."""
        with self.path.open("rb") as file:
            for number in self._rows:
                file.seek(self._rows.offset(number))
                entry = json.loads(file.readline())
                yield Finished(number, entry["result"], entry["own"])

    def sync(self) -> None:
        """Let the disk have everything, so that it outlives a power failure too."""
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file, and with that let go of the lock."""
        os.close(self._file)

    def remove(self) -> None:
        """Take the file away: the output is complete."""
        self.path.unlink(missing_ok=True)

    def _opened(self) -> int:
        """Open and lock the file; again if the process that had it has meanwhile ended and taken it away."""
        while True:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # A link would lead to a file of somebody else.
                file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    self._refuse()
                raise ConfigurationError(f"output: {self.path} cannot be written: {error.strerror}") from None
            if not stat.S_ISREG(os.fstat(file).st_mode):
                os.close(file)
                self._refuse()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self.path.exists() and os.path.samestat(os.fstat(file), self.path.stat()):
                    return file
            except OSError as error:
                os.close(file)
                if isinstance(error, FileNotFoundError):
                    continue
                cause = "another process is at work on it" if isinstance(error, BlockingIOError) else error.strerror
                raise ConfigurationError(
                    f"output: {self.path} cannot be locked, {cause}: wait for it, or use another output"
                ) from None
            os.close(file)

    def _read(self, plan: dict[str, Any]) -> int:
        """Read what is there; return the size without what was not written to the end."""
        if not os.fstat(self._file).st_size:
            return 0
        with mmap.mmap(self._file, 0, access=mmap.ACCESS_READ) as data:
            first, size = data.find(b"\n") + 1, data.rfind(b"\n") + 1
            if not first:
                if not (data[: len(_BEGINNING)] == _BEGINNING or _BEGINNING.startswith(data[:])):
                    self._refuse()
                return 0
            self._check(data[:first], plan)
            at = first
            while (index := data.find(b"\n" + _INDEX, at - 1, size) + 1) > 0:
                end = data.find(b"\n", index) + 1
                self._note_index(data, at, index, end)
                at = end
            self._note(data, at, size)
        return size

    def _check(self, line: bytes, plan: dict[str, Any]) -> None:
        known = _parsed(line)
        if known.get("format") != FORMAT or not isinstance(known.get("batch"), dict):
            self._refuse()
        other = [name for name, value in plan.items() if known["batch"].get(name) != value]
        if other:
            raise ConfigurationError(
                f"output: {self.path} contains finished rows of a batch with another {' and '.join(other)}: resume "
                "that batch unchanged, delete the file to start over, or use another output"
            )

    def _refuse(self) -> NoReturn:
        raise ConfigurationError(f"output: {self.path} is not a batch journal: move it away, or use another output")

    def _note(self, data: mmap.mmap, begin: int, end: int) -> None:
        """Take note of what lines say, one after the other."""
        while begin < end:
            after = data.find(b"\n", begin) + 1
            entry = _parsed(data[begin:after])
            # A damaged line is skipped, like one that is not JSON: its row is done again, from cached answers.
            with suppress(KeyError, TypeError, ValueError, AttributeError):
                self._enter(entry, begin)
            begin = after

    def _note_index(self, data: mmap.mmap, begin: int, index: int, end: int) -> None:
        """Take an index in place of the lines that it is about, if they are as it says."""
        entry = _parsed(data[index:end])
        of, text = entry.get("index"), str(entry.get("says"))
        of = of if isinstance(of, int) and begin <= of <= index else index
        with memoryview(data) as whole:
            about = whole[of:index]
            is_right = zlib.crc32(text.encode("utf-8", "replace"), zlib.crc32(about)) == entry.get("crc")
            about.release()
        if not is_right:
            self._note(data, begin, index)
            return
        self._note(data, begin, of)
        said = json.loads(text)
        digests = bytes.fromhex(said["digests"])
        for at, (number, offset) in enumerate(zip(said["numbers"], said["offsets"], strict=True)):
            self._rows.put(number, digests[at * _DIGEST : (at + 1) * _DIGEST], offset)
        self.totals.go_on(said["totals"])

    def _enter(self, entry: dict[str, Any], offset: int) -> None:
        if isinstance(entry.get("call"), str):
            self.totals.add_call(entry)
        elif isinstance(entry.get("sent"), int):
            self.totals.add_sent(entry)
        elif isinstance(entry.get("settled"), int):
            self.totals.add_settled(entry)
        elif "vendor_batch" in entry:
            self._add_job(entry)
        elif isinstance(entry.get("attached"), str):
            self.kept[entry["attached"]] = Attachment.model_validate(entry["file"])
        elif "forget" in entry:
            if self._rows.offset(entry["forget"]):
                self._rows.put(entry["forget"], bytes(_DIGEST), 0)
        elif isinstance(entry.get("row"), int) and isinstance(entry["result"], dict) and isinstance(entry["own"], dict):
            self._rows.put(entry["row"], bytes.fromhex(entry["digest"]), offset)

    def _write(self, entry: dict[str, Any]) -> None:
        line = (json.dumps(entry, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        left = memoryview(line)
        try:
            while left:  # a disk that is nearly full takes a part, and refuses the next
                left = left[os.write(self._file, left) :]
        except OSError as error:
            os.ftruncate(self._file, self._size)
            self.error = OutputError(
                f"{self.path} cannot be written: {error.strerror}. Rows that are in it are kept, and answers that were paid "
                "for are in the cache: start again with the same arguments when that is mended"
            )
            raise self.error from None
        self._size += len(line)
        self._crc = zlib.crc32(line, self._crc)


def peek(path: Path, plan: dict[str, Any]) -> Journal | None:
    """Return what a journal holds, without locking it; None where there is none, or none that can be read."""
    try:
        found = Journal(path, plan, look=True)
    except (OSError, ConfigurationError):  # whoever opens it says why
        return None
    found.close()
    return found


def open_jobs(path: Path) -> list[SentJob]:
    """Return the vendors' batches that a journal waits for, also while a process is at work on it."""
    found: dict[str, SentJob] = {}
    with suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            if line.startswith(b'{"vendor_batch"'):
                with suppress(KeyError, TypeError, ValueError):  # half a line, which is being written
                    _note_job(found, _parsed(line))
    return list(found.values())


def _note_job(jobs: dict[str, SentJob], entry: dict[str, Any]) -> None:
    """Take note of an entry about a vendor's batch."""
    mark = entry["vendor_batch"]
    if "lines" in entry:
        lines = {name: number for number, (name, _, _) in enumerate(entry["lines"], entry["first"])}
        costs = [usd for _, _, usd in entry["lines"]]
        worst = None if None in costs else sum(costs)
        jobs[mark] = SentJob(mark, entry["model"], entry["address"], entry["at"], lines, worst)
    elif "id" in entry:
        jobs[mark].id = entry["id"]
    elif "ended" in entry:
        del jobs[mark]


def digest(row: Row, text: bytes | None = None) -> bytes:
    """Return what tells this row from another one that took its place in the input, or from what it was."""
    return hashlib.sha256(row_text(row) if text is None else text).digest()[:_DIGEST]


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
