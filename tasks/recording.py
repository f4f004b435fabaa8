"""Records runs in the history while watchers look on; the one thing that a flow puts around its algorithm."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, NamedTuple

from prefect.logging import get_logger
from prefect.runtime import flow_run

from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.history.conversation import Conversation, continued
from consensus_flows.tasks.history.rows import Entry, Turn
from consensus_flows.tasks.history.saved_address import find_history
from consensus_flows.tasks.history.writer import Writer, writer_of
from consensus_flows.tasks.record import Iteration, Record, Response
from consensus_flows.tasks.termination import heeding_termination
from consensus_flows.tasks.watch import Watcher, tell, watched_by

PATIENCE_S = 60.0
"""Seconds that the end of a run waits for the history at most."""

_recording: ContextVar[bool] = ContextVar("recording", default=False)


@asynccontextmanager
async def recorded(
    *watchers: Watcher, conversation: Sequence[Message] | None = None, in_conversation: bool = True
) -> AsyncIterator[None]:
    """Record every run in the block, with `watchers` looking on.

    A history that cannot be written is a warning in the record and in the log, never an error.

    Args:
        watchers: Who else looks on.
        conversation: The messages that the flow was given.
        in_conversation: Whether the run is a turn of the conversation that is gone on with; a list of questions is none.
    """
    if _recording.get():  # a flow around this one records already
        with watched_by(*watchers):
            yield
        return
    turn = continued() if in_conversation else None
    recorder = Recorder(turn, tuple(conversation or ()))
    token = _recording.set(True)
    try:
        # First in line, so that the database writes while the other watchers do.
        with watched_by(recorder, *watchers), heeding_termination():
            yield
    except BaseException as error:
        recorder.broken_off_by(error)
        raise
    finally:
        _recording.reset(token)
        await recorder.written()


class _Started(NamedTuple):
    record: Record
    at: datetime
    name: str | None


async def _find_writer() -> Writer | None:
    place = await find_history()
    return writer_of(place) if place else None


class Recorder:
    """A watcher that hands each run to the writer of the history when it ends; without one it keeps the conversation."""

    def __init__(self, conversation: Conversation | None, given: tuple[Message, ...]) -> None:
        # The server may have to be asked where the history is; meanwhile the run goes on.
        self._writer = asyncio.ensure_future(_find_writer())
        self._conversation = conversation
        self._turn = Turn.of(conversation, given) if conversation else None
        self._started: dict[int, _Started] = {}
        self._heard: list[Response] = []
        self._writing: set[asyncio.Task[None]] = set()
        self._error = "the run ended before it was finished"

    async def told(self, event: str, value: Any) -> None:
        """Take note of an event of a run."""
        if event == "started":
            self._started[id(value)] = _Started(value, datetime.now(UTC), flow_run.name)
            self._heard.clear()
            self._begin(self._warm_up())
        elif event == "answered" and len(self._started) == 1:  # of several, nobody knows whose call it was
            self._heard.append(value)
        elif event == "ended":
            self._heard.clear()
            self._hand_over(self._started.pop(id(value), _Started(value, datetime.now(UTC), None)))

    def broken_off_by(self, error: BaseException) -> None:
        """Note why runs that have not ended will not."""
        self._error = f"the run was broken off: {type(error).__name__}"

    async def written(self) -> None:
        """Wait until all runs are written; those that were broken off are written with what they had."""
        for left in list(self._started.values()):
            _enter(left.record, self._heard)
            self._hand_over(left, self._error)
        if self._writing:
            await asyncio.wait(self._writing)
        # What is written is written: a server that has not said by now where the history is holds nobody up.
        self._writer.cancel()
        await asyncio.wait({self._writer})
        if not self._writer.cancelled():
            self._writer.exception()  # taken note of, or asyncio would report it where no run was written

    async def _warm_up(self) -> None:
        with suppress(Exception):  # it is reported where the run is written
            async with asyncio.timeout(PATIENCE_S):
                writer = await asyncio.shield(self._writer)
            if writer is not None:
                writer.warm_up()

    def _hand_over(self, run: _Started, error: str | None = None) -> None:
        entry = Entry(run.record, run.at, datetime.now(UTC), run.name, self._turn, error)
        self._begin(self._settle(entry))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _settle(self, entry: Entry) -> None:
        """Wait for the database; what it says to a failure goes into the record."""
        run_id, record = None, entry.record
        try:
            async with asyncio.timeout(PATIENCE_S):
                writer = await asyncio.shield(self._writer)
                if writer is not None:
                    run_id = await asyncio.shield(asyncio.wrap_future(writer.write(entry)))
        except Exception as error:
            record.conversation_id = None
            cause = str(error) or f"it took longer than {PATIENCE_S:.0f} s"
            message = f"this run is not in the history: {cause}"
            record.warn("not_recorded", message)
            get_logger("consensus").error(message)
        self._go_on(record, run_id)
        if entry.error is None:  # it was not broken off
            await tell("recorded", record)

    def _go_on(self, record: Record, run_id: str | None) -> None:
        if self._conversation is not None and self._turn is not None and record.answer is not None:
            self._conversation.add(record.prompt, record.answer, run_id, self._turn.given)


def _enter(record: Record, heard: Sequence[Response]) -> None:
    """Enter the calls of the round in which a run was broken off: they may be paid for."""
    known = {id(call) for call in record.calls_made()}
    loose = [call for call in heard if id(call) not in known]
    if loose:
        if not record.iterations:
            record.iterations.append(Iteration(number=1))
        last = record.iterations[-1]
        # A round is entered when all its members have answered; after that texts are embedded and judges asked.
        last.embeddings.extend(call for call in loose if call.embedding is not None)
        rest = [call for call in loose if call.embedding is None]
        (last.judgements if last.responses else last.responses).extend(rest)
    record.add_up()
