"""One call of the `ask` task, turned into an entry of the run's record: a failure is data, not an exception."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from prefect.client.schemas.objects import State
from prefect.tasks import Task

from tasks.calls.ask import ask_task
from tasks.calls.attempt import Ledger, ledger
from tasks.calls.request import Answer, Request, Usage
from tasks.calls.scrub import scrub
from tasks.errors import ConfigurationError, ModelError
from tasks.record import CallError, Response
from tasks.watch import tell

Call = Callable[..., Awaitable[Response]]
"""What makes the calls of a flow: takes a request, gives a response, like `Caller`."""


@dataclass(frozen=True)
class Caller:
    """How a flow makes its calls. Flows take one as an argument, so that they can be tested without models."""

    fresh: bool = False

    @property
    def task(self) -> Task[[Request], Any]:
        """The task that makes the calls."""
        return ask_task(fresh=self.fresh)

    async def __call__(self, request: Request, *, instance: int = 1, member: str | None = None) -> Response:
        """Ask, and return what came of it; a model's failure is an entry in the response.

        Args:
            request: What is asked.
            instance: Which instance of the model this is.
            member: Name of the member in the record; by default `provider/model#instance`.
        """
        response = Response(
            member=member or f"{request.name}#{instance}",
            provider=request.provider,
            model=request.model,
            instance=instance,
        )
        book = Ledger()
        token = ledger.set(book)
        started = time.monotonic()
        try:
            # Prefect's types say that an asynchronous task returns its state at once; it returns a coroutine.
            state = await cast("Awaitable[State[Any]]", self.task(request, return_state=True))
        finally:
            ledger.reset(token)
        result = await state.aresult(raise_on_failure=False)
        if isinstance(result, Answer):
            _fill(response, result)
            response.cached = not book.attempts
        else:
            response.error = _error_of(result)
            response.text = getattr(result, "text", None)
            response.latency_s = round(time.monotonic() - started, 4)
        _book(response, book)
        await tell("answered", response)
        return response


_fields = ("text", "finish_reason", "usage", "latency_s", "model_served")


def _fill(response: Response, answer: Answer) -> None:
    for name in _fields:
        setattr(response, name, getattr(answer, name))
    response.warnings = list(answer.warnings)
    response.stored_cost_usd = answer.cost_usd


def _book(response: Response, book: Ledger) -> None:
    response.attempts = len(book.attempts)
    response.spent = sum((attempt.usage for attempt in book.attempts if attempt.usage), Usage())
    response.possibly_billed = sum(attempt.maybe_billed for attempt in book.attempts)
    costs = [attempt.cost_usd for attempt in book.attempts if not attempt.maybe_billed]
    known = [cost for cost in costs if cost is not None]
    response.cost_usd = sum(known) if len(known) == len(costs) else None
    if response.error is not None and response.usage == Usage():
        response.usage = response.spent


def _error_of(result: object) -> CallError:
    if isinstance(result, ModelError):
        return CallError(kind=result.kind, message=result.message, retryable=result.retryable)
    if isinstance(result, ConfigurationError):
        return CallError(kind="bad_request", message=result.message)
    return CallError(kind="unknown", message=scrub(f"{type(result).__name__}: {result}"))
