"""One call of the `ask` task, turned into an entry of the run's record: a failure is data, not an exception."""

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.logging import get_logger
from prefect.states import Failed
from pydantic import JsonValue

from consensus_flows.blocks.panel import RunConfig
from consensus_flows.blocks.sampling import ServiceTier
from consensus_flows.tasks.calls.ask import ask_task, is_retried, most_retries
from consensus_flows.tasks.calls.attempt import CallLog, call_log, delivered
from consensus_flows.tasks.calls.redact import redact
from consensus_flows.tasks.calls.request import Answer, CallKind, Request
from consensus_flows.tasks.calls.storage import holds, was_rejected
from consensus_flows.tasks.calls.task_runs import run_call
from consensus_flows.tasks.calls.waves import Waves, waves_now
from consensus_flows.tasks.calls.writing import Writer
from consensus_flows.tasks.errors import ConfigurationError, ConsensusError, ModelError, OutputError
from consensus_flows.tasks.readers import JSON, read_vector
from consensus_flows.tasks.record import CallError, Response, RunWarning, Usage
from consensus_flows.tasks.watch import emit, reads_pieces

_FIELDS = ("text", "finish_reason", "usage", "latency_s", "model_served", "service_tier")
_samples: ContextVar[int] = ContextVar("samples", default=0)
APART = 1000
"""Samples of a model in one run of a panel at most; the next run of the same panel begins after them."""
Call = Callable[..., Awaitable[Response]]
"""What makes the calls of a flow: takes a request, gives a response, like `Caller`."""


@contextmanager
def sampled_apart(sample: int) -> Iterator[int]:
    """Let the calls in the block be other samples than those of the panel's other runs, which are cached apart.

    Args:
        sample: Which run of the panel it is, as the run around it counts them, from 0.

    Yields:
        By how much the sample indices are shifted.
    """
    shift = (_samples.get() + sample) * APART
    token = _samples.set(shift)
    try:
        yield shift
    finally:
        _samples.reset(token)


def _shifted(request: Request) -> Request:
    """Return a request as another sample of the same, where it is made in a further run of a panel."""
    shift, sampling = _samples.get(), request.sampling
    if not shift:
        return request
    if sampling.seed is not None:
        sampling = sampling.model_copy(update={"seed": sampling.seed + shift})
    return request.model_copy(update={"sample": request.sample + shift, "sampling": sampling})


@dataclass(frozen=True)
class Exchange:
    """A call that has ended: what was asked, what came of it, and its task run."""

    request: Request
    response: Response
    task_run_id: UUID | None


@dataclass(frozen=True)
class Caller:
    """How a flow makes its calls. Flows take one as an argument, so that they can be tested without models.

    Attributes:
        fresh: Ask again even where an answer is stored, and replace it.
        service_tier: The tier in which every call should be served.
        kind: The kind of calls that are made of chats.
        answer_schema: JSON schema of what would be a free text. A judgement has a schema of its own.
    """

    fresh: bool = False
    service_tier: ServiceTier | None = None
    kind: CallKind = "chat"
    answer_schema: dict[str, JsonValue] | None = None

    @classmethod
    def of(cls, config: RunConfig) -> "Caller":
        """Return what makes the calls of a run with these settings."""
        return cls(config.fresh, config.service_tier, answer_schema=config.answer_schema)

    async def __call__(self, request: Request, *, instance: int = 1, member: str | None = None) -> Response:
        """Ask, and return what came of it; a model's failure is an entry in the response.

        Args:
            request: What is asked.
            instance: Which instance of the model this is.
            member: Name of the member in the record; by default `provider/model#instance`.
        """
        request = _shifted(request)
        if self.service_tier is not None:
            request = request.model_copy(update={"service_tier": self.service_tier})
        if request.kind == "chat" and self.kind != "chat":
            request = request.model_copy(update={"kind": self.kind})
        if self.answer_schema is not None and request.kind == "chat" and request.response_schema is None:
            form = {"response_schema": self.answer_schema, "reader": request.reader or JSON}
            request = request.model_copy(update=form)
        response = Response(
            member=member or f"{request.name}#{instance}",
            provider=request.provider,
            model=request.model,
            instance=instance,
        )
        writer = Writer(request, response.member) if request.answer_in is not None and reads_pieces() else None
        log = CallLog(writer=writer)
        token = call_log.set(log)
        started = time.monotonic()
        try:
            waves = waves_now()
            state = await (self._at_once(request) if waves is None else self._by_wave(waves, request))
        finally:
            call_log.reset(token)
        result = await state.aresult(raise_on_failure=False)
        forget_result(state, result)
        if isinstance(result, Answer):
            if writer is not None:
                await writer.end(result.text)
            for name in _FIELDS:
                setattr(response, name, getattr(result, name))
            # The same for all instances of a model, so that it is said once.
            response.warnings = [
                RunWarning(kind=kind, message=text, member=request.name)
                for kind, texts in (("adjusted", result.warnings), ("odd_response", result.doubts))
                for text in texts
            ]
            response.stored_cost_usd = result.cost_usd
            response.cached = not log.attempts
            if log.attempts and log.stored_at is not None and not holds(log.stored_at, result):
                where = log.stored_at.parent
                cause = f"the answer was paid for and could not be cached in {where}: asked again, it will be paid for again"
                _warn(response, "not_stored", cause)
                get_logger("consensus").error("%s: %s", response.member, cause)
            if log.key is not None and was_rejected(log.key):
                _warn(response, "rejected", "a cached answer was damaged or not ours, so the call was made again")
            if request.kind == "embedding":
                response.embedding, response.text = read_vector(result.text), None
        else:
            response.error = _error_of(result)
            if isinstance(result, ModelError) and result.taken_out:
                response.warnings = [RunWarning(kind="taken_out", message=result.message, member=request.name)]
            response.text = getattr(result, "text", None)
            response.latency_s = round(time.monotonic() - started, 4)
        _add_up(response, log)
        await emit("answered", response)
        await emit("called", Exchange(request, response, state.state_details.task_run_id))
        if waves is not None:
            await waves.keep_step(log.key)
        return response

    async def _at_once(self, request: Request) -> State[Any]:
        return await run_call(ask_task(request.kind, fresh=self.fresh), request)

    async def _by_wave(self, waves: Waves, request: Request) -> State[Any]:
        """Wait for what comes of the call by a vendor's batch; what failed is sent with a later one."""
        for tried in range(1, most_retries() + 2):
            try:
                async with waves.turn(request, fresh=self.fresh) as came:
                    if came is None:
                        return await self._at_once(request)
                    token = delivered.set(came)
                    try:
                        state = await run_call(ask_task(request.kind, fresh=self.fresh, retries=0), request)
                    finally:
                        delivered.reset(token)
            except OutputError:
                raise
            except ConsensusError as error:  # it was not sent: the budget, the breaker, or no key
                return Failed(data=error)
            failed = await state.aresult(raise_on_failure=False)
            if not (isinstance(failed, ModelError) and is_retried(failed, tried)):
                break
        return state


def forget_result(state: State[Any], result: object) -> None:
    """Take the result out of what Prefect remembers of it until the flow run ends: a batch makes 100,000s of calls.

    Prefect remembers the state of each result, in case it is given to another task, and the assets of each task run; ours
    are given to none and have none.
    """
    context = FlowRunContext.get()
    if context is None:
        return
    if state.state_details.task_run_id is not None:
        context.task_run_assets.pop(state.state_details.task_run_id, None)
    for part in (result, *getattr(result, "__dict__", {}).values()):
        known = context.run_results.get(id(part))
        if known is not None and known[0].id == state.id:
            del context.run_results[id(part)]


def _warn(response: Response, kind: str, message: str) -> None:
    response.warnings.append(RunWarning(kind=kind, message=f"{response.member}: {message}", member=response.member))


def _add_up(response: Response, log: CallLog) -> None:
    response.attempts = len(log.attempts)
    response.spent = sum((attempt.usage for attempt in log.attempts if attempt.usage), Usage())
    response.entries = tuple(attempt.entry for attempt in log.attempts if attempt.entry is not None)
    response.possibly_billed = sum(attempt.maybe_billed for attempt in log.attempts)
    costs = [attempt.cost_usd for attempt in log.attempts if not attempt.maybe_billed]
    known = [cost for cost in costs if cost is not None]
    # None, and not 0, where all was lost.
    response.cost_usd = sum(known) if len(known) == len(costs) and (costs or not log.attempts) else None
    if response.error is not None and response.usage == Usage():
        response.usage = response.spent


def _error_of(result: object) -> CallError:
    if isinstance(result, ModelError):
        return CallError(kind=result.kind, message=result.message, retryable=result.retryable)
    if isinstance(result, ConfigurationError):
        return CallError(kind="bad_request", message=result.message)
    return CallError(kind="unknown", message=redact(f"{type(result).__name__}: {result}"))
