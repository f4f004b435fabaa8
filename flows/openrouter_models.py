"""Which of OpenRouter's free models work: each is tried at both endpoints, spaced out, and what was tried is kept.

In place of the script `tests.working_models` of flare-ai-consensus. Unlike there a limit of the account ends the run
without being taken for a fault of the models, and the next run continues where this one ended.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import acreate_progress_artifact, acreate_table_artifact, aupdate_progress_artifact
from prefect.logging import get_run_logger
from pydantic import BaseModel, Field

from consensus_flows.blocks.free_models import FreeModelsConfig
from consensus_flows.tasks.calls.pace import Pace, pace_of
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.files import place
from consensus_flows.tasks.openrouter import (
    Api,
    Trial,
    Trials,
    free_models,
    list_models,
    openrouter,
    read_trials,
    trials_table,
    try_model,
    write_models,
    write_trials,
)
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.reports.record_files import record_folder
from consensus_flows.tasks.reports.verdict import Verdict, concluded
from consensus_flows.tasks.watch import emit, watched_by

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
    starts = Pace(1, 60 / config.interval if config.interval else None)
    wanted = [str(model["id"]) for model in models]
    todo = trials.untried(wanted, again=config.again)
    result = WorkingModels()
    await emit("started", todo)

    async def start() -> None:
        await pace.released()  # while the server asks to wait, or all would go at once afterwards
        async with starts.turn():
            pass

    async def one(model: str, endpoint: Api) -> None:
        for patience in range(PATIENCE):
            if patience:
                await start()
            if result.stopped:
                return
            trial, limit = await try_model(model, endpoint, config)
            if limit == "account":
                result.stopped = trial.error.message if trial.error else "the account's limit is reached"
                return
            if limit is None or patience == PATIENCE - 1:
                break
            pace.hold(MINUTE_S)
        trials.add(trial)
        result.tried_now += 1
        write_trials(folder, trials, models)
        await emit("tried", trial)

    # Slow answers overlap; only the starts are spaced.
    async with asyncio.TaskGroup() as group:
        for pair in todo:
            await start()
            if result.stopped:
                break
            group.create_task(one(*pair))
    write_trials(folder, trials, models)
    result.chat_completions = [model for model in wanted if model in trials.working("chat_completions")]
    result.completions = [model for model in wanted if model in trials.working("completions")]
    result.trials = [trial for trial in trials.trials if trial.model in wanted]
    result.untried = list(dict.fromkeys(model for model, _ in trials.untried(wanted)))
    return result


class _Progress:
    """Shows in the UI how far the run is."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._todo = self._done = 0

    async def on_event(self, event: str, value: Any) -> None:
        """Bring the bar up to date."""
        if event == "started":
            self._todo = len(value)
            self._bar = await acreate_progress_artifact(0.0, f"{SLUG}-progress", plural(self._todo, "trial"))
        elif event == "tried":
            self._done += 1
            await aupdate_progress_artifact(
                self._bar, round(100 * self._done / self._todo, 1), f"{self._done} of {self._todo} trials"
            )


def _concluded(result: WorkingModels) -> Verdict:
    """Judge a run for its state."""
    works = f"at /chat/completions {plural(len(result.chat_completions), 'model')}, at /completions {len(result.completions)}"
    return Verdict("Degraded", f"{works}; stopped: {result.stopped}") if result.stopped else Verdict("Completed", works)


@flow(name=SLUG, persist_result=True, result_serializer="json", validate_parameters=True)
@concluded(_concluded)
async def openrouter_working_models(config: FreeModelsConfig | None = None) -> WorkingModels:
    """Try OpenRouter's free models at both endpoints, and write those that work as JSON.

    Args:
        config: Which models are tried, how fast, and where the results are kept.

    Raises:
        ConfigurationError: If there is no key, no such model, or the folder cannot be used.
        ModelError: If the list of models cannot be read.
    """
    config = config or FreeModelsConfig()
    folder = record_folder(place(config.output_dir, "output_dir"))
    address = (await openrouter()).address
    trials = Trials(address=address) if config.fresh else read_trials(folder, address)
    models = await list_models()
    free = free_models(models)
    unknown = set(config.models) - {str(model["id"]) for model in free}
    if unknown:
        raise ConfigurationError(f"models: not among OpenRouter's {len(free)} free ones: {', '.join(sorted(unknown))}")
    write_models(folder, models, free)
    with watched_by(_Progress()):
        wanted = [model for model in free if not config.models or model["id"] in config.models]
        result = await try_models(wanted, trials, config, folder)
    await acreate_table_artifact(trials_table(result.trials), f"{SLUG}-trials", "OpenRouter's free models")
    if result.stopped:
        get_run_logger().warning("Stopped: %s", result.stopped)
    return result
