"""What every flow puts around its algorithm: watchers look on, and the history gets every run."""

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

from prefect.exceptions import TerminationSignal
from prefect.logging import get_logger
from prefect.runtime import flow_run

from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.history.address import find_address
from consensus_flows.tasks.history.writing import (
    BATCH,
    PART,
    BatchEntry,
    Conversation,
    Entry,
    Turn,
    Writer,
    current_conversation,
    writer_of,
)
from consensus_flows.tasks.record import Iteration, Record, Response
from consensus_flows.tasks.watch import Watcher, emit, watched_by

WAIT_S = 60.0
"""Seconds that the end of a run waits for the history at most."""

_recording: ContextVar[bool] = ContextVar("recording", default=False)


@asynccontextmanager
async def record_runs(
    *watchers: Watcher,
    conversation: Sequence[Message] | None = None,
    in_conversation: bool = True,
    many: bool = False,
) -> AsyncIterator[None]:
    """Write every run in the block into the history, with `watchers` looking on.

    A history that cannot be written is a warning in the record and in the log, never an error.

    Args:
        watchers: Who else looks on.
        conversation: The messages that the flow was given.
        in_conversation: Whether the run is a turn of the conversation that is continued; a list of questions is none.
        many: Whether the flow run makes many runs, each with an id of its own.
    """
    if _recording.get():  # a flow around this one records already
        with watched_by(*watchers):
            yield
        return
    recorder = Recorder(current_conversation() if in_conversation else None, tuple(conversation or ()), many=many)
    token = _recording.set(True)
    interrupted_by: BaseException | None = None
    try:
        # First in line, so that the database writes while the other watchers do.
        with watched_by(recorder, *watchers), heeding_termination():
            yield
    except BaseException as error:
        interrupted_by = error
        raise
    finally:
        _recording.reset(token)
        await recorder.finish(interrupted_by)


class _Running(NamedTuple):
    record: Record
    started_at: datetime
    name: str | None


async def _find_writer() -> Writer | None:
    address = await find_address()
    return writer_of(address) if address else None


class Recorder:
    """A watcher that hands each run to the writer of the history when it ends, and adds its turn to the conversation."""

    def __init__(self, conversation: Conversation | None, given: tuple[Message, ...], *, many: bool = False) -> None:
        # The server may have to be asked where the history is; meanwhile the run goes on.
        self._writer = asyncio.ensure_future(_find_writer())
        self._conversation = conversation
        self._turn = Turn.after(conversation, given) if conversation else None
        self._many = many
        self._running: dict[int, _Running] = {}
        self._answers: list[Response] = []
        self._batch: BatchEntry | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def on_event(self, event: str, value: Any) -> None:
        """Take note of an event of a run."""
        if event == "started":
            if self._many:
                value.run_id = str(uuid4())
            self._running[id(value)] = _Running(value, datetime.now(UTC), flow_run.name)
            self._answers.clear()
            self._start(self._warm_up())
        elif event == "batch_started" and value.flow_run_id:
            self._batch = BatchEntry(
                PART if value.part else BATCH,
                value.flow_run_id,
                "running",
                value.input,
                value.output,
                value.model_dump(mode="json"),
                datetime.now(UTC),
                flow_run.name,
            )
            self._start(self._write_batch(self._batch))
        elif event == "batch_written" and self._batch is not None:
            ended = replace(self._batch, status=value.status, summary=value.model_dump(mode="json"))
            self._batch = None
            self._start(self._write_batch(ended))
        elif event in {"answered", "answered_within"} and value.panel is None and len(self._running) == 1:
            self._answers.append(value)  # of several runs, nobody knows whose call it was
        elif event == "ended":
            self._answers.clear()
            self._save(self._running.pop(id(value), _Running(value, datetime.now(UTC), None)))

    async def finish(self, error: BaseException | None) -> None:
        """Wait until all runs are written; those that `error` interrupted are written with what they had."""
        cause = f"the run was interrupted: {type(error).__name__}" if error else "the run ended before it was finished"
        for run in list(self._running.values()):
            add_answers(run.record, self._answers)
            self._save(run, cause)
        if self._batch is not None:
            document = self._batch.summary | {"error": cause}
            self._start(self._write_batch(replace(self._batch, status="interrupted", summary=document)))
        if self._tasks:
            await asyncio.wait(self._tasks)
        # All is written. A server that has not said by now where the history is must not delay the end.
        self._writer.cancel()
        await asyncio.wait({self._writer})
        if not self._writer.cancelled():
            self._writer.exception()  # or asyncio would report it where no run was written

    async def _warm_up(self) -> None:
        with suppress(Exception):  # it is reported where the run is written
            async with asyncio.timeout(WAIT_S):
                writer = await asyncio.shield(self._writer)
            if writer is not None:
                writer.warm_up()

    def _save(self, run: _Running, error: str | None = None) -> None:
        self._start(self._write(Entry(run.record, run.started_at, datetime.now(UTC), run.name, self._turn, error)))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write_batch(self, entry: BatchEntry) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                writer = await asyncio.shield(self._writer)
                if writer is not None:
                    await asyncio.shield(asyncio.wrap_future(writer.write(entry)))
        except Exception as error:
            get_logger("consensus").error("this batch is not in the history: %s", error)

    async def _write(self, entry: Entry) -> None:
        """Write a run; why that failed goes into its record."""
        run_id, record = None, entry.record
        try:
            async with asyncio.timeout(WAIT_S):
                writer = await asyncio.shield(self._writer)
                if writer is not None:
                    run_id = await asyncio.shield(asyncio.wrap_future(writer.write(entry)))
        except Exception as error:
            record.conversation_id = None
            cause = str(error) or f"it took longer than {WAIT_S:.0f} s"
            message = f"this run is not in the history: {cause}"
            record.warn("not_recorded", message)
            get_logger("consensus").error(message)
        if self._conversation is not None and self._turn is not None and record.answer is not None:
            self._conversation.add(record.prompt, record.answer, run_id, self._turn.given)
        if entry.error is None:  # it was not interrupted
            await emit("recorded", record)


def add_answers(record: Record, answers: Sequence[Response]) -> None:
    """Add the calls of the round in which a run was interrupted: they may be paid for."""
    known = {id(call) for call in record.calls_made()}
    missing = [call for call in answers if id(call) not in known]
    if missing:
        if not record.iterations:
            record.iterations.append(Iteration(number=1))
        last = record.iterations[-1]
        # A round is added when all its members have answered; after that texts are embedded and judges asked.
        last.embeddings.extend(call for call in missing if call.embedding is not None)
        rest = [call for call in missing if call.embedding is None]
        (last.judgements if last.responses else last.responses).extend(rest)
    record.add_up()


@contextmanager
def heeding_termination() -> Iterator[None]:
    """Let a run end by SIGTERM wherever the signal lands: raise in the block what the event loop would only report.

    Prefect raises `TerminationSignal` in whatever runs at that moment. Where that is a callback of the event loop, asyncio
    reports the exception and continues, and a run that was to be cancelled works on until it is killed.

    Raises:
        TerminationSignal: If one has landed in a callback.
    """
    loop, current, landed = asyncio.get_running_loop(), asyncio.current_task(), False
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal landed
        if isinstance(context.get("exception"), TerminationSignal) and current is not None:
            landed = True
            current.cancel()
        elif before is not None:
            before(loop, context)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)
    try:
        yield
    except asyncio.CancelledError:
        if landed and current is not None:
            current.uncancel()
            raise TerminationSignal(signal.SIGTERM) from None
        raise
    finally:
        loop.set_exception_handler(before)
