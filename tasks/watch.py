"""Who looks on while a run goes: the artifacts in the UI, the live view in a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from prefect.logging import get_logger


@runtime_checkable
class Watcher(Protocol):
    """Is notified of what happens: `event` is `started`, `answered`, `called`, `wrote`, `iterated`, `ended`, `recorded`, `refused` or `done`, `value` what it is about.

    A call that a panel makes in the place of a member is `answered_within`.
    """

    async def on_event(self, event: str, value: Any) -> None:
        """Take note of an event. The run waits for it meanwhile."""


@dataclass(frozen=True)
class Piece:
    """A piece of the run's answer, which comes with the event `wrote` while the final model writes.

    The pieces in order are the answer, or its beginning: the record's `answer` is what counts in the end.

    Attributes:
        text: The text; never empty.
        member: Who writes it.
        start: Where in the answer it begins, in characters. Where that is not the length of what came before, all that came
            before is withdrawn: the call broke and was made again, or another model took over.
    """

    text: str
    member: str
    start: int = 0


_watchers: ContextVar[tuple[Watcher, ...]] = ContextVar("watchers", default=())


_calls_only: ContextVar[bool] = ContextVar("calls_only", default=False)
_CALLS = {"answered", "called", "notice"}
_pieces: ContextVar[bool] = ContextVar("pieces", default=False)


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
def watched_by(*watchers: Watcher, pieces: bool = False) -> Iterator[None]:
    """Let `watchers` look on in the block, beside those that do already.

    Args:
        watchers: Who looks on.
        pieces: Whether one of them reads the answer while it is written: only then the final model's text is streamed.
    """
    token, reading = _watchers.set((*_watchers.get(), *watchers)), _pieces.set(pieces or _pieces.get())
    try:
        yield
    finally:
        _pieces.reset(reading)
        _watchers.reset(token)


def reads_pieces() -> bool:
    """Tell whether a watcher reads the answer of this run while it is written."""
    return _pieces.get() and not _calls_only.get()


@contextmanager
def calls_only() -> Iterator[None]:
    """Let watchers see of a run within another one only its calls: it is a part of that one."""
    token = _calls_only.set(True)
    try:
        yield
    finally:
        _calls_only.reset(token)


class _Around:
    """Lets a watcher of a run see of the run of a panel in it only what concerns the whole."""

    def __init__(self, watcher: Watcher, *, pieces: bool) -> None:
        self._watcher = watcher
        self._events = {"answered": "answered_within", "answered_within": "answered_within", "notice": "notice"}
        if pieces:
            self._events["wrote"] = "wrote"

    async def on_event(self, event: str, value: Any) -> None:
        """Pass on an event, if it is one for the run around."""
        if event in self._events:
            await self._watcher.on_event(self._events[event], value)


@contextmanager
def within_panel(*watchers: Watcher, pieces: bool) -> Iterator[None]:
    """Let `watchers` look on at a panel's run in the block; those of the run around it see its calls, as `answered_within`.

    Args:
        watchers: Who looks on.
        pieces: Whether the panel's answer is that of the run around it, so that it is read while it is written.
    """
    pieces = pieces and reads_pieces()
    around = tuple(_Around(watcher, pieces=pieces) for watcher in _watchers.get())
    token, reading = _watchers.set((*around, *watchers)), _pieces.set(pieces)
    try:
        yield
    finally:
        _pieces.reset(reading)
        _watchers.reset(token)
