"""Ask all members at once, and decide how long to wait for the last ones."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Mapping, Sequence

from consensus_flows.tasks.calls.cancellation import cancellable
from consensus_flows.tasks.calls.redact import redact
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.errors import ErrorKind, QuorumError
from consensus_flows.tasks.record import CallError, Response

Asked = tuple[Request, int, Awaitable[Response]]


async def gather_panel(asked: Sequence[Asked], quorum: int, straggler_grace: float | None) -> list[Response]:
    """Wait for the members' answers, in the order in which they were asked.

    Once `quorum` members have answered, the rest have until `straggler_grace` times the median time that those
    answers took, counted from the start; then they are cut and named as stragglers.

    Args:
        asked: For each member its request, its instance number and the call under way.
        quorum: How many answers are needed.
        straggler_grace: None to wait for all.
    """
    started = time.monotonic()
    with cancellable() as cancellation:
        calls = [asyncio.ensure_future(call) for _, _, call in asked]
    took: dict[asyncio.Future[Response], float] = {}
    pending = set(calls)
    try:
        while pending:
            wait = _patience(took, quorum, straggler_grace, started)
            if wait is not None and wait <= 0:
                cancellation.because(f"cut after {time.monotonic() - started:.1f} s, when the quorum had answered")
                break
            done, pending = await asyncio.wait(pending, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            took |= {call: time.monotonic() - started for call in done}
    finally:
        for call in pending:
            call.cancel()
        if pending:
            await asyncio.wait(pending)
    waited = time.monotonic() - started
    return [
        _outcome(call, request, instance, took.get(call, waited), cancellation.reason)
        for call, (request, instance, _) in zip(calls, asked, strict=True)
    ]


def _patience(
    took: dict["asyncio.Future[Response]", float], quorum: int, grace: float | None, started: float
) -> float | None:
    """Seconds that are left for those that have not answered, or None for as long as it takes."""
    if grace is None:
        return None
    times = [time_of for call, seconds in took.items() if (time_of := _time_of(call, seconds)) is not None]
    if len(times) < quorum:
        return None
    return started + grace * statistics.median(times) - time.monotonic()


def _time_of(call: "asyncio.Future[Response]", seconds: float) -> float | None:
    """How long an answer took: with its retries, but one from the store as long as it took when it was made."""
    if call.cancelled() or call.exception() is not None or not call.result().answered:
        return None
    response = call.result()
    return max(seconds, response.latency_s) if response.cached else seconds


def _outcome(
    call: "asyncio.Future[Response]", request: Request, instance: int, waited: float, cut: str | None
) -> Response:
    """The entry of one member in the record; whatever ended its call is data, and never ends the panel's run."""
    if call.cancelled():  # between two attempts: a request under way would have made a response of its own
        return _failed(request, instance, waited, "straggler", cut or "cancelled")
    error = call.exception()
    if error is not None and not isinstance(error, Exception):
        raise error  # SIGTERM has landed in this call, and is meant for the run
    if error is not None:
        return _failed(request, instance, waited, "unknown", redact(f"{type(error).__name__}: {error}"))
    return call.result()


def _failed(request: Request, instance: int, waited: float, kind: ErrorKind, cause: str) -> Response:
    return Response(
        member=f"{request.name}#{instance}",
        provider=request.provider,
        model=request.model,
        instance=instance,
        latency_s=round(waited, 4),
        attempts=1,
        possibly_billed=0 if kind == "straggler" else 1,
        error=CallError(kind=kind, message=f"{request.name}: {kind}: {cause}", retryable=kind == "straggler"),
    )


def check_quorum(responses: Sequence[Response], quorum: int, unheard: Mapping[str, CallError] | None = None) -> None:
    """Check that enough members answered.

    Args:
        responses: What the members answered.
        quorum: How many of them have to.
        unheard: Members that have answered, but could not be heard, with the cause; they do not count.

    Raises:
        QuorumError: If not; it lists every missing member's cause.
    """
    unheard = unheard or {}
    answered = sum(response.answered and response.member not in unheard for response in responses)
    if answered >= quorum:
        return
    failed = [(one.member, one.error or unheard.get(one.member)) for one in responses]
    causes = "; ".join(f"{member}: {error.message}" for member, error in failed if error is not None)
    did = "could be heard" if unheard else "answered"
    raise QuorumError(f"{answered} of {len(responses)} members {did}, and the quorum is {quorum}. {causes}")
