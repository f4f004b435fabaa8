"""Writes runs: the conversation that a run continues, the rows of a run, and the one thread of a process that writes them.

Runs that end at once are written in one transaction.
"""

import atexit
import getpass
import json
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.counting.agreement import similarity
from consensus_flows.tasks.errors import HistoryError, RowError
from consensus_flows.tasks.history.address import Address
from consensus_flows.tasks.record import Iteration, Record, Response

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from consensus_flows.tasks.history.database import Database

AT_ONCE = 200
"""Runs that are written in one transaction at most."""
IDLE_S = 5.0
"""Seconds without work after which the connections are closed."""
CLOSE_S = 5.0

Row = dict[str, Any]


@dataclass
class Conversation:
    """A conversation up to one of its turns.

    Attributes:
        id: Id of the conversation.
        parent: The run that is its last turn; None if it has none yet.
        messages: What was said until then.
    """

    id: str = field(default_factory=lambda: str(uuid4()))
    parent: str | None = None
    messages: list[Message] = field(default_factory=list)

    def add(self, prompt: str, answer: str, run_id: str | None, given: Sequence[Message] = ()) -> None:
        """Add a turn; without `run_id` it is not in the history."""
        self.messages += [*given, Message(role="user", content=prompt), Message(role="assistant", content=answer)]
        if run_id is not None:
            self.parent = run_id


@dataclass(frozen=True)
class Turn:
    """A run as a turn of a conversation.

    Attributes:
        conversation_id: Id of the conversation.
        parent_id: The run that is the turn before.
        given: Messages that the run was given beside those of the conversation.
    """

    conversation_id: str
    parent_id: str | None
    given: tuple[Message, ...] = ()

    @classmethod
    def after(cls, conversation: Conversation, given: Sequence[Message]) -> "Turn":
        """Return the next turn of `conversation`.

        Args:
            conversation: The conversation.
            given: All messages that the run was given; those of the conversation come first.
        """
        return cls(conversation.id, conversation.parent, tuple(given[len(conversation.messages) :]))


_current: ContextVar[Conversation | None] = ContextVar("conversation", default=None)


@contextmanager
def continuing(conversation: Conversation | None) -> Iterator[None]:
    """Make the run in the block a turn of `conversation`, if it ends with an answer."""
    token = _current.set(conversation)
    try:
        yield
    finally:
        _current.reset(token)


def current_conversation() -> Conversation | None:
    """Return the conversation that this run continues."""
    return _current.get()


@dataclass(frozen=True)
class Entry:
    """A run that is to be written.

    Attributes:
        record: The record.
        started_at: When the run began.
        ended_at: When it ended.
        name: Name of the flow run.
        turn: The turn that it is, if it is one; it counts only if the run has an answer.
        error: Why the run was interrupted.
    """

    record: Record
    started_at: datetime
    ended_at: datetime
    name: str | None = None
    turn: Turn | None = None
    error: str | None = None


BATCH, PART = "batch", "batch-part"
"""The flow of a batch in the history, and of a shard of one."""


@dataclass(frozen=True)
class BatchEntry:
    """A batch that has begun or ended; its rows are runs of the same flow run.

    Attributes:
        flow: `batch`, or `batch-part`.
        flow_run_id: Of its flow run.
        status: How it ended; `running` until then.
        input: What it reads.
        output: What it writes.
        summary: What came of it, as JSON.
        started_at: When it began.
        name: Name of the flow run.
    """

    flow: str
    flow_run_id: str
    status: str
    input: str
    output: str
    summary: dict[str, Any]
    started_at: datetime
    name: str | None = None


class _Job(NamedTuple):
    entry: Entry | BatchEntry | None  # None opens the history
    done: "Future[str]"


class Writer:
    """Writes runs in a thread of its own, in the order in which they are handed over."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._database: Database | None = None
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    def write(self, entry: Entry | BatchEntry) -> "Future[str]":
        """Hand over a run; the future has its id, or a HistoryError."""
        job = _Job(entry, Future())
        self._jobs.put(job)
        return job.done

    def warm_up(self) -> None:
        """Open the history while the models answer."""
        self._jobs.put(_Job(None, Future()))

    def close(self) -> None:
        """Write what was handed over, and end."""
        self._jobs.put(None)
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while True:
            try:
                first = self._jobs.get(timeout=IDLE_S if self._database else None)
            except queue.Empty:
                self._disconnect()
                continue
            jobs = [first]
            with suppress(queue.Empty):
                while len(jobs) < AT_ONCE:
                    jobs.append(self._jobs.get_nowait())
            self._write([job for job in jobs if job is not None])
            if None in jobs:
                self._disconnect()
                return

    def _write(self, jobs: list[_Job]) -> None:
        runs = [job for job in jobs if job.entry is not None]
        try:
            ids = self._save([job.entry for job in runs if job.entry is not None])
        except Exception as error:
            if len(runs) > 1 and (isinstance(error, RowError) or not isinstance(error, HistoryError)):
                for job in runs:  # one of them is at fault: each in a transaction of its own
                    self._write([job])
                return
            for job in runs:
                job.done.set_exception(
                    error if isinstance(error, HistoryError) else HistoryError(f"{type(error).__name__}: {error}")
                )
        else:
            for job, run_id in zip(runs, ids, strict=True):
                job.done.set_result(run_id)

    def _save(self, entries: list[Entry | BatchEntry]) -> list[str]:
        if self._database is None:
            # In this thread and not above: it imports SQLAlchemy.
            from consensus_flows.tasks.history.database import Database

            self._database = Database(self._address)
        if not entries:
            self._database.open()
            return []
        return self._database.write(
            lambda connection: [
                save(connection, entry) if isinstance(entry, Entry) else save_batch(connection, entry)
                for entry in entries
            ]
        )

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


_writers: dict[Address, Writer] = {}
_lock = threading.Lock()


def writer_of(address: Address) -> Writer:
    """Return the writer of this process for the history at `address`."""
    with _lock:
        if address not in _writers:
            if not _writers:
                atexit.register(close_writers)
            _writers[address] = Writer(address)
        return _writers[address]


def close_writers() -> None:
    """Write what was handed over, and end all writers."""
    with _lock:
        found = list(_writers.values())
        _writers.clear()
    for writer in found:
        writer.close()


def _after_fork() -> None:
    """Forget the writers: threads do not live on in a child, and a connection must not be shared with one."""
    global _lock  # noqa: PLW0603 - a thread that is gone may have held the lock.
    _lock = threading.Lock()
    _writers.clear()


os.register_at_fork(after_in_child=_after_fork)


def save(connection: "Connection", entry: Entry) -> str:
    """Write a run with all that belongs to it.

    Returns:
        The id under which it can be read again.
    """
    from sqlalchemy import func, insert, select

    from consensus_flows.tasks.history.database import calls, conversations, iterations, runs, turns

    record = entry.record
    turn = entry.turn if record.answer is not None else None
    record.conversation_id = turn.conversation_id if turn else None
    if turn and not connection.scalar(select(conversations.c.id).where(conversations.c.id == turn.conversation_id)):
        begun = {"id": turn.conversation_id, "username": username(), "started_at": entry.started_at}
        connection.execute(insert(conversations), begun)
    run_id, position = record.flow_run_id or str(uuid4()), 1
    # A list of questions makes many records in one flow run, a run that was retried makes two.
    last = connection.scalar(select(func.max(runs.c.position)).where(runs.c.flow_run_id == run_id))
    if last:
        position = last + 1
        run_id = f"{run_id}-{position}"
    run_id = record.run_id or run_id
    connection.execute(insert(runs), run_row(entry, run_id, position))
    for table, rows in ((iterations, iteration_rows(record, run_id)), (calls, call_rows(entry, run_id))):
        if rows:
            connection.execute(insert(table), rows)
    if turn:
        # The turn before may have been deleted while the run went on.
        parent = connection.scalar(select(turns.c.run_id).where(turns.c.run_id == turn.parent_id))
        given = json.dumps([message.model_dump() for message in turn.given]) if turn.given else None
        row = {"run_id": run_id, "conversation_id": turn.conversation_id, "parent_id": parent}
        connection.execute(insert(turns), row | {"ended_at": entry.ended_at, "given": given})
    return run_id


def save_batch(connection: "Connection", entry: BatchEntry) -> str:
    """Write a batch, in place of what was written when it began.

    One process at a time writes an output: a batch of the same output that never said how it ended was killed.
    """
    from sqlalchemy import delete, insert, update

    from consensus_flows.tasks.history.database import IS_BATCH, runs

    summary = entry.summary
    row = {
        "id": entry.flow_run_id,
        "flow_run_id": entry.flow_run_id,
        "position": 0,  # before its rows
        "flow": entry.flow,
        "name": entry.name,
        "username": username(),
        "status": entry.status,
        "degraded": bool(summary.get("degraded")),
        "cost_usd": summary.get("cost_usd"),
        "calls": summary.get("calls", 0),
        "cached_calls": summary.get("cached_calls", 0),
        "duration_s": summary.get("duration_s", 0.0),
        "started_at": entry.started_at,
        "prompt": entry.input,
        "answer": entry.output,
        "error": summary.get("error"),
        "record": json.dumps(summary, ensure_ascii=False),
    }
    other = IS_BATCH, runs.c.flow_run_id != entry.flow_run_id, runs.c.flow == BATCH, runs.c.answer == entry.output
    if entry.flow == BATCH:
        connection.execute(update(runs).where(*other, runs.c.status == "running").values(status="killed"))
    connection.execute(delete(runs).where(runs.c.flow_run_id == entry.flow_run_id, IS_BATCH))
    connection.execute(insert(runs), _clean(row))
    return entry.flow_run_id


_RUN = (
    "flow_run_id",
    "flow",
    "status",
    "degraded",
    "confidence",
    "agreement",
    "cost_usd",
    "calls",
    "cached_calls",
    "duration_s",
    "conversation_id",
    "prompt",
    "answer",
    "error",
)
_CALL = ("member", "provider", "model", "instance", "latency_s", "attempts", "cached", "cost_usd", "text")
_USAGE = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")


def run_row(entry: Entry, run_id: str, position: int) -> Row:
    """Return the row of the run itself."""
    document = entry.record.model_dump(mode="json")
    if entry.error is not None:
        document |= {"status": "failed", "error": entry.record.error or entry.error}
    return _clean(
        {name: document[name] for name in _RUN}
        | {
            "id": run_id,
            "position": position,
            "name": entry.name,
            "username": username(),
            "started_at": entry.started_at,
            "record": json.dumps(document, ensure_ascii=False),
        }
    )


def iteration_rows(record: Record, run_id: str) -> list[Row]:
    """Return a row for each iteration."""
    return [
        _clean(
            {
                "run_id": run_id,
                "number": one.number,
                "duration_s": one.duration_s,
                "agreement": one.agreement,
                "confidence": one.synthesis.confidence if one.synthesis else None,
                "arbiter": one.synthesis.arbiter if one.synthesis else None,
                "chosen": one.synthesis.chosen if one.synthesis else None,
                "synthesis": one.synthesis.text if one.synthesis else None,
            }
        )
        for one in record.iterations
    ]


def call_rows(entry: Entry, run_id: str) -> list[Row]:
    """Return a row for each call, failed ones included."""
    record = entry.record
    return [
        _clean(
            {name: getattr(call, name) for name in _CALL}
            | {name: getattr(call.usage, name) for name in _USAGE}
            | {
                "run_id": run_id,
                "position": position,
                "iteration": iteration.number,
                "role": "recorded" if call.recorded else role,
                "error_kind": call.error.kind if call.error else None,
                "error": call.error.message if call.error else None,
                "won": own and role == "member" and won(record, iteration, call),
                "agreement": agreement_with_answer(record, iteration, call) if own and role == "member" else None,
            }
            # A panel is there for how it did; what it cost is in the rows of its own calls.
            | ({} if call.panel is None else {"cost_usd": 0.0, "attempts": 0} | dict.fromkeys(_USAGE, 0))
        )
        for position, (iteration, role, call, own) in enumerate(_calls(record), 1)
    ]


def _calls(record: Record) -> Iterator[tuple[Iteration, str, Response, bool]]:
    """Yield every call with its iteration, its role, and whether it is one of the run itself or one of a panel's run in it."""
    if record.grade is not None:
        yield from ((Iteration(number=0), "judge", call, True) for call in record.grade.calls)
    for one in record.iterations:
        for role, calls in (("member", one.responses), ("embedding", one.embeddings), ("judge", one.judgements)):
            for call in calls:
                yield one, role, call, True
                if call.panel is not None:
                    yield from ((one, role, inner, False) for _, role, inner, _ in _calls(call.panel))


def won(record: Record, iteration: Iteration, call: Response) -> bool:
    """Tell whether the run's answer is that of this call: it was chosen, had most votes, or was ranked best."""
    if not call.answered or iteration.number != record.best_iteration or iteration.synthesis is None:
        return False
    return iteration.synthesis.chosen == call.member


def agreement_with_answer(record: Record, iteration: Iteration, call: Response) -> float | None:
    """Return how far a call agrees with the run's answer, 0 to 1; None where there is nothing to compare with.

    Where answers were counted it is 1 for the same value and 0 for another, else the similarity of the texts.
    """
    best = next((one for one in record.iterations if one.number == record.best_iteration), None)
    # Without a synthesis the run's answer is a list of all answers.
    if best is None or best.synthesis is None or record.answer is None or not call.answered:
        return None
    if iteration.synthesis is not None and iteration.synthesis.votes:
        votes = iteration.synthesis.votes
        if not any(call.member in members for members in votes.values()):
            return None  # it abstained
        return float(call.member in votes.get(best.synthesis.value or "", []))
    return round(similarity(call.text or "", record.answer), 4)


def username() -> str:
    """Return the name of the user who runs this, empty where the system knows none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run under a number that has no name
        return ""


def _clean(row: Row) -> Row:
    """Return the row with texts that every database takes: no zero character, no half of a surrogate pair."""
    return {
        name: value.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")
        if isinstance(value, str)
        else value
        for name, value in row.items()
    }
