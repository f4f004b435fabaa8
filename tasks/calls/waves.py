"""Calls through the vendors' batch APIs: those that all rows wait for go out together, at half the price.

A call that waits for a wave is a call like any other: the algorithms know nothing of it. It waits before its task run begins.
When its line has come, the task run takes what came in place of a request, judges it, and stores it under the same key as
ever. So a row that is run again at any price finds it.

A wave is cut when every row that is under way waits for a line. What may not go into a batch, because its vendor has none or
it is no chat, is asked for at once, beside the wave.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_logger
from prefect.results import ResultStore, get_result_store
from prefect.utilities.annotations import quote

from consensus_flows.tasks.calls.ask import ask_task
from consensus_flows.tasks.calls.attempt import REPAIRS, Attempt, Delivered, call_log, sent_as
from consensus_flows.tasks.calls.breaker import check_breaker
from consensus_flows.tasks.calls.budget import (
    OVERRUNS,
    BudgetTracker,
    Reservation,
    Source,
    line_of,
    until_deadline,
)
from consensus_flows.tasks.calls.jobs import Job, JobLog, Line, NotAnswered, Outcome, SentJob, poll_s
from consensus_flows.tasks.calls.prompt_cache import beginning
from consensus_flows.tasks.calls.providers import Endpoint, endpoint_of, setting
from consensus_flows.tasks.calls.request import Request, request_key
from consensus_flows.tasks.calls.storage import is_stored
from consensus_flows.tasks.calls.vendors.vendor import Repairs
from consensus_flows.tasks.errors import BudgetError, ConfigurationError
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.watch import emit

LOOK_S = 0.1
"""Seconds between two looks at whether a wave is to be cut."""
SETTLE_S = 0.3
"""For so long no row may have moved before a wave is cut."""
LINGER_S = 300.0
"""A line waits no longer for rows that are busy with other calls."""
AT_ONCE = 64
"""Calls that are made at once beside the waves, and answers that are stored at once."""
FULL_S = 60.0
"""A vendor whose queue is full is asked again after that."""
TRIES = 3
"""So often a line that was not executed is sent again as one; then by a call of its own."""


@task(name="vendor-batch", task_run_name="{title}", cache_policy=NO_CACHE, persist_result=False)
async def vendor_batch(title: str, job: Job) -> Any:  # noqa: ARG001  # the title is the name of the run
    """See a batch through at its vendor."""
    return await job.work()


@dataclass(eq=False)
class _Row:
    waiting: int = 0
    """Its calls that wait for a line."""


class _Trial(NamedTuple):
    """The first call of a model.

    Attributes:
        name: Its id.
        others: Done when the last of those has come that go out when the model has answered.
    """

    name: str
    others: "asyncio.Future[Outcome] | None"


_row: ContextVar[_Row | None] = ContextVar("row", default=None)
_waves: ContextVar["Waves | None"] = ContextVar("waves", default=None)


def waves_now() -> "Waves | None":
    """Return what collects calls for the vendors' batch APIs; None where calls are made at once."""
    return _waves.get()


class Waves:
    """Collects the calls of a batch for the vendors' batch APIs.

    Args:
        log: The journal of the batch.
        wait: Whether to wait for the vendors; else the batch ends when all that can be submitted is.
        ends_at: When to ask for the rest by calls of their own, by the monotonic clock.
    """

    def __init__(self, log: JobLog, *, wait: bool = True, ends_at: float | None = None) -> None:
        self._log, self._wait, self._ends_at = log, wait, ends_at
        self._rows: set[_Row] = set()
        self._pending: dict[str, Line] = {}
        self._waiting: dict[str, Line] = {}
        self._row_of: dict[str, _Row] = {}
        self._came: dict[str, Outcome] = {}
        """What has come of lines that nobody has asked for yet."""
        self._job_of: dict[str, Job] = {}
        self._jobs: dict[Job, asyncio.Task[None]] = {}
        self._in_work: dict[str, asyncio.Event] = {}
        """Calls that are being made, by their ids; whoever wants the same waits, and finds it stored."""
        self._trials: dict[Source, _Trial] = {}
        """The models of which the first call is under way."""
        self._tried: set[Source] = set()
        self._others: dict[str, asyncio.Future[Outcome]] = {}
        """What the first calls have to wait for, by their ids."""
        self._no_api: set[str] = set()
        self._full_until: dict[Source, float] = {}
        self._store: ResultStore | None = None
        self._most: dict[Source, int] = {}
        """Lines that a vendor whose queue was full takes at once."""
        self._moved = time.monotonic()
        self._first_pending = 0.0
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._making = 0
        self._failure: Exception | None = None
        self.closing = False
        """Whether nothing is put into batches any more."""
        self.left = asyncio.Event()
        """Set when all that waits is at the vendors, and nobody wants to wait."""

    @asynccontextmanager
    async def collecting(self, tracker: BudgetTracker) -> AsyncIterator[None]:
        """Collect the calls that are made in the block.

        Args:
            tracker: The budget of the batch.
        """
        await self._resume(tracker)
        token = _waves.set(self)
        looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            _waves.reset(token)
            looking.cancel()
            for job in self._jobs:
                job.leave()
            await asyncio.gather(looking, *self._jobs.values(), return_exceptions=True)
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def row(self) -> Iterator[None]:
        """Count a row as under way in the block."""
        row = _Row()
        self._rows.add(row)
        token = _row.set(row)
        try:
            yield
        finally:
            _row.reset(token)
            self._rows.discard(row)
            self._moved = time.monotonic()

    @property
    def lines_left(self) -> int:
        """Lines that are at the vendors."""
        return sum(len(job.lines) for job in self._log.jobs.values())

    @asynccontextmanager
    async def turn(self, request: Request, *, fresh: bool) -> AsyncIterator[Delivered | None]:
        """Wait for what comes of a call, and count it as being made in the block.

        Args:
            request: The call.
            fresh: Whether a stored answer is not wanted.

        Yields:
            What came of its line; None if the call is to be made at once, or is stored.

        Raises:
            BudgetError: If the budget does not cover it, or its seconds end.
            ModelError: If its model is disabled.
            ConfigurationError: If its provider cannot be asked.
        """
        endpoint = await endpoint_of(request.provider, request.model)
        key = request_key(request, endpoint.address)
        name, source = key.removeprefix("answer-"), (endpoint.address, request.model)
        while name in self._in_work:
            with self._counted_as_waiting():
                await self._in_work[name].wait()
        mine = self._in_work[name] = asyncio.Event()
        try:
            came = None
            if request.kind == "chat" and (fresh or not await self._is_stored(request, key)):
                async with until_deadline():
                    came = await self._line(request, endpoint, name)
            async with self._slots:
                self._making += 1
                try:
                    yield came
                finally:
                    self._making -= 1
        finally:
            if source in self._trials and self._trials[source].name == name:
                others = self._trials.pop(source).others
                if others is not None:
                    self._others[name] = others
            del self._in_work[name]
            mine.set()
            self._moved = time.monotonic()

    async def keep_step(self, key: str | None) -> None:
        """Let the first call of a model wait for the others of its wave: else the row's next calls would go out alone, wave after wave.

        Args:
            key: The key of the call.
        """
        others = self._others.pop((key or "").removeprefix("answer-"), None)
        if others is not None:
            with self._counted_as_waiting():
                await asyncio.wait([others])

    @contextmanager
    def _counted_as_waiting(self) -> Iterator[None]:
        row = _row.get() or _Row()
        row.waiting += 1
        try:
            yield
        finally:
            row.waiting -= 1
            self._moved = time.monotonic()

    async def _is_stored(self, request: Request, key: str) -> bool:
        if self._store is None:
            self._store = await get_result_store().aupdate_for_task(ask_task(request.kind))
        return await is_stored(self._store, key)

    async def _line(self, request: Request, endpoint: Endpoint, id: str) -> Delivered | None:
        """Wait until a call has come as a line; None if it is to be made at once."""
        api = endpoint.vendor.batch_api(endpoint.credentials)
        request = sent_as(request, endpoint, None)
        tried = lost = 0
        while api is not None and endpoint.address not in self._no_api and lost < 2 and tried < TRIES:
            if self._failure is not None:
                raise self._failure
            check_breaker(request.name)
            worst = await line_of(request, endpoint)
            at_vendor = id in self._job_of or id in self._came
            if self.closing and not at_vendor:
                return None
            # From here on it only waits: whoever was still looking something up must not seem to.
            row = self._row_of[id] = _row.get() or _Row()
            row.waiting += 1
            try:
                if at_vendor:
                    outcome = await self._of_earlier_run(request, endpoint, id)
                else:
                    outcome = await self._new(self._made(request, endpoint, id, worst))
            finally:
                self._arrived(id)
            if isinstance(outcome, Delivered):
                return outcome
            if outcome.why == "at_once":
                return None
            tried += outcome.why == "expired"
            if outcome.why == "lost":
                lost += 1
                log = call_log.get()
                if log is not None:
                    log.attempts.append(
                        Attempt(usage=None, cost_usd=None, answered=False, maybe_billed=True, entry=outcome.entry)
                    )
        return None

    async def _new(self, line: Line) -> Outcome:
        """Wait for a line that goes out with the next wave."""
        if not self._pending:
            self._first_pending = time.monotonic()
        self._pending[line.id] = line
        self._moved = time.monotonic()
        try:
            return await line.outcome
        finally:  # one that nobody waits for any more is not sent, or its answer is kept
            self._pending.pop(line.id, None)
            self._waiting.pop(line.id, None)

    async def _of_earlier_run(self, request: Request, endpoint: Endpoint, id: str) -> Outcome:
        """Wait for a line that is at the vendor, or has come from there."""
        if id in self._came:
            return self._came.pop(id)
        job = self._job_of[id]
        reservation = job.reservation(id)
        assert reservation is not None  # as long as it is expected
        line = self._waiting[id] = job.lines[id] = self._made(request, endpoint, id, reservation)
        try:
            return await line.outcome
        finally:
            self._waiting.pop(id, None)

    def _made(self, request: Request, endpoint: Endpoint, id: str, reservation: Reservation) -> Line:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        return _built(Line(id, request, endpoint, reservation, {}, Repairs(), future))

    def _arrived(self, id: str) -> None:
        """Count a row as busy again, at once: it must not seem to wait until it gets its turn."""
        row = self._row_of.pop(id, None)
        if row is not None:
            row.waiting -= 1
            self._moved = time.monotonic()

    def _deliver(self, id: str, outcome: Outcome) -> None:
        """Pass on what has come of a line."""
        self._arrived(id)
        self._job_of.pop(id, None)
        line = self._waiting.pop(id, None)
        if line is not None and not line.outcome.done():
            line.outcome.set_result(outcome)
        elif isinstance(outcome, Delivered):
            self._came[id] = outcome

    async def _look(self) -> None:
        """Cut a wave whenever it is time to."""
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                now = time.monotonic()
                if self._ends_at is not None and now >= self._ends_at and not self.closing:
                    await self._close()
                idle = self._is_idle(now)
                cut = bool(self._pending) and (idle or now - self._first_pending > LINGER_S) and self._cut(now)
                busy = self._wait or cut or self._making or self._trials or not idle
                if not busy and all(job.settled for job in self._jobs):
                    self.left.set()
        except Exception as error:
            self._fail(error)

    def _is_idle(self, now: float) -> bool:
        """Tell whether every row waits for a line, and nothing that has come is still being passed on."""
        return (
            bool(self._rows)
            and now - self._moved > SETTLE_S
            and not any(job.reading for job in self._jobs)
            and all(row.waiting > 0 for row in self._rows)
        )

    def _cut(self, now: float) -> bool:
        """Submit what waits; tell whether there was anything that could be."""
        groups: dict[Source, list[Line]] = {}
        for line in self._pending.values():
            groups.setdefault((line.endpoint.address, line.request.model), []).append(line)
        cut = False
        for source, lines in groups.items():
            lines.sort(key=lambda line: beginning(line.request))  # for the vendor's prompt cache
            full = source in self._most
            if source in self._trials or (
                full and (now < self._full_until.get(source, 0.0) or any(job.source == source for job in self._jobs))
            ):
                continue
            if len(lines) < setting("BATCH_MIN_LINES", 1):
                cut = True
                self._release(lines)
            elif source not in self._tried and source not in OVERRUNS:
                # By one call it is known what the model refuses, and that the key is good, before thousands go out.
                cut = True
                self._tried.add(source)
                self._trials[source] = _Trial(lines[0].id, lines[-1].outcome if len(lines) > 1 else None)
                self._release(lines[:1])
            else:
                # What the model refuses may have been learned since they came.
                wanted = lines[: self._most[source]] if full else lines
                covered = [_built(line) for line in wanted if self._is_covered(line)]
                cut = cut or bool(covered)
                for piece in _pieces(covered):
                    self._submit(piece)
        self._first_pending = now
        return cut

    def _is_covered(self, line: Line) -> bool:
        """Reserve the worst case of a line; what is not covered now waits, and what never will be is refused."""
        try:
            return line.reservation.take_if_covered()
        except BudgetError as error:
            del self._pending[line.id]
            self._arrived(line.id)
            line.outcome.set_exception(error)
            return False

    def _release(self, lines: Sequence[Line]) -> None:
        """Let calls be made at once."""
        for line in lines:
            del self._pending[line.id]
            self._arrived(line.id)
            line.outcome.set_result(NotAnswered("at_once"))

    def _submit(self, lines: Sequence[Line]) -> None:
        """Enter a batch in the journal, and let it go."""
        first = lines[0]
        worst = {line.id: (line.reservation.tokens, line.reservation.cost_usd) for line in lines}
        sent = self._log.submitting(first.request.name, first.endpoint.address, worst)
        for line in lines:
            line.reservation.mark_sent(sent.lines[line.id])
            self._waiting[line.id] = self._pending.pop(line.id)
        self._start(sent, first.endpoint, {line.id: line.reservation for line in lines}, lines)

    def _start(
        self,
        sent: SentJob,
        endpoint: Endpoint,
        reservations: Mapping[str, Reservation],
        lines: Sequence[Line] | None = None,
    ) -> None:
        api = endpoint.vendor.batch_api(endpoint.credentials)
        assert api is not None  # only such calls are collected
        job = Job(sent, endpoint, api, self._log, self._deliver, reservations, lines)
        self._job_of |= dict.fromkeys(reservations, job)
        self._jobs[job] = asyncio.create_task(self._work(job))

    async def _work(self, job: Job) -> None:
        """See a batch through, as a task run if Prefect is there."""
        title = f"{job.sent.model} · {plural(len(job.sent.lines), 'line')}"
        try:
            try:
                await vendor_batch(title, quote(job), return_state=True)  # type: ignore[misc]  # an async task
            except Exception as error:
                get_logger("consensus").warning("The task run of a batch of %s is not shown: %r", job.sent.model, error)
                if not job.begun:
                    await job.work()
        finally:
            del self._jobs[job]
            self._moved = time.monotonic()
        if job.error is not None:
            self._fail(job.error)
        if job.no_api:
            self._no_api.add(job.endpoint.address)
            await emit("notice", f"{job.sent.model}: no batch API at {job.endpoint.address}: asked at the normal price")
        if job.full:
            alone = not any(other.source == job.source for other in self._jobs)
            lines = len(job.sent.lines)
            self._most[job.source] = max(1, lines // 2) if alone else lines
            if alone:
                self._full_until[job.source] = time.monotonic() + min(FULL_S, poll_s())

    async def _close(self) -> None:
        """Put nothing into batches any more: cancel them, and ask for what has not come by calls of their own."""
        self.closing = True
        waiting = len(self._waiting) + len(self._pending)
        if waiting:
            await emit("notice", f"the time for batches is over: {plural(waiting, 'line')} not answered, asked at once")
        self._release(list(self._pending.values()))
        for job in self._jobs:
            job.cancel()

    def _fail(self, error: Exception) -> None:
        """End all that waits: the journal cannot be written."""
        self._failure = self._failure or error
        for line in [*self._pending.values(), *self._waiting.values()]:
            if not line.outcome.done():
                line.outcome.set_exception(error)

    async def _resume(self, tracker: BudgetTracker) -> None:
        """Go on with the batches of earlier runs."""
        for sent in list(self._log.jobs.values()):
            provider, _, model = sent.model.partition("/")
            try:
                endpoint = await endpoint_of(provider, model)
            except ConfigurationError as error:
                await emit("notice", f"batch {sent.id} of {sent.model} cannot be asked for: {error.message}")
                continue
            if endpoint.address != sent.address or endpoint.vendor.batch_api(endpoint.credentials) is None:
                await emit("notice", f"batch {sent.id} of {sent.model} was sent to {sent.address}: not asked for")
                continue
            source = (endpoint.address, model)
            self._tried.add(source)
            reservations = {
                name: tracker.adopt(sent.model, source, *worst, number)
                for name, number in sent.lines.items()
                if (worst := self._log.open_line(number)) is not None
            }
            self._start(sent, endpoint, reservations)


def _built(line: Line) -> Line:
    """Build the body of a line, without what its model is known to refuse."""
    line.repairs = REPAIRS.get((line.endpoint.address, line.request.model), Repairs())
    line.body = line.endpoint.vendor.build(line.request, line.repairs)
    return line


def _pieces(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """Split lines so that each piece is one that the vendor takes."""
    piece: list[Line] = []
    size = 0
    for line in lines:
        api = line.endpoint.vendor.batch_api(line.endpoint.credentials)
        assert api is not None  # only such calls are collected
        if piece and (len(piece) == api.most_lines or size + line.size > api.most_bytes):
            yield piece
            piece, size = [], 0
        piece.append(line)
        size += line.size
    if piece:
        yield piece
