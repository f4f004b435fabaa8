"""The finished rows of a batch, one line each in a file that only grows: what a killed run leaves for the next one.

A row is in the file or it is not: each is written by one call, and half a line at the end of the file, which a crash may
leave, is cut off when the file is opened again. Calls have lines too, so that the bill is right after a crash in the
middle of a row; and so has each request before it goes out, so that what nobody could settle is not forgotten.
"""

import errno
import fcntl
import hashlib
import json
import os
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from consensus_flows.tasks.batches.rows import Row
from consensus_flows.tasks.batches.totals import Totals
from consensus_flows.tasks.calls.jobs import SentJob
from consensus_flows.tasks.errors import ConfigurationError, OutputError
from consensus_flows.tasks.record import Attachment

FORMAT = 1
"""Version of what a line means."""
_BEGINNING = b'{"batch": '
"""What every journal begins with, also one whose first line was not written to its end."""


class Finished(NamedTuple):
    """A finished row: its number in the input, the results, and its own columns."""

    number: int
    result: dict[str, Any]
    own: dict[str, Any]


class _Place(NamedTuple):
    digest: str
    offset: int


class Journal:
    """The journal of one batch, open and locked by this process: the book of its budget, and a watcher of its calls.

    Args:
        path: Its file; made if it is not there.
        plan: What the rows depend on: the flow, its configuration, how prompts are made. Another plan is another batch.
        rows: Digest of the input with which it begins; one that has changed since is no other batch.

    Raises:
        ConfigurationError: If the file belongs to another batch, is in use by another process, or cannot be written.
    """

    def __init__(self, path: Path, plan: dict[str, Any], rows: str | None = None) -> None:
        self.path = path
        self.totals = Totals()
        self.jobs: dict[str, SentJob] = {}
        """The vendors' batches that have not ended, by their marks."""
        self.error: OutputError | None = None
        """Why a line could not be written: what enters calls and requests takes no notice of that."""
        self.kept: dict[str, Attachment] = {}
        """The files that rows which have begun are about, as they were when they were read first."""
        self._rows: dict[int, _Place] = {}
        self._file = self._opened()
        try:
            self._size = self._read(plan)
            self.found = len(self._rows)
            if not self._size:
                self._write({"batch": plan, "format": FORMAT, "rows": rows})
        except BaseException:
            os.close(self._file)
            raise

    def __len__(self) -> int:
        return len(self._rows)

    def holds(self, row: Row) -> bool:
        """Tell whether this very row is finished: of this number, with this id, this prompt and these columns."""
        place = self._rows.get(row.number)
        return place is not None and place.digest == digest(row)

    def add(self, row: Row, result: Mapping[str, Any]) -> None:
        """Enter a finished row.

        Raises:
            OutputError: If it cannot be written; the file is then as it was.
        """
        place = _Place(digest(row), self._size)
        self._write({"row": row.number, "digest": place.digest, "result": result, "own": row.columns})
        self._rows[row.number] = place

    def keep(self, source: str, attachment: Attachment) -> None:
        """Enter a file of rows, so that a run which resumes sends the same.

        Raises:
            OutputError: If it cannot be written.
        """
        self._write({"attached": source, "file": attachment.model_dump(mode="json")})
        self.kept[source] = attachment

    def forget(self, number: int) -> None:
        """Let the next run do a row again."""
        if self._rows.pop(number, None) is not None:
            self._write({"forget": number})

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
            for number in sorted(self._rows):
                file.seek(self._rows[number].offset)
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
        """Read what is there, and cut off what was not written to the end; return the size that remains."""
        size = 0
        with open(self._file, "rb", closefd=False) as file:
            file.seek(0)
            for line in file:
                if not line.endswith(b"\n"):
                    if size == 0 and not (line.startswith(_BEGINNING) or _BEGINNING.startswith(line)):
                        self._refuse()
                    break
                if size == 0:
                    self._check(line, plan)
                else:
                    self._note(line, size)
                size += len(line)
        os.ftruncate(self._file, size)
        self.end_interrupted()  # whoever has sent these is no more
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

    def _note(self, line: bytes, offset: int) -> None:
        entry = _parsed(line)
        # A damaged line is skipped, like one that is not JSON: its row is done again, from cached answers.
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            self._enter(entry, offset)

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
            self._rows.pop(entry["forget"], None)
        elif isinstance(entry.get("row"), int) and isinstance(entry["result"], dict) and isinstance(entry["own"], dict):
            self._rows[entry["row"]] = _Place(entry["digest"], offset)

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


def digest(row: Row) -> str:
    """Return what tells this row from another one that took its place in the input, or from what it was."""
    whole = json.dumps([row.id, row.prompt, row.columns])
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
