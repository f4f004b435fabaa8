"""Try one of OpenRouter's models at one endpoint: one request, and what came of it."""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, cast

from prefect.client.schemas.objects import State

from consensus_flows.blocks.free_models import FreeModelsConfig
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.tasks.calls.ask import ask_task
from consensus_flows.tasks.calls.pace.pacing import Pace
from consensus_flows.tasks.calls.request import Answer, Message, Request
from consensus_flows.tasks.calls.scrub import scrub
from consensus_flows.tasks.errors import ModelError
from consensus_flows.tasks.openrouter.account import PROVIDER
from consensus_flows.tasks.openrouter.complete import as_completion, complete_task
from consensus_flows.tasks.openrouter.trials import Endpoint, Trial
from consensus_flows.tasks.record import CallError
from consensus_flows.tasks.reports.report import cell

Limit = Literal["minute", "account"]


class Gate:
    """Lets one request start after another, `interval` seconds apart, and none while the server asks to wait."""

    def __init__(self, interval: float, pace: Pace) -> None:
        self._interval, self._pace = interval, pace
        self._next = 0.0
        self._lock = asyncio.Lock()

    async def turn(self) -> None:
        """Wait for the time to start."""
        async with self._lock:
            while (wait := max(self._pace.held_s, self._next - time.monotonic())) > 0:  # noqa: ASYNC110  # as in Pace
                await asyncio.sleep(wait)
            self._next = time.monotonic() + self._interval


async def try_model(model: str, endpoint: Endpoint, config: FreeModelsConfig) -> tuple[Trial, Limit | None]:
    """Send one request, and say which limit of the account's is in its way, if one is."""
    request = Request(
        provider=PROVIDER,
        model=model,
        messages=(Message(role="user", content=config.prompt),),
        sampling=Sampling(max_output_tokens=config.max_output_tokens),
        label=f"{model} · {endpoint}",
        timeout=config.timeout,
    )
    # Always asked anew: a stored answer says nothing about today. Once, because each try counts against the limit.
    task = ask_task(fresh=True) if endpoint == "chat_completions" else complete_task(fresh=True)
    request = request if endpoint == "chat_completions" else as_completion(request)
    began = time.monotonic()
    # Prefect's types say that an asynchronous task returns its state at once; it returns a coroutine.
    state = await cast("Awaitable[State[Any]]", task.with_options(retries=0)(request, return_state=True))
    found = await state.aresult(raise_on_failure=False)
    trial = Trial(
        model=model,
        endpoint=endpoint,
        works=isinstance(found, Answer),
        latency_s=round(time.monotonic() - began, 4),
        tried_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if isinstance(found, ModelError):
        trial.works = found.kind == "truncated"  # it was at work when the limit of this trial cut it off
        trial.error = CallError(kind=found.kind, message=found.message, retryable=found.retryable)
        return trial, None if trial.works else limit_of(found)
    if not trial.works:
        trial.error = CallError(kind="unknown", message=scrub(f"{type(found).__name__}: {found}"))
    return trial, None


def limit_of(error: ModelError) -> Limit | None:
    """Return which limit of the account `error` speaks of: of a minute, of the day or of money; None if of neither."""
    if error.status == 401 or error.kind == "quota" or "free-models-per-day" in error.message:
        return "account"
    return "minute" if "free-models-per-min" in error.message else None


def trials_table(trials: Sequence[Trial]) -> list[dict[str, str]]:
    """List the trials for a person, one row each."""
    return [
        {
            "model": cell(trial.model),
            "endpoint": trial.endpoint,
            "works": "yes" if trial.works else "no",
            "s": f"{trial.latency_s:.1f}",
            "error": cell(trial.error.message) if trial.error else "",
        }
        for trial in trials
    ]
