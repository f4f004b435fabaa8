"""Ends a call that is under way so that its task run says why: a cut straggler is a failure, not a crash of Prefect's."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from consensus_flows.tasks.errors import ModelError


class Scissors:
    """What a panel cuts its stragglers with: say why, then cancel."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def cut(self, reason: str) -> None:
        """Let every call that is cancelled from now on fail for `reason`."""
        self.reason = reason


_scissors: ContextVar[Scissors | None] = ContextVar("scissors", default=None)


@contextmanager
def cuttable() -> Iterator[Scissors]:
    """Give the calls that are started in the block to the scissors it yields."""
    scissors = Scissors()
    token = _scissors.set(scissors)
    try:
        yield scissors
    finally:
        _scissors.reset(token)


@contextmanager
def failing_when_cut(name: str) -> Iterator[None]:
    """Turn the cancellation of a call that a panel has cut into a failure; Prefect would report it as a crash.

    Args:
        name: The model as `provider/model`.

    Raises:
        ModelError: If the call was cut. One attempt at most, so that Prefect does not try it again.
    """
    try:
        yield
    except asyncio.CancelledError:
        scissors = _scissors.get()
        if scissors is None or scissors.reason is None:
            raise
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        raise ModelError(
            f"{name}: straggler: {scissors.reason}", kind="straggler", retryable=True, max_attempts=1
        ) from None
