"""The task that every model call goes through: retried, cached and paced."""

import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any

from prefect import task
from prefect.cache_policies import CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.tasks import Task
from prefect.transactions import CommitMode, get_transaction

from consensus_flows.tasks.calls.attempt import attempt, ledger
from consensus_flows.tasks.calls.cut import failing_when_cut
from consensus_flows.tasks.calls.money.budget import check_wait, until_deadline
from consensus_flows.tasks.calls.providers import Endpoint, address_of, endpoint_of
from consensus_flows.tasks.calls.request import Answer, Request
from consensus_flows.tasks.calls.settings import setting
from consensus_flows.tasks.calls.storage.cache_key import RequestKey, request_key
from consensus_flows.tasks.calls.storage.result_folder import guard, place_of
from consensus_flows.tasks.calls.storage.single_flight import once
from consensus_flows.tasks.errors import BudgetError, ModelError

RETRIES = 4
BACKOFF_S = 1.0


def retry_wanted(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001  # Prefect's form
    """Tell Prefect whether to try again. A plain function, because Prefect ignores partials and callable objects."""
    return isinstance(state.data, ModelError) and is_retried(state.data, task_run.run_count)


def is_retried(error: ModelError, tried: int) -> bool:
    """Tell whether a call that failed, and was tried so often, is worth another try."""
    return error.retryable and (error.max_attempts is None or tried < error.max_attempts)


async def _ask(request: Request) -> Answer:
    """Ask a model once more; Prefect calls this again for a retry.

    Args:
        request: The request; plain JSON.

    Returns:
        A complete answer. A refused, empty, truncated or unreadable one is never returned, so it is never stored.

    Raises:
        ModelError: If there is none; Prefect retries it when it is `retryable`.
        ConfigurationError: If the provider is unknown or has no key, or the answer could not be stored.
    """
    return await answered(request)


async def answered(request: Request, route: Callable[[Endpoint], Endpoint] | None = None) -> Answer:
    """Make the call of `request`, once, as the body of a task.

    Args:
        request: The request.
        route: Changes where it goes, or refuses that it goes there.

    Raises:
        ModelError: If no complete answer came back.
        ConfigurationError: If the provider is unknown or has no key, or the answer could not be stored.
    """
    run = TaskRunContext.get()
    with failing_when_cut(request.name):
        try:
            async with until_deadline():
                return await _answered(request, run, route)
        except ModelError as error:
            if run is not None and error.retryable:
                _check_time_to_retry(request, run, error)
            raise


async def _answered(
    request: Request, run: TaskRunContext | None, route: Callable[[Endpoint], Endpoint] | None
) -> Answer:
    _commit_at_once()
    found = await endpoint_of(request.provider, request.model)
    endpoint = route(found) if route else found
    key = request_key(request, endpoint.address)
    transaction = get_transaction()
    if run is not None:
        if transaction is None or transaction.key != key:
            # Looked at again, because Prefect logs what fails while a key is computed and goes on without a cache.
            guard(run.result_store, key)
            if transaction is not None and isinstance(run.task.cache_policy, RequestKey):
                transaction.key = key  # under which the answer is stored
        book = ledger.get()
        if book is not None:
            book.kept_in, book.key = place_of(run.result_store, key), key
    began = run.start_time.timestamp() if run is not None else time.time()
    return await once(key, lambda: attempt(request, endpoint), began)


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


def _commit_at_once() -> None:
    """Store the answer when this task ends, not when the outermost task does: a paid answer survives `kill -9`."""
    transaction = get_transaction()
    if transaction is not None:
        transaction.commit_mode = CommitMode.EAGER


def call_task(
    body: Callable[[Request], Awaitable[Answer]], name: str, description: str, *, fresh: bool = False
) -> Task[[Request], Any]:
    """Return a task that makes a call: stored, with the retries and the backoff that the environment sets.

    `CONSENSUS_RETRIES` (default 4) is how often a call is tried again, `CONSENSUS_BACKOFF_S` (default 1) the first
    wait in seconds, doubled each time.

    Args:
        body: What the task does.
        name: What the task is called.
        description: What the UI says of it.
        fresh: Ask again even where an answer is stored, and replace it.
    """
    retries, backoff = int(setting("RETRIES", RETRIES)), setting("BACKOFF_S", BACKOFF_S)
    return _task(body, name, description, retries=retries, backoff=backoff, fresh=fresh)


@lru_cache(maxsize=32)
def _task(
    body: Callable[[Request], Awaitable[Answer]],
    name: str,
    description: str,
    *,
    retries: int,
    backoff: float,
    fresh: bool,
) -> Task[[Request], Any]:
    policy: CachePolicy = RequestKey(address_of=address_of)
    return task(
        name=name,
        description=description,
        task_run_name=f"{name} {{request.title}}",
        cache_policy=policy,
        persist_result=True,
        result_serializer="json",
        cache_result_in_memory=False,
        refresh_cache=fresh or None,
        retries=retries,
        retry_delay_seconds=[backoff * 2**n for n in range(max(1, retries))],
        retry_jitter_factor=0.5,
        retry_condition_fn=retry_wanted,
    )(body)


def ask_task(*, fresh: bool = False) -> Task[[Request], Any]:
    """Return the task that asks a model.

    Args:
        fresh: Ask again even where an answer is stored, and replace it.
    """
    return call_task(_ask, "ask", "Ask a model; retried, cached and paced.", fresh=fresh)


ask: Task[[Request], Any] = ask_task()
"""The task with its defaults, to be called as `await ask(Request(...))`."""
