"""Identical calls under way at once are sent once: the others wait for the first one's answer."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from threading import Lock

from tasks.request import Answer

_lock = Lock()
_under_way: dict[str, "Future[Answer]"] = {}


async def once(key: str, send: Callable[[], Awaitable[Answer]]) -> Answer:
    """Return what `send` returns; a call with the same key that is under way in this process is waited for instead.

    A failure is shared like an answer. When the first caller is cancelled, one of those that wait sends.
    """
    while True:
        with _lock:
            shared = _under_way.get(key)
            if shared is None:
                mine: Future[Answer] = Future()
                _under_way[key] = mine
        if shared is None:
            return await _lead(key, mine, send)
        try:
            return await asyncio.shield(asyncio.wrap_future(shared))
        except asyncio.CancelledError:
            if not shared.cancelled():
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
    _forget(key)
    future.set_result(answer)
    return answer


def _forget(key: str) -> None:
    with _lock:
        _under_way.pop(key, None)
