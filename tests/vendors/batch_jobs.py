"""Batch jobs: taken in, executed line by line through the models' scripts, ended on the clock or by hand.

How each vendor speaks of them is in :mod:`.openai_batches`, :mod:`.anthropic_batches` and :mod:`.google_batches`.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from .ledger import Ledger
from .routes import plain_error, render
from .script import Reply, SeenRequest, Vendor

State: TypeAlias = Literal["validating", "in_progress", "cancelling", "completed", "failed", "expired", "cancelled"]

DAY = 86_400
"""Seconds in which vendors promise to be done."""


@dataclass(frozen=True, slots=True)
class JobFault:
    """What goes wrong with a job that was taken in.

    Refused, lost and cut replies are scripted as steps: ``vendors.script("/batches/create", faults.close_before())``.

    Attributes:
        fails: Code with which the whole job fails, none of its lines executed; at Anthropic every line errs.
        expires: Whether it ends as expired once its share of lines is done.
        lost: How many lines are executed, and in no result.
        doubled: How many lines are in the results twice.
        unknown: How many results have a custom id that nobody sent.
        late: How many looks see the job ended and no results yet.
        partial: Whether Google calls the job partially succeeded; errored lines come from the model's script.
    """

    fails: str = ""
    expires: bool = False
    lost: int = 0
    doubled: int = 0
    unknown: int = 0
    late: int = 0
    partial: bool = False


@dataclass(slots=True)
class Line:
    """One request of a job, and what came of it."""

    custom_id: str
    seen: SeenRequest
    outcome: Literal["waiting", "done", "expired", "cancelled"] = "waiting"
    status: int = 0
    body: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def succeeded(self) -> bool:
        """Whether it has an answer."""
        return self.outcome == "done" and self.status < 400


@dataclass(slots=True)
class Job:
    """One job.

    Attributes:
        id: Id, as its vendor writes it.
        vendor: Whose dialect it speaks.
        model: Model of its first line.
        lines: Its requests in the order in which they were sent.
        given: What else was said at its creation and is repeated to whoever asks.
        errors: Why it fails as a whole, in the vendor's words.
        fault: What goes wrong.
        created: When it was created, seconds since the epoch, as are the other times.
        state: Its state, in OpenAI's words.
        cancelling: When it was told to cancel.
        ended: When it ended.
        finished: Whether it was ended by hand.
        looks: How often it was looked at since its end.
    """

    id: str
    vendor: Vendor
    model: str
    lines: list[Line]
    given: dict[str, Any]
    errors: list[dict[str, Any]]
    fault: JobFault
    created: float = field(default_factory=time.time)
    state: State = "validating"
    cancelling: float | None = None
    ended: float | None = None
    finished: bool = False
    looks: int = 0

    @property
    def shows_results(self) -> bool:
        """Whether results are offered."""
        late = self.fault.late
        return self.ended is not None and (not late or self.looks > late)

    def count(self, outcome: str, *, succeeded: bool | None = None) -> int:
        """Count lines with an outcome, of those that are done maybe only the good or the bad ones."""
        return sum(line.outcome == outcome and succeeded in (None, line.succeeded) for line in self.lines)

    def results(self) -> list[Line]:
        """What the results hold, in another order: without lost lines, with doubled ones and with unknown ids."""
        kept = self.lines[self.fault.lost :]
        unknown = [replace(line, custom_id=f"unknown-{line.custom_id}"[:64]) for line in kept[: self.fault.unknown]]
        return [*unknown, *kept[: self.fault.doubled], *reversed(kept)]


class Jobs:
    """All jobs of a server, and how they go.

    Attributes:
        delay: Seconds after which a job ends; with 0 it has ended when it is first looked at.
        hold: Whether jobs stay in progress until :meth:`finish`.
        done_share: Share of a job's lines that are executed while it is in progress, or before it expires.
        cancel_delay: Seconds from cancelling to cancelled; what is not executed by then never is.
        page_size: Most jobs on one page of a list.
        capacity: Most lines of one model that may be under way; more are refused.
        refuses_late: Whether OpenAI takes in what exceeds the capacity, and lets it fail.
        faults: What goes wrong with the next jobs, one each.
        always: What goes wrong with all others.
        executions: How often each custom id was executed.
        files: Uploaded files by id.
    """

    def __init__(self, ledger: Ledger) -> None:
        """Start without jobs.

        Args:
            ledger: Says what models answer, and counts the lines.
        """
        self.delay = 0.0
        self.hold = False
        self.done_share = 0.5
        self.cancel_delay = 0.0
        self.page_size = 20
        self.capacity: int | None = None
        self.refuses_late = False
        self.faults: deque[JobFault] = deque()
        self.always = JobFault()
        self.executions: Counter[str] = Counter()
        self.files: dict[str, bytes] = {}
        self._ledger = ledger
        self._jobs: dict[str, Job] = {}
        self._lock = threading.RLock()

    def create(
        self, prefix: str, lines: list[Line], given: dict[str, Any], errors: list[dict[str, Any]] | None = None
    ) -> Job:
        """Take a job in; the dialect calls :meth:`advance` once it has described it.

        Args:
            prefix: Beginning of its id.
            lines: Its requests.
            given: What else was said.
            errors: Why it will fail.

        Returns:
            The new job.
        """
        first = lines[0].seen
        with self._lock:
            fault = self.faults.popleft() if self.faults else self.always
            job_id = f"{prefix}{uuid.uuid4().hex[:24]}"
            job = Job(job_id, first.vendor, first.model, lines, given, errors or [], fault)
            self._jobs[job.id] = job
        if self.delay:
            asyncio.get_running_loop().call_later(self.delay, self.advance, job)
        return job

    def exceeds_capacity(self, lines: list[Line]) -> bool:
        """Whether so many more lines of a model may not be under way."""
        if self.capacity is None:
            return False
        under_way = sum(len(job.lines) for job in self.jobs if not job.ended and job.model == lines[0].seen.model)
        return under_way + len(lines) > self.capacity

    @property
    def jobs(self) -> list[Job]:
        """All jobs in the order of their creation, as they are now."""
        with self._lock:
            for job in self._jobs.values():
                self.advance(job)
            return list(self._jobs.values())

    def asked(self, seen: SeenRequest) -> Job | Reply:
        """Find the job that a request is about, as it is now, and begin to cancel it if that is asked for.

        Args:
            seen: The request.

        Returns:
            The job, or a refusal.
        """
        with self._lock:
            job = self._jobs.get(seen.batch)
            if job is None or job.vendor != seen.vendor:
                return Reply(status=404, text=f"No batch {seen.batch} was found.")
            self.advance(job)
            job.looks += job.ended is not None
            if seen.model == "/batches/cancel":
                if job.ended is not None:
                    return Reply(status=409 if job.vendor == "openai" else 400, text=f"The batch is {job.state}.")
                job.state, job.cancelling = "cancelling", time.time()
            return job

    def page(self, vendor: Vendor, after: str, size: str) -> tuple[list[Job], bool]:
        """List jobs, newest first.

        Args:
            vendor: Whose jobs.
            after: Id of the last job on the page before.
            size: Most jobs wanted; "" leaves that to the server.

        Returns:
            The jobs, and whether there are more.
        """
        jobs = [job for job in reversed(self.jobs) if job.vendor == vendor]
        start = next((place + 1 for place, job in enumerate(jobs) if job.id == after), 0)
        stop = start + min(int(size or self.page_size), self.page_size)
        return jobs[start:stop], stop < len(jobs)

    def finish(self, job_id: str | None = None) -> None:
        """End a job, or all of them, by hand.

        Args:
            job_id: Which; None ends all.
        """
        with self._lock:
            for job in list(self._jobs.values()):
                if job_id in (None, job.id):
                    job.finished = True
                    self.advance(job)

    def advance(self, job: Job) -> None:
        """Execute what is due of a job, and end it when that is due."""
        with self._lock:
            if job.state == "cancelling" and time.time() >= (job.cancelling or 0.0) + self.cancel_delay:
                self._end(job, "cancelled")
            if job.state not in ("validating", "in_progress"):
                return
            job.state = "in_progress"
            due = job.finished or (not self.hold and time.time() >= job.created + self.delay)
            if job.errors or job.fault.fails:
                if due:
                    self._end(job, "failed")
                return
            share = self.done_share if job.fault.expires or not due else 1.0
            for line in job.lines[: int(share * len(job.lines))]:
                if line.outcome == "waiting":
                    self._execute(job, line)
            if due:
                self._end(job, "expired" if job.fault.expires else "completed")

    def _end(self, job: Job, state: Literal["completed", "failed", "expired", "cancelled"]) -> None:
        job.state, job.ended = state, time.time()
        if state in ("expired", "cancelled"):
            for line in job.lines:
                if line.outcome == "waiting":
                    line.outcome = state

    def _execute(self, job: Job, line: Line) -> None:
        seen = line.seen
        seen.batch, seen.at, seen.stream = job.id, time.time(), False
        step = self._ledger.note(seen)
        self.executions[line.custom_id] += 1
        reply = Reply() if step is None else step if isinstance(step, Reply) else step(seen)
        line.outcome, line.status, line.body = "done", 500, plain_error(seen, 500, "The server had an error.")
        if reply.fault is None:
            body = render(seen, reply, [])[1]
            if isinstance(body, bytes) and body.startswith(b"{"):
                line.status, line.body = reply.status, json.loads(body)
        self._ledger.answered(seen, line.status)

    def summary(self) -> list[dict[str, Any]]:
        """All jobs as plain JSON values."""
        return [
            {
                "id": job.id,
                "vendor": job.vendor,
                "model": job.model,
                "lines": len(job.lines),
                "executed": job.count("done"),
                "state": job.state,
                "created": job.created,
            }
            for job in self.jobs
        ]
