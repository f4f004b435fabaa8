"""Which of OpenRouter's free models work: each is tried at both endpoints, spaced out, and what was tried is kept.

In place of the script `tests.working_models` of flare-ai-consensus. Unlike there a limit of the account ends the run
without being taken for a fault of the models, and the next run goes on where this one ended.
"""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from prefect import flow
from prefect.artifacts import acreate_progress_artifact, acreate_table_artifact, aupdate_progress_artifact
from pydantic import BaseModel, Field

from blocks.free_models import FreeModelsConfig
from blocks.sampling import Sampling
from tasks.ask import ask_task
from tasks.complete import as_completion, complete_task
from tasks.errors import ConfigurationError, ModelError
from tasks.openrouter import PROVIDER, free_models, list_models, openrouter
from tasks.pacing import Pace, pace_of
from tasks.record import CallError
from tasks.record_files import record_folder
from tasks.report import cell
from tasks.request import Answer, Message, Request
from tasks.scrub import scrub
from tasks.trials import Endpoint, Trial, Trials, read_trials, write_models, write_trials
from tasks.watch import tell

MINUTE_S = 60.0
"""How long nothing is sent after OpenRouter has said that its limit of requests a minute is reached."""
PATIENCE = 3
"""How often one trial is put off by that limit before it counts as failed."""
SLUG = "openrouter-working-models"


class WorkingModels(BaseModel):
    """What came of the run."""

    chat_completions: list[str] = Field(default_factory=list)
    """Models that answer at /chat/completions."""
    completions: list[str] = Field(default_factory=list)
    """Models that answer at /completions."""
    trials: list[Trial] = Field(default_factory=list)
    """Every trial that counts, those of earlier runs included."""
    tried_now: int = 0
    untried: list[str] = Field(default_factory=list)
    """Models that were not tried at one endpoint at least, because the account's limit was reached."""
    stopped: str | None = None
    """Why the run ended early."""


class _Gate:
    """Lets one request start after another, `interval` seconds apart, and none while the server asks to wait."""

    def __init__(self, interval: float, pace: Pace) -> None:
        self._interval, self._pace = interval, pace
        self._next = 0.0
        self._lock = asyncio.Lock()

    async def turn(self) -> None:
        async with self._lock:
            while (wait := max(self._pace.held_s, self._next - time.monotonic())) > 0:
                await asyncio.sleep(wait)
            self._next = time.monotonic() + self._interval


async def try_models(
    models: Sequence[dict[str, Any]], trials: Trials, config: FreeModelsConfig, folder: Path
) -> WorkingModels:
    """Try what was not tried of `models`, and keep every result in `folder` as soon as it is there.

    Args:
        models: Free models, as OpenRouter describes them.
        trials: What was tried before; added to.
        config: How fast, and what is asked.
        folder: Where the files are.
    """
    pace = pace_of(await openrouter())
    gate, wanted = _Gate(config.interval, pace), [str(model["id"]) for model in models]
    todo = trials.untried(wanted, again=config.again)
    result = WorkingModels()
    await tell("started", todo)

    async def one(model: str, endpoint: Endpoint) -> None:
        for patience in range(PATIENCE):
            if patience:
                await gate.turn()
            if result.stopped:
                return
            trial, limit = await _try(model, endpoint, config)
            if limit == "account":
                result.stopped = trial.error.message if trial.error else "the account's limit is reached"
                return
            if limit is None or patience == PATIENCE - 1:
                break
            pace.hold(MINUTE_S)
        trials.add(trial)
        result.tried_now += 1
        write_trials(folder, trials, models)
        await tell("tried", trial)

    # Slow answers overlap; only the starts are spaced.
    async with asyncio.TaskGroup() as group:
        for pair in todo:
            await gate.turn()
            if result.stopped:
                break
            group.create_task(one(*pair))
    write_trials(folder, trials, models)
    result.chat_completions = [model for model in wanted if model in trials.working("chat_completions")]
    result.completions = [model for model in wanted if model in trials.working("completions")]
    result.trials = [trial for trial in trials.trials if trial.model in wanted]
    result.untried = list(dict.fromkeys(model for model, _ in trials.untried(wanted)))
    return result


async def _try(model: str, endpoint: Endpoint, config: FreeModelsConfig) -> tuple[Trial, Literal["minute", "account"] | None]:
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
    state: Any = await task.with_options(retries=0)(request, return_state=True)  # type: ignore[misc]  # as in tasks.call
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


def limit_of(error: ModelError) -> Literal["minute", "account"] | None:
    """Return which limit of the account `error` speaks of: of a minute, of the day or of money; None if of neither."""
    if error.status == 401 or error.kind == "quota" or "free-models-per-day" in error.message:
        return "account"
    return "minute" if "free-models-per-min" in error.message else None


class _Progress:
    """Shows in the UI how far the run is."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._todo = self._done = 0

    async def told(self, event: str, value: Any) -> None:
        """Bring the bar up to date."""
        if event == "started":
            self._todo = len(value)
            self._bar = await acreate_progress_artifact(0.0, f"{SLUG}-progress", f"{self._todo} trials")
        elif event == "tried":
            self._done += 1
            await aupdate_progress_artifact(
                self._bar, round(100 * self._done / self._todo, 1), f"{self._done} of {self._todo} trials"
            )


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
