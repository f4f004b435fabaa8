"""The task that every model call goes through: retried, cached, paced, made once for identical calls, and cancelled with a reason."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple

from prefect import task
from prefect.cache_policies import CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.tasks import Task
from prefect.transactions import CommitMode, get_transaction

from consensus_flows.tasks.calls.attempt import attempt, call_log, delivered
from consensus_flows.tasks.calls.breaker import guarded
from consensus_flows.tasks.calls.budget import check_wait, until_deadline
from consensus_flows.tasks.calls.providers import BACKOFF_S, Endpoint, check_kind, endpoint_now, endpoint_of, setting
from consensus_flows.tasks.calls.request import Answer, CallKind, Request, request_key
from consensus_flows.tasks.calls.storage import guard, path_of
from consensus_flows.tasks.errors import BudgetError, ConfigurationError, ModelError

RETRIES = 4
_TASKS: dict[CallKind, tuple[str, str]] = {
    "chat": ("ask", "Ask a model; retried, cached and paced."),
    "completion": ("complete", "Let a model continue a text; retried, cached and paced."),
    "embedding": ("embed", "Turn a text into a vector; retried, cached and paced."),
}
"""Name and description of the task of each kind of call."""


@dataclass(frozen=True)
class Prepared:
    """What was found of a call while its key was computed, so that the call itself need not look again."""

    request: Request
    endpoint: Endpoint
    key: str


prepared: ContextVar[Prepared | None] = ContextVar("prepared", default=None)


class RequestKey(CachePolicy):
    """Cache policy of calls.

    Derived from `CachePolicy` because compound policies replace subclasses of `Inputs` and drop what they override.
    """

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],  # noqa: ARG002  # what decides the answer is in the request
        **_: Any,
    ) -> str | None:
        """Return the key of the request among the task's inputs; None when the call cannot be made anyway."""
        prepared.set(None)
        request = inputs.get("request")
        if not isinstance(request, Request):
            return None
        try:
            endpoint = endpoint_now(request.provider, request.model)
            key = request_key(request, endpoint.address)
            guard(task_ctx.result_store, key)
        except ConfigurationError:
            # Prefect would log it with a traceback and go on; the task itself raises the same before it pays.
            return None
        prepared.set(Prepared(request, endpoint, key))
        return key


def ask_task(kind: CallKind = "chat", *, fresh: bool = False, retries: int | None = None) -> Task[[Request], Any]:
    """Return the task that makes calls of a kind: stored, with the retries and the backoff that the environment sets.

    `CONSENSUS_RETRIES` (default 4) is how often a call is tried again, `CONSENSUS_BACKOFF_S` (default 1) the first
    wait in seconds, doubled each time.

    Args:
        kind: Must be that of the requests.
        fresh: Ask again even where an answer is stored, and replace it.
        retries: How often a call is tried again, where the environment does not decide.
    """
    retries = most_retries() if retries is None else retries
    return _task(kind, retries, setting("BACKOFF_S", BACKOFF_S), fresh=fresh)


def most_retries() -> int:
    """Return how often a call is tried again."""
    return int(setting("RETRIES", RETRIES))


@lru_cache(maxsize=32)
def _task(kind: CallKind, retries: int, backoff: float, *, fresh: bool) -> Task[[Request], Any]:
    name, description = _TASKS[kind]
    return task(
        name=name,
        description=description,
        task_run_name=f"{name} {{request.title}}",
        cache_policy=RequestKey(),
        persist_result=True,
        result_serializer="json",
        cache_result_in_memory=False,
        refresh_cache=fresh or None,
        retries=retries,
        retry_delay_seconds=[backoff * 2**n for n in range(max(1, retries))],
        retry_jitter_factor=0.5,
        retry_condition_fn=retry_wanted,
    )(_ask)


async def _ask(request: Request) -> Answer:
    """Make a call once; Prefect calls this again for a retry.

    Args:
        request: The request; plain JSON.

    Returns:
        A complete answer. A refused, empty, truncated or unreadable one is never returned, so it is never stored.

    Raises:
        ModelError: If there is none; Prefect retries it when it is `retryable`.
        ConfigurationError: If the provider is unknown, has no key, or does not answer calls of this kind, or the answer
            could not be stored.
    """
    run = TaskRunContext.get()
    with failing_when_cancelled(request.name):
        try:
            async with until_deadline():
                found = await _prepare(request, run)
                # When Prefect began to look into the store; see `once`.
                began = run.start_time.timestamp() if run is not None else time.time()
                came = delivered.get() is not None
                return await once(
                    found.key, lambda: guarded(request, lambda: attempt(request, found.endpoint), came=came), began
                )
        except ModelError as error:
            if run is not None and error.retryable:
                _check_time_to_retry(request, run, error)
            raise


async def _prepare(request: Request, run: TaskRunContext | None) -> Prepared:
    """Find where the call goes and where its answer is stored, if the cache policy has not found it."""
    transaction = get_transaction()
    if transaction is not None:
        # Store the answer when this task ends, not when the outermost one does: a paid answer survives `kill -9`.
        transaction.commit_mode = CommitMode.EAGER
    found = prepared.get()
    if found is None or found.request != request or transaction is None or transaction.key != found.key:
        # Prefect logs what fails while a key is computed, and continues without a cache.
        endpoint = await endpoint_of(request.provider, request.model)
        found = Prepared(request, endpoint, request_key(request, endpoint.address))
        if run is not None:
            guard(run.result_store, found.key)
            if transaction is not None and isinstance(run.task.cache_policy, RequestKey):
                transaction.key = found.key
    check_kind(found.endpoint, request.kind)
    log = call_log.get()
    if log is not None and run is not None:
        log.stored_at, log.key = path_of(run.result_store, found.key), found.key
    return found


def retry_wanted(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001  # Prefect's form
    """Tell Prefect whether to try again. A plain function, because Prefect ignores partials and callable objects."""
    return isinstance(state.data, ModelError) and is_retried(state.data, task_run.run_count)


def is_retried(error: ModelError, tried: int) -> bool:
    """Tell whether a call that failed, and was tried so often, is worth another try."""
    return error.retryable and (error.max_attempts is None or tried < error.max_attempts)


def _check_time_to_retry(request: Request, run: TaskRunContext, error: ModelError) -> None:
    """Check that the budget does not end before Prefect would try again.

    Raises:
        BudgetError: If it does: the wait would be in vain.
    """
    tried, delays = run.task_run.run_count, run.task.retry_delay_seconds
    if tried > run.task.retries or not is_retried(error, tried) or not isinstance(delays, list):
        return
    backoff = delays[min(tried, len(delays)) - 1] * (1 + (run.task.retry_jitter_factor or 0))
    try:
        check_wait(max(backoff, error.wait_s or 0))
    except BudgetError as late:
        raise BudgetError(f"{late.message}, after {error.message.removeprefix(f'{request.name}: ')}") from None


REMEMBER_S = 10.0
"""How long an answer stays at hand: longer than Prefect takes to store it."""

_lock = Lock()
_under_way: dict[str, "Future[Answer]"] = {}
_ended: dict[str, tuple[float, Answer]] = {}
"""Answers that came lately, the oldest first."""


async def once(key: str, send: Callable[[], Awaitable[Answer]], began: float | None = None) -> Answer:
    """Return what `send` returns; a call with the same key that is under way in this process is waited for instead.

    A failure is shared like an answer. When the first caller is cancelled, or its budget does not cover the call, one of
    those that wait sends.

    Args:
        key: What makes two calls identical.
        send: Sends the call.
        began: When this call looked into the store, in seconds since the epoch. An answer that came in later is
            shared too: Prefect stores it only after the first call has ended, so the store did not have it yet.
    """
    while True:
        with _lock:
            ended = _ended.get(key)
            if began is not None and ended is not None and ended[0] >= began:
                return ended[1]
            shared = _under_way.get(key)
            if shared is None:
                mine: Future[Answer] = Future()
                _under_way[key] = mine
        if shared is None:
            try:
                answer = await send()
            except BaseException as error:
                _forget(key)
                if isinstance(error, Exception):
                    mine.set_exception(error)
                else:
                    mine.cancel()
                raise
            _forget(key, answer)
            mine.set_result(answer)
            return answer
        try:
            return await asyncio.shield(asyncio.wrap_future(shared))
        except BudgetError:
            continue  # the first caller's budget; ours may have more left
        except asyncio.CancelledError:
            me = asyncio.current_task()
            # Only the first caller was cancelled: one of the others must send. Cancelled with it: stop.
            if not shared.cancelled() or (me is not None and me.cancelling()):
                raise


def _forget(key: str, answer: Answer | None = None) -> None:
    now = time.time()
    with _lock:
        _under_way.pop(key, None)
        while _ended and now - _ended[oldest := next(iter(_ended))][0] > REMEMBER_S:
            del _ended[oldest]
        if answer is not None:
            _ended.pop(key, None)  # so that it goes to the end
            _ended[key] = (now, answer)


class Straggler(NamedTuple):
    """Why a panel cancels a call, given to `Task.cancel`: a straggler is a failure, not a crash of Prefect's."""

    reason: str


@contextmanager
def failing_when_cancelled(name: str) -> Iterator[None]:
    """Turn the cancellation of a call by a panel into a failure; Prefect would report it as a crash.

    Args:
        name: The model as `provider/model`.

    Raises:
        ModelError: If a panel cancelled the call. One attempt at most, so that Prefect does not try it again.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or not (error.args and isinstance(error.args[0], Straggler)):
            raise
        task.uncancel()
        message = f"{name}: straggler: {error.args[0].reason}"
        raise ModelError(message, kind="straggler", retryable=True, max_attempts=1) from None


ask: Task[[Request], Any] = ask_task()
"""The task with its defaults, to be called as `await ask(Request(...))`."""
