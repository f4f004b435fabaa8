"""Ask all members at once, and decide how long to wait for the last ones."""

import asyncio
import statistics
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from tasks.errors import QuorumError
from tasks.record import CallError, Response
from tasks.request import Request


async def gather_panel(
    asked: Sequence[tuple[Request, int, Coroutine[Any, Any, Response]]],
    quorum: int,
    straggler_grace: float | None,
) -> list[Response]:
    """Wait for the members' answers, in the order in which they were asked.

    Once `quorum` members have answered, the rest have until `straggler_grace` times the median latency of those
    answers, counted from the start; then they are cut and named as stragglers.

    Args:
        asked: For each member its request, its instance number and the call under way.
        quorum: How many answers are needed.
        straggler_grace: None to wait for all.
    """
    started = time.monotonic()
    calls = [asyncio.ensure_future(call) for _, _, call in asked]
    pending = set(calls)
    try:
        while pending:
            wait = _patience(calls, quorum, straggler_grace, started)
            if wait is not None and wait <= 0:
                break
            _, pending = await asyncio.wait(pending, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for call in pending:
            call.cancel()
        if pending:
            await asyncio.wait(pending)
    waited = time.monotonic() - started
    return [
        _straggler(request, instance, waited) if call in pending and _was_cut(call) else call.result()
        for call, (request, instance, _) in zip(calls, asked, strict=True)
    ]


def _patience(
    calls: Sequence["asyncio.Future[Response]"], quorum: int, grace: float | None, started: float
) -> float | None:
    if grace is None:
        return None
    done = [call.result() for call in calls if call.done()]
    latencies = [response.latency_s for response in done if response.answered]
    if len(latencies) < quorum:
        return None
    return started + grace * statistics.median(latencies) - time.monotonic()


def _was_cut(call: "asyncio.Future[Response]") -> bool:
    return call.cancelled() or call.exception() is not None


def _straggler(request: Request, instance: int, waited: float) -> Response:
    message = f"{request.name}: straggler: cut after {waited:.1f} s, when the quorum had answered"
    return Response(
        member=f"{request.name}#{instance}",
        provider=request.provider,
        model=request.model,
        instance=instance,
        latency_s=round(waited, 4),
        attempts=1,
        possibly_billed=1,
        error=CallError(kind="straggler", message=message, retryable=True),
    )


def check_quorum(responses: Sequence[Response], quorum: int) -> None:
    """Check that enough members answered.

    Raises:
        QuorumError: If not; it lists every failed member's cause.
    """
    answered = sum(response.answered for response in responses)
    if answered >= quorum:
        return
    causes = "; ".join(f"{r.member}: {r.error.message}" for r in responses if r.error is not None)
    raise QuorumError(f"{answered} of {len(responses)} members answered, and the quorum is {quorum}. {causes}")
