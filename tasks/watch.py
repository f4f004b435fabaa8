"""Who looks on while a run goes: the artifacts in the UI, the live view in a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, runtime_checkable

from prefect.logging import get_logger


@runtime_checkable
class Watcher(Protocol):
    """Is notified of what happens: `event` is `started`, `answered`, `called`, `iterated`, `ended`, `recorded`, `refused` or `done`, `value` what it is about."""

    async def on_event(self, event: str, value: Any) -> None:
        """Take note of an event."""


_watchers: ContextVar[tuple[Watcher, ...]] = ContextVar("watchers", default=())


_calls_only: ContextVar[bool] = ContextVar("calls_only", default=False)
_CALLS = {"answered", "called", "notice"}


async def emit(event: str, value: Any) -> None:
    """Notify every watcher of an event. One that fails is logged: a run that is paid for does not end because a view broke."""
    if _calls_only.get() and event not in _CALLS:
        return
    for watcher in _watchers.get():
        try:
            await watcher.on_event(event, value)
        except Exception as error:
            get_logger("consensus").warning("%s could not show %s: %r", type(watcher).__name__, event, error)


@contextmanager
def watched_by(*watchers: Watcher) -> Iterator[None]:
    """Let `watchers` look on in the block, beside those that do already."""
    token = _watchers.set((*_watchers.get(), *watchers))
    try:
        yield
    finally:
        _watchers.reset(token)


@contextmanager
def calls_only() -> Iterator[None]:
    """Let watchers see of a run within another one only its calls: it is a part of that one."""
    token = _calls_only.set(True)
    try:
        yield
    finally:
        _calls_only.reset(token)
