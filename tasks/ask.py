"""The task that every model call goes through: retried, cached and paced."""

import asyncio
import os
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from prefect import task
from prefect.cache_policies import CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task
from prefect.transactions import CommitMode, get_transaction

from blocks.credentials import Wire
from tasks.adapters import Adapter, Reply, adapter_of
from tasks.adapters.repair import Repairs
from tasks.budget import current_purse
from tasks.cache_key import RequestKey, request_key
from tasks.clients import client_of
from tasks.errors import ConfigurationError, ModelError
from tasks.failures import Verdict, classify, fault_of, judge_answer
from tasks.pacing import pace_of
from tasks.pricing import price
from tasks.providers import Endpoint, address_of, endpoint_of
from tasks.readers import UnreadableError, check_readable
from tasks.request import Answer, Request, Usage
from tasks.scrub import scrub
from tasks.single_flight import once

RETRIES = 4
BACKOFF_S = 1.0
RETRY_AFTER_CAP_S = 120.0


@dataclass
class Attempt:
    """One request that was sent, with what it used; None where the vendor did not say."""

    usage: Usage | None
    cost_usd: float | None
    answered: bool
    maybe_billed: bool
    """The response was lost on the way, and the vendor may have billed it."""


@dataclass
class Ledger:
    """The requests that were sent for one call, failed ones included."""

    attempts: list[Attempt] = field(default_factory=list)


ledger: ContextVar[Ledger | None] = ContextVar("ledger", default=None)
_repairs: dict[tuple[str, str], Repairs] = {}
_adapters: dict[Wire, Adapter] = {}


def retry_wanted(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Tell Prefect whether to try again. A plain function, because Prefect ignores partials and callable objects."""
    error = state.data
    if not isinstance(error, ModelError) or not error.retryable:
        return False
    return error.max_attempts is None or task_run.run_count < error.max_attempts


async def _ask(request: Request) -> Answer:
    """Ask a model once more; Prefect calls this again for a retry.

    Args:
        request: The request; plain JSON.

    Returns:
        A complete answer. A refused, empty, truncated or unreadable one is never returned, so it is never stored.

    Raises:
        ModelError: If there is none; Prefect retries it when it is `retryable`.
        ConfigurationError: If the provider is unknown or has no key.
    """
    _commit_at_once()
    endpoint = await endpoint_of(request.provider, request.model)
    return await once(request_key(request, endpoint.address), lambda: _attempt(request, endpoint))


def _commit_at_once() -> None:
    """Store the answer when this task ends, not when the outermost task does: a paid answer survives `kill -9`."""
    transaction = get_transaction()
    if transaction is not None:
        transaction.commit_mode = CommitMode.EAGER


async def _attempt(request: Request, endpoint: Endpoint) -> Answer:
    pace = pace_of(endpoint)
    async with pace.turn():
        purse = current_purse()
        reservation = await purse.reserve(request, endpoint) if purse else None
        started = time.monotonic()
        reply = await _send(request, endpoint)
        latency = time.monotonic() - started
        cost = await _cost(reply, endpoint, request.model)
        usage = reply.usage if reply.usage or not _refused(reply) else Usage()
        if purse and reservation:
            purse.settle(reservation, usage, cost)
    verdict = classify(reply.fault) if reply.fault else judge_answer(reply.text, reply.finish)
    detail = reply.fault.message if reply.fault else reply.detail
    if verdict is None and request.reader:
        try:
            check_readable(request.reader, reply.text or "", request.response_schema)
        except UnreadableError as error:
            verdict, detail = Verdict("malformed"), error.message
    _book(reply, cost, answered=verdict is None)
    if verdict is not None:
        raise _error(request, endpoint, verdict, reply, detail)
    return Answer(
        text=reply.text or "",
        finish_reason=reply.finish,
        model_served=reply.model,
        usage=reply.usage or Usage(),
        cost_usd=cost,
        latency_s=round(latency, 4),
        warnings=(
            *_repairs_of(request, endpoint).notes(request),
            *(() if reply.usage else (f"{request.name} reported no token usage",)),
        ),
    )


async def _send(request: Request, endpoint: Endpoint) -> Reply:
    """Send the request; a parameter that the vendor refuses is left out, once each, and remembered for the model."""
    adapter = await _adapter(endpoint)
    repairs = _repairs_of(request, endpoint)
    client = await client_of(endpoint, request.model)
    while True:
        body = adapter.body(request, repairs)
        try:
            # The client's own timeout counts from byte to byte: a server that trickles would never reach it.
            async with asyncio.timeout(request.timeout + 1):
                return adapter.read(await adapter.post(client, body, request.timeout))
        except Exception as error:  # every SDK has its own; `classify` says what it means
            fault = fault_of(error)
        if not repairs.learn(fault, _parameters(body)):
            return Reply(fault=fault)


async def _adapter(endpoint: Endpoint) -> Adapter:
    # Importing an SDK takes one to two seconds: in a thread, so that the calls of other vendors go on.
    return _adapters.get(endpoint.wire) or _adapters.setdefault(
        endpoint.wire, await asyncio.to_thread(adapter_of, endpoint.wire)
    )


def _repairs_of(request: Request, endpoint: Endpoint) -> Repairs:
    return _repairs.setdefault((endpoint.address, request.model), Repairs())


def _parameters(body: dict[str, Any]) -> set[str]:
    nested = [body.get("extra_body"), body.get("output_config")]
    return {*body, *(name for part in nested if isinstance(part, dict) for name in part)} - {"model", "messages"}


async def _cost(reply: Reply, endpoint: Endpoint, model: str) -> float | None:
    if reply.cost_usd is not None or reply.usage is None:
        return 0.0 if _refused(reply) else reply.cost_usd
    return await price(endpoint, model, reply.usage)


def _refused(reply: Reply) -> bool:
    """Tell whether the vendor answered with an error, for which nobody bills."""
    return reply.fault is not None and (reply.fault.status or 0) >= 400


def _book(reply: Reply, cost: float | None, *, answered: bool) -> None:
    book = ledger.get()
    if book is not None:
        lost = reply.fault is not None and not _refused(reply)
        book.attempts.append(Attempt(reply.usage, cost, answered=answered, maybe_billed=lost))


def _error(request: Request, endpoint: Endpoint, verdict: Verdict, reply: Reply, detail: str) -> ModelError:
    status = reply.fault.status if reply.fault else None
    retry, wait = verdict.retry, verdict.wait_s
    cap = _setting("RETRY_AFTER_CAP_S", RETRY_AFTER_CAP_S)
    note = ""
    if retry and wait is not None:
        if wait > cap:
            retry, note = False, f" (asks to wait {wait:.0f} s, more than the {cap:.0f} s that are waited at most)"
        else:
            pace_of(endpoint).hold(wait)
    where = f"HTTP {status}: " if status else ""
    message = scrub(f"{request.name}: {verdict.kind}: {where}{detail}", endpoint.secrets) + note
    return ModelError(
        message,
        kind=verdict.kind,
        retryable=retry,
        wait_s=wait,
        max_attempts=verdict.max_attempts,
        status=status,
        text=reply.text,
    )


def _setting(name: str, default: float) -> float:
    value = os.environ.get(f"CONSENSUS_{name}")
    if not value:
        return default
    try:
        return float(value)
    except ValueError:
        raise ConfigurationError(f"CONSENSUS_{name} is {value!r}: write a number") from None


@lru_cache(maxsize=32)
def _task(retries: int, backoff: float, fresh: bool) -> Task[[Request], Any]:
    policy: CachePolicy = RequestKey(address_of=address_of)
    return task(
        name="ask",
        description="Ask a model; retried, cached and paced.",
        task_run_name="ask {request.title}",
        cache_policy=policy,
        persist_result=True,
        result_serializer="json",
        cache_result_in_memory=False,
        refresh_cache=fresh or None,
        retries=retries,
        retry_delay_seconds=[backoff * 2**n for n in range(max(1, retries))],
        retry_jitter_factor=0.5,
        retry_condition_fn=retry_wanted,
    )(_ask)


def ask_task(*, fresh: bool = False) -> Task[[Request], Any]:
    """Return the task with the retries and the backoff that the environment sets.

    `CONSENSUS_RETRIES` (default 4) is how often a call is tried again, `CONSENSUS_BACKOFF_S` (default 1) the first
    wait in seconds, doubled each time.

    Args:
        fresh: Ask again even where an answer is stored, and replace it.
    """
    return _task(int(_setting("RETRIES", RETRIES)), _setting("BACKOFF_S", BACKOFF_S), fresh)


ask: Task[[Request], Any] = ask_task()
"""The task with its defaults, to be called as `await ask(Request(...))`."""
