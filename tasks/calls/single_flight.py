"""Identical calls under way at once are sent once: the others wait for the first one's answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from threading import Lock

from consensus_flows.tasks.calls.request import Answer
from consensus_flows.tasks.errors import BudgetError

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
            return await _lead(key, mine, send)
        try:
            return await asyncio.shield(asyncio.wrap_future(shared))
        except BudgetError:
            continue  # the first caller's budget; ours may have more left
        except asyncio.CancelledError:
            me = asyncio.current_task()
            # Only the first caller was cancelled: one of the others must send. Cancelled with it: stop.
            if not shared.cancelled() or (me is not None and me.cancelling()):
                raise


async def _lead(key: str, future: "Future[Answer]", send: Callable[[], Awaitable[Answer]]) -> Answer:
    try:
        answer = await send()
    except BaseException as error:
        _forget(key)
        if isinstance(error, Exception):
            future.set_exception(error)
        else:
            future.cancel()
        raise
    _forget(key, answer)
    future.set_result(answer)
    return answer


def _forget(key: str, answer: Answer | None = None) -> None:
    now = time.time()
    with _lock:
        _under_way.pop(key, None)
        while _ended and now - _ended[oldest := next(iter(_ended))][0] > REMEMBER_S:
            del _ended[oldest]
        if answer is not None:
            _ended.pop(key, None)  # so that it goes to the end
            _ended[key] = (now, answer)
