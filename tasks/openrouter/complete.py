"""The task of a legacy completion: retried, cached and paced like `ask`, but sent to `/completions`."""

import time
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from prefect import task
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.tasks import Task
from prefect.transactions import CommitMode, get_transaction

from tasks.calls.ask import BACKOFF_S, RETRIES, retry_wanted
from tasks.calls.attempt import attempt, setting
from tasks.calls.cache_key import RequestKey, request_key
from tasks.calls.call import Caller
from tasks.calls.cut import failing_when_cut
from tasks.calls.providers import address_of, endpoint_of
from tasks.calls.request import Answer, Request
from tasks.calls.result_folder import guard
from tasks.calls.single_flight import once
from tasks.errors import ConfigurationError
from tasks.record import Response

ENDPOINT = "completions"
"""Keeps the stored answers apart from those of chat completions, which have the same key otherwise."""


async def _complete(request: Request) -> Answer:
    """Send a legacy completion once; Prefect calls this again for a retry.

    Raises:
        ModelError: If no complete answer came back.
        ConfigurationError: If the provider is unknown, has no key, or does not speak OpenAI's formats.
    """
    with failing_when_cut(request.name):
        transaction = get_transaction()
        if transaction is not None:
            transaction.commit_mode = CommitMode.EAGER  # a paid answer survives `kill -9`
        endpoint = await endpoint_of(request.provider, request.model)
        if endpoint.wire != "openai":
            raise ConfigurationError(f"{request.provider} has no legacy completions: only OpenAI-compatible servers do")
        key = request_key(request, endpoint.address)
        run = TaskRunContext.get()
        if run is not None:
            guard(run.result_store, key)
        began = run.start_time.timestamp() if run is not None else time.time()
        return await once(key, lambda: attempt(request, replace(endpoint, wire="openai-completions")), began)


@lru_cache(maxsize=8)
def _task(retries: int, backoff: float, fresh: bool) -> Task[[Request], Any]:
    policy: CachePolicy = RequestKey(address_of=address_of)
    return task(
        name="complete",
        description="Let a model go on with a text; retried, cached and paced.",
        task_run_name="complete {request.title}",
        cache_policy=policy,
        persist_result=True,
        result_serializer="json",
        cache_result_in_memory=False,
        refresh_cache=fresh or None,
        retries=retries,
        retry_delay_seconds=[backoff * 2**n for n in range(max(1, retries))],
        retry_jitter_factor=0.5,
        retry_condition_fn=retry_wanted,
    )(_complete)


def complete_task(*, fresh: bool = False) -> Task[[Request], Any]:
    """Return the task with the retries and the backoff that the environment sets, as `ask_task` does.

    Its requests must have gone through `as_completion`.
    """
    return _task(int(setting("RETRIES", RETRIES)), setting("BACKOFF_S", BACKOFF_S), fresh)


def as_completion(request: Request) -> Request:
    """Return `request` for `/completions`, under a key of its own."""
    versions = (ENDPOINT, request.prompt_version)
    return request.model_copy(update={"prompt_version": "+".join(text for text in versions if text)})


@dataclass(frozen=True)
class Completer(Caller):
    """Makes a flow's calls as legacy completions."""

    @property
    def task(self) -> Task[[Request], Any]:
        """The task that makes the calls."""
        return complete_task(fresh=self.fresh)

    async def __call__(self, request: Request, *, instance: int = 1, member: str | None = None) -> Response:
        """Let a model go on with the text of `request`."""
        return await super().__call__(as_completion(request), instance=instance, member=member)
