"""One batch at a vendor, from the entry in the journal before it is submitted until every line of it is ticked off.

The intent is written down before the upload, the vendor's id after. Killed in between, the batch is looked for by the mark
that it bears, or by the ids of its results, and adopted; it is sent again only if the vendor has never accepted it.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, TypeVar
from uuid import UUID

from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.client.schemas.objects import State
from prefect.logging import get_logger
from prefect.states import Completed, Failed

from consensus_flows.tasks.calls.attempt import Delivered, read_response, received, remember
from consensus_flows.tasks.calls.budget import Reservation, Source
from consensus_flows.tasks.calls.failures import Fault
from consensus_flows.tasks.calls.pricing import BATCH
from consensus_flows.tasks.calls.providers import Endpoint, client_of, endpoint_of, setting
from consensus_flows.tasks.calls.redact import redact
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.calls.vendors.batch_api import BatchAPI, BatchJob, BatchLine, LineResult
from consensus_flows.tasks.calls.vendors.vendor import Repairs, Reply
from consensus_flows.tasks.errors import OutputError
from consensus_flows.tasks.plain_text import plural

Answer = TypeVar("Answer")
POLL_S = 60.0
"""Seconds between two looks at a batch, `CONSENSUS_BATCH_POLL_S`; the first ones come sooner."""
FIRST_POLL_S = 2.0
LATE_LOOKS = 20
"""So often a batch that has ended is looked at again for results that are missing."""
CANCEL_S = 900.0
"""Seconds that a vendor has to cancel a batch: OpenAI says ten minutes."""
CLOCKS_S = 120.0
"""By so much a vendor's clock may differ from ours."""
RESPONSE_MB = 4096.0
"""The largest response that is read of results."""
SUBMIT_TRIES = 5
READ_TRIES = 6


@dataclass
class SentJob:
    """A vendor's batch as it is entered in the journal.

    Attributes:
        mark: What it is found by.
        model: The model as provider/model.
        address: Where it is.
        at: When it was entered, in seconds since the epoch.
        lines: The numbers of its lines in the journal, by their ids.
        id: The vendor's id, once it is accepted.
    """

    mark: str
    model: str
    address: str
    at: float
    lines: dict[str, int] = field(default_factory=dict)
    id: str | None = None


class JobLog(Protocol):
    """Where batches are entered so that they outlive the run."""

    @property
    def jobs(self) -> Mapping[str, SentJob]:
        """Those that have not ended, by their marks."""

    def open_line(self, number: int) -> tuple[int, float | None] | None:
        """Return the tokens and US dollars at which a line is entered; None for one whose call has ended."""

    def submitting(self, job: SentJob, lines: Mapping[str, tuple[int, float | None]]) -> None:
        """Enter a batch before it is submitted."""

    def accepted(self, job: SentJob, id: str) -> None:
        """Enter the vendor's id."""

    def dropped(self, job: SentJob, lines: Iterable[str]) -> None:
        """Enter lines that were not executed."""

    def job_ended(self, job: SentJob) -> None:
        """Enter that all lines are ticked off."""


class NotAnswered(NamedTuple):
    """What has come of a line that has neither an answer nor an error.

    Attributes:
        why: `expired`: it was not executed, because its batch expired or was cancelled, or never got there. `lost`: it is in
            none of the results, and the vendor may bill it. `refused`: a parameter is not taken, and is left out from now on.
            `full`: the vendor takes no more lines at the moment. `at_once`: it is to be asked for by a call of its own.
        entry: The number of a lost one in the journal.
    """

    why: Literal["expired", "lost", "refused", "full", "at_once"]
    entry: int | None = None


Outcome = Delivered | NotAnswered


@dataclass
class Line:
    """A request that waits for its turn, or for its answer."""

    id: str
    request: Request
    endpoint: Endpoint
    reservation: Reservation
    body: Mapping[str, Any]
    repairs: Repairs
    outcome: "asyncio.Future[Outcome]"

    @property
    def size(self) -> int:
        """Its bytes, about."""
        return len(json.dumps(self.body)) + 200


class _LeftError(Exception):
    """The batch is left at the vendor for a later run."""


class Job:
    """A batch at a vendor.

    Args:
        sent: As it is in the journal.
        endpoint: Where it goes.
        api: How.
        log: The journal.
        deliver: Passes on what came of a line.
        reservations: The worst cases of its lines, by their ids.
        lines: The lines to submit; None for a batch of an earlier run.
    """

    def __init__(  # noqa: PLR0917  # all are needed, and named where it is made
        self,
        sent: SentJob,
        endpoint: Endpoint,
        api: BatchAPI,
        log: JobLog,
        deliver: Callable[[str, Outcome], None],
        reservations: Mapping[str, Reservation],
        lines: Sequence[Line] | None = None,
    ) -> None:
        self.sent = sent
        self.endpoint = endpoint
        self.lines = {line.id: line for line in lines or ()}
        """Those whose requests are at hand."""
        self.state: BatchJob | None = None
        """How it is at the vendor."""
        self.settled = False
        """Whether it has been looked at, so that nothing is known to be coming at once."""
        self.reading = False
        """Whether its results are being read."""
        self.full = self.no_api = False
        """Why nothing was submitted: the vendor takes no more lines at the moment, or has no batch API."""
        self.error: Exception | None = None
        """What broke the work on it."""
        self._resumed = lines is None
        self._api, self._log, self._deliver, self._reservations = api, log, deliver, reservations
        self._model = sent.model.partition("/")[2]
        self._cancelled_at: float | None = None
        self._leave = False
        self._woken = asyncio.Event()

    @property
    def source(self) -> Source:
        """Its address and model."""
        return self.endpoint.address, self._model

    def reservation(self, id: str) -> Reservation | None:
        """Return the worst case of a line; None for one that is ticked off."""
        return self._reservations.get(id)

    def cancel(self) -> None:
        """Cancel it; what is answered by then is kept."""
        if self._cancelled_at is None:
            self._cancelled_at = time.monotonic()
            self._woken.set()

    def leave(self) -> None:
        """Leave it at the vendor for a later run."""
        self._leave = True
        self._woken.set()

    async def work(self) -> State[Any]:
        """See it through to its end, and return the state of its task run; `error` has what broke it."""
        client = await self.endpoint.vendor.client(self.endpoint.credentials, self._model, "chat", RESPONSE_MB)
        shown = _Progress(self.sent)
        try:
            problem = await self._submitted(client) or await self._over(client, shown)
            if problem is not None:
                return problem
            assert self.state is not None
            await self._read(client, self.state)
            self._log.job_ended(self.sent)
            await shown.show(self.state)
            return Completed(message=f"{self.state.status}: {self.state.done} of {len(self.sent.lines)} lines done")
        except _LeftError:
            return Completed(name="Waiting", message=f"left at the vendor as {self.sent.id}")
        except Exception as error:
            self.error = error
            raise
        finally:
            self.reading = False
            close = getattr(client, "close", None) or client.aclose
            await close()

    async def _submitted(self, client: Any) -> State[Any] | None:
        """Submit it, if that was not done; return a state if there is nothing to wait for."""
        if self.sent.id is not None:
            return None
        if self._resumed:  # it is not known whether it was accepted
            if not await self._found(client):
                return await self._without("expired", "it was never accepted")
            return None
        lines = [BatchLine(line.id, line.request, line.body) for line in self.lines.values()]
        for tried in range(1, SUBMIT_TRIES + 1):
            try:
                accepted = await self._api.submit(client, self._model, lines, self.sent.mark)
            except Exception as error:  # every SDK has its own
                fault = self.endpoint.vendor.fault_of(error)
            else:
                self._log.accepted(self.sent, accepted.id)
                return None
            if not fault.unbilled and await self._found(client):
                return None
            if fault.status in {404, 405, 501}:
                self.no_api = True
                return await self._without("at_once", f"there is no batch API at {self.endpoint.address}")
            verdict = self.endpoint.vendor.classify(fault)
            if fault.status == 429 and verdict.kind == "rate_limit":
                return await self._without("full", f"the queue is full: {fault.message}")
            if not verdict.retry or tried == SUBMIT_TRIES:
                break
            await self._pause(max(verdict.wait_s or 0.0, min(FIRST_POLL_S * 2**tried, poll_s())))
        return await self._refused(fault, {})

    async def _found(self, client: Any) -> bool:
        """Look for it at the vendor, and enter its id if it is there."""
        others = {one.id for one in self._log.jobs.values()}
        since = datetime.fromtimestamp(self.sent.at - CLOCKS_S, UTC)

        async def listed() -> list[BatchJob]:
            return [job async for job in self._api.find(client, self.sent.mark, since, len(self.sent.lines))]

        for job in await self._asked(listed):
            if job.id not in others and (self._api.marked or await self._is_ours(client, job)):
                self._log.accepted(self.sent, job.id)
                return True
        return False

    async def _is_ours(self, client: Any, job: BatchJob) -> bool:
        """Wait until a batch without a mark has ended, and look at the ids of its results."""
        while not job.ended:
            self.settled = True
            await self._pause(poll_s())
            job = await self._asked(partial(self._api.look, client, job.id))
        return await self._asked(partial(self._begins_with_ours, client, job))

    async def _begins_with_ours(self, client: Any, job: BatchJob) -> bool:
        async for one in self._api.results(client, job):
            return one.id in self.sent.lines
        return False

    async def _over(self, client: Any, shown: "_Progress") -> State[Any] | None:
        """Wait until it has ended; return a state if there is nothing to read."""
        wait, cancelled, looks = FIRST_POLL_S, False, 0
        while True:
            assert self.sent.id is not None
            state = self.state = await self._asked(partial(self._api.look, client, self.sent.id))
            # Before anybody may think that nothing is coming any more.
            self.reading, self.settled = state.ended, True
            await shown.show(state)
            if state.ended:
                break
            looks += state.late
            given_up = self._cancelled_at is not None and time.monotonic() - self._cancelled_at > CANCEL_S
            if looks > LATE_LOOKS or given_up:
                break
            if self._cancelled_at is not None and not cancelled:
                cancelled, wait = True, FIRST_POLL_S
                with suppress(Exception):  # it may end in this moment
                    await self._api.cancel(client, self.sent.id)
            await self._pause(wait)
            wait = min(1.5 * wait, poll_s())
        if state.full:
            return await self._without("full", f"the queue is full: {state.fault.message if state.fault else ''}")
        return None if state.fault is None else await self._refused(state.fault, state.refused)

    async def _read(self, client: Any, state: BatchJob) -> None:
        """Read all results, and tick off the lines that are in none of them."""
        left = {*self._reservations}
        wait = FIRST_POLL_S
        for _ in range(READ_TRIES if state.ended else 0):
            try:
                async for one in self._api.results(client, state):
                    if one.id in left:  # a line may come twice, and one may be unknown
                        left.discard(one.id)
                        await self._tick_off(one)
                break
            except Exception as error:  # the file ends in the middle, or the connection broke
                if isinstance(error, OutputError):
                    raise
                _warn(self, f"its results cannot be read to the end: {error!r}")
            await self._pause(min(wait, poll_s()))
            wait *= 2
        if state.cut:
            for name in left:
                self._drop(name, NotAnswered("expired"))
            return
        if left:
            _warn(self, f"{plural(len(left), 'line')} in none of its results: asked once more")
        for name in left:
            self._reservations[name].settle(None, None, lost=True)
            self._deliver(name, NotAnswered("lost", self.sent.lines[name]))

    async def _tick_off(self, one: LineResult) -> None:
        """Settle a line, and pass on what came of it."""
        line = self.lines.get(one.id)
        if one.response is None and one.fault is None:
            return self._drop(one.id, NotAnswered("expired"))
        repairs = line.repairs if line is not None else Repairs()
        if one.fault is not None and line is not None:
            learned = self.endpoint.vendor.learn(repairs, one.fault, line.body)
            if learned != repairs:
                remember(self.endpoint, self._model, learned)
                return self._drop(one.id, NotAnswered("refused"))
        request = line.request if line is not None else _any(self.sent.model)
        if one.fault is not None:
            said = Reply(fault=one.fault)
        else:
            said = read_response(request, self.endpoint, line.body if line is not None else {}, one.response)
        said = replace(said, service_tier=BATCH)
        took = time.time() - self.sent.at
        sent, usage = await received(request, self.endpoint, said, self.sent.lines[one.id], took)
        self._reservations[one.id].settle(usage, sent.cost_usd, lost=sent.lost)
        return self._deliver(one.id, Delivered(sent, repairs))

    async def _refused(self, fault: Fault, named: Mapping[int, Fault]) -> State[Any]:
        """Pass on why it was refused as a whole: to the lines that are named, or to all."""
        for number, name in enumerate(list(self._reservations)):
            await self._tick_off(LineResult(name, fault=named.get(number) if named else fault))
        self._log.job_ended(self.sent)
        return Failed(message=f"refused: {fault.message}"[:500])

    async def _without(self, why: Literal["expired", "full", "at_once"], message: str) -> State[Any]:
        """Take it back: no line of it was executed."""
        for name in list(self._reservations):
            self._drop(name, NotAnswered(why))
        self.full = why == "full"
        self._log.job_ended(self.sent)
        return Failed(message=message[:500])

    def _drop(self, id: str, outcome: NotAnswered) -> None:
        self._log.dropped(self.sent, [id])
        self._reservations[id].cancel()
        self._deliver(id, outcome)

    async def _asked(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask the vendor, however long it is away: nothing is lost meanwhile."""
        wait = FIRST_POLL_S
        while True:
            try:
                return await ask()
            except Exception as error:  # every SDK has its own
                _warn(self, f"the vendor cannot be asked: {error!r}")
            self.settled = True
            await self._pause(min(wait, poll_s()))
            wait *= 2

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than until it is to be cancelled.

        Raises:
            _LeftError: If it is to be left.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(min(seconds, poll_s())):
                await self._woken.wait()
        self._woken.clear()
        if self._leave:
            raise _LeftError


class _Progress:
    """The progress artifact of a batch."""

    def __init__(self, sent: SentJob) -> None:
        self._sent = sent
        self._artifact: UUID | None = None
        self._last: tuple[str, int] | None = None

    async def show(self, state: BatchJob) -> None:
        """Show how far it is; the batch goes on if that fails."""
        lines, now = len(self._sent.lines), (state.status, state.done)
        if now == self._last:
            return
        self._last = now
        text = f"{self._sent.model}: {state.done} of {lines} lines done, {state.status} ({state.id})"
        share = 100 * state.done / lines if lines else 100.0
        try:
            if self._artifact is None:
                key = f"vendor-batch-{self._sent.mark.rpartition('-')[2][:12]}"
                self._artifact = await acreate_progress_artifact(share, key=key, description=text)
            else:
                await aupdate_progress_artifact(self._artifact, share, description=text)
        except Exception as error:
            get_logger("consensus").warning("The progress of %s cannot be shown: %r", self._sent.model, error)


def _warn(job: Job, text: str) -> None:
    get_logger("consensus").warning("%s, batch %s: %s", job.sent.model, job.sent.id, redact(text, job.endpoint.secrets))


def _any(model: str) -> Request:
    """Return a request by which a line is read whose own request is not at hand."""
    provider, _, name = model.partition("/")
    return Request(provider=provider, model=name, messages=(Message(role="user", content=" "),))


def poll_s() -> float:
    """Return the seconds between two looks at a batch."""
    return setting("BATCH_POLL_S", POLL_S)


async def look_at(sent: SentJob) -> tuple[str, int]:
    """Ask a vendor how a batch is, and how many lines are done; why not, where it does not say."""
    if sent.id is None:
        return "not confirmed", 0
    provider, _, model = sent.model.partition("/")
    try:
        endpoint = await endpoint_of(provider, model)
        api = endpoint.vendor.batch_api(endpoint.credentials)
        if api is None or endpoint.address != sent.address:
            return f"sent to {sent.address}", 0
        state = await api.look(await client_of(endpoint, model), sent.id)
    except Exception as error:  # every SDK has its own
        return f"unknown: {redact(str(error))}"[:100], 0
    return state.status.lower(), state.done
