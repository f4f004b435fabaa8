"""A saved panel as a member, judge or aggregator of another: the model `panel/NAME`, whose call is a run of the panel's flow."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from consensus_flows.blocks.member import PANEL
from consensus_flows.blocks.panel import RunConfig
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.blocks.settings import Budget
from consensus_flows.flows.algorithms import algorithm
from consensus_flows.flows.grading import run_enough
from consensus_flows.tasks.calls.ask import Straggler
from consensus_flows.tasks.calls.budget import spending
from consensus_flows.tasks.calls.call import Call, Caller, forget_result, sampled_apart
from consensus_flows.tasks.calls.redact import redact
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.calls.task_runs import shows_all
from consensus_flows.tasks.errors import ConfigurationError, ConsensusError, ErrorKind
from consensus_flows.tasks.readers import UnreadableError, check_readable
from consensus_flows.tasks.record import CallError, NoAnswerError, Record, Response, RunWarning, Usage
from consensus_flows.tasks.recording import add_answers
from consensus_flows.tasks.watch import emit, within_panel


@dataclass(frozen=True)
class PanelCaller:
    """Makes the calls of a run: those of saved panels by running their flow, all others as `call` does.

    Attributes:
        call: Makes the calls of models.
        config: The settings of the run, with those of the panels.
    """

    call: Call
    config: RunConfig

    async def __call__(self, request: Request, *, instance: int = 1, member: str | None = None) -> Response:
        """Ask; a failure is an entry in the response."""
        if request.provider != PANEL:
            return await self.call(request, instance=instance, member=member)
        response = Response(
            member=member or f"{request.name}#{instance}",
            provider=request.provider,
            model=request.model,
            instance=instance,
        )
        await _PanelRun(request, response, self.config).work()
        await emit("answered", response)
        return response


@dataclass
class _PanelRun:
    """The run of a panel in the place of a call; it looks on, so that what is paid for is known when the run is cut."""

    request: Request
    response: Response
    around: RunConfig
    record: Record | None = None
    answers: list[Response] = field(default_factory=list)

    async def on_event(self, event: str, value: Any) -> None:
        """Take note of an event of the run."""
        if event == "started":
            self.record = value
        elif event in {"answered", "answered_within"} and value.panel is None:
            self.answers.append(value)

    async def work(self) -> None:
        """Run the flow, and enter what came of it."""
        request, started = self.request, time.monotonic()
        whole = request.answer_in == ""
        # A budget without limits tells whether one around it has refused a call.
        with spending(Budget()) as around, within_panel(self, pieces=whole), sampled_apart(request.sample) as shift:
            running = asyncio.ensure_future(self._run_flow(shift))
            cut: Straggler | None = None
            try:
                await asyncio.wait({running})
            except asyncio.CancelledError as error:
                cut = next((one for one in error.args if isinstance(one, Straggler)), None)
                around.shut = cut.reason if cut else "the run was canceled"
                running.cancel(*error.args)
                await asyncio.wait({running})
                if cut is None:
                    raise
                self._uncancel()
        self._enter(running, cut, around.refusal)
        self.response.latency_s = round(time.monotonic() - started, 4)

    async def _run_flow(self, shift: int) -> Any:
        """Run the flow as one within this one; return its record, or the error with which it ended.

        A batch that does not show each call does not show each panel's run either.
        """
        request, panel = self.request, self.around.panels[self.request.model]
        one = algorithm(panel.flow)
        changes: dict[str, Any] = {"order_seed": panel.config.get("order_seed", 0) + shift, "attestation": {}}
        if self.around.fresh:
            changes["fresh"] = True
        if tier := request.service_tier or self.around.service_tier:
            changes["service_tier"] = tier
        if schema := request.response_schema or self.around.answer_schema:
            changes["answer_schema"] = schema
        config = one.config_class().model_validate(panel.config | changes)
        *earlier, asked = request.messages
        if asked.attachments:
            earlier.append(Message(role="user", content="", attachments=asked.attachments))
        if not shows_all():
            record = await run_enough(one, asked.content, config, self._labelled(config), conversation=earlier)
            if record.answer is None:
                raise NoAnswerError(record.error or "no member gave an answer", record)
            return record
        flow = one.flow().with_options(flow_run_name=lambda: request.title)
        state = await flow(asked.content, config, conversation=earlier, return_state=True)
        result = await state.aresult(raise_on_failure=False)
        forget_result(state, result)
        return result

    def _labelled(self, config: RunConfig) -> Call:
        """Return what makes the panel's calls, each named after the call that the panel stands for."""
        caller, title = Caller.of(config), self.request.title

        async def call(request: Request, **options: Any) -> Response:
            return await caller(request.model_copy(update={"label": f"{title} · {request.title}"}), **options)

        return call

    def _uncancel(self) -> None:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()

    def _enter(self, running: "asyncio.Future[Any]", cut: Straggler | None, refusal: str | None) -> None:
        """Enter the record and its sums, and the answer or why there is none."""
        result = None if running.cancelled() else running.exception() or running.result()
        if isinstance(result, BaseException) and not isinstance(result, Exception):
            raise result  # SIGTERM arrived here, and is meant for the whole run
        ended = result if isinstance(result, Record) else getattr(result, "record", None)
        record = ended or self.record
        if record is not None:
            if ended is None:  # it was cut
                record.status, record.error = "failed", cut.reason if cut else redact(str(result))
                add_answers(record, self.answers)
            self._add_up(record)
        if cut is not None:
            self._fail("straggler", cut.reason, retryable=True)
        elif record is not None and record.answer is not None:
            self._answer(record, refusal)
        elif isinstance(result, ConfigurationError):
            self._fail("bad_request", result.message)
        elif refusal is not None:
            self._fail("budget", refusal)
        elif isinstance(result, ConsensusError):
            self._fail("no_answer", result.message)
        else:
            self._fail("unknown", redact(f"{type(result).__name__}: {result}"))

    def _add_up(self, record: Record) -> None:
        response, calls = self.response, record.calls_made()
        response.panel = record
        response.attempts, response.possibly_billed = record.requests, record.possibly_billed
        response.spent, response.cost_usd = record.usage, record.cost_usd
        response.usage = sum((call.usage for call in calls), Usage())
        response.cached = bool(calls) and record.calls == record.cached_calls
        stored = [call.stored_cost_usd for call in calls]
        response.stored_cost_usd = (
            sum(known) if len(known := [c for c in stored if c is not None]) == len(stored) else None
        )

    def _answer(self, record: Record, refusal: str | None) -> None:
        """Enter the answer, and what a person should know of it."""
        response, request = self.response, self.request
        # A vote of whole texts counts them in one line; JSON is read as the first of its voters wrote it.
        by_schema = request.response_schema or self.around.answer_schema
        response.text = (record.full_text if by_schema else None) or record.answer
        response.finish_reason = "stop"
        response.citations = [citation.source for citation in record.citations]
        if request.sampling != Sampling():
            self._warn("adjusted", "its members have settings of their own: the sampling settings were not sent")
        if refusal is not None:
            self._warn("budget", refusal)
        elif record.status == "budget":
            self._warn("panel_budget", "its own budget ended it: this is its best answer so far")
        if record.degraded:
            self._warn("degraded", "; ".join(_reasons(record)) or "its answer is degraded")
        if request.reader:
            try:
                check_readable(request.reader, response.text or "", request.response_schema)
            except UnreadableError as error:
                self._fail("malformed", error.message)

    def _warn(self, kind: str, message: str) -> None:
        member = self.response.member
        self.response.warnings.append(RunWarning(kind=kind, message=f"{member}: {message}", member=member))

    def _fail(self, kind: ErrorKind, cause: str, *, retryable: bool = False) -> None:
        message = f"{self.request.name}: {kind}: {cause}"
        self.response.error = CallError(kind=kind, message=message, retryable=retryable)


def _reasons(record: Record) -> Sequence[str]:
    return [str(warning) for warning in record.warnings[:3]]
