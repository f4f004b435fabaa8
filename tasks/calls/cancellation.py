"""Cancels a call that is under way so that its task run says why: a straggler is a failure, not a crash of Prefect's."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from consensus_flows.tasks.errors import ModelError


class Cancellation:
    """Why a panel cancels its stragglers: say it first, then cancel."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def because(self, reason: str) -> None:
        """Let every call that is cancelled from now on fail for `reason`."""
        self.reason = reason


_cancellation: ContextVar[Cancellation | None] = ContextVar("cancellation", default=None)


@contextmanager
def cancellable() -> Iterator[Cancellation]:
    """Let the calls that are started in the block be cancelled with a reason."""
    cancellation = Cancellation()
    token = _cancellation.set(cancellation)
    try:
        yield cancellation
    finally:
        _cancellation.reset(token)


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
    except asyncio.CancelledError:
        cancellation = _cancellation.get()
        if cancellation is None or cancellation.reason is None:
            raise
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        raise ModelError(
            f"{name}: straggler: {cancellation.reason}", kind="straggler", retryable=True, max_attempts=1
        ) from None
