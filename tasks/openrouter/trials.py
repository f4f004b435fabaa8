"""Which of OpenRouter's models were tried at which endpoint, and with what result; kept in a file after every trial."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from consensus_flows.tasks.atomic_write import atomic_write
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.record import CallError

Endpoint = Literal["chat_completions", "completions"]
ENDPOINTS: tuple[Endpoint, ...] = ("chat_completions", "completions")
TRIED = "tried_models.json"
FILES: dict[Endpoint, str] = {
    "chat_completions": "free_working_chat_completion_models.json",
    "completions": "free_working_completion_models.json",
}
"""The files of the models that work; the names and the shape are those of flare-ai-consensus."""
_anything: TypeAdapter[Any] = TypeAdapter(Any)


class Trial(BaseModel):
    """One model, tried at one endpoint."""

    model: str
    endpoint: Endpoint
    works: bool
    error: CallError | None = None
    latency_s: float = 0.0
    tried_at: str = ""
    """When, as an ISO 8601 time in UTC."""


class Trials(BaseModel):
    """What was tried at one address."""

    address: str
    trials: list[Trial] = Field(default_factory=list)

    def add(self, trial: Trial) -> None:
        """Note a trial in place of an earlier one of the same model and endpoint."""
        self.trials = [one for one in self.trials if (one.model, one.endpoint) != (trial.model, trial.endpoint)]
        self.trials.append(trial)

    def untried(self, models: Sequence[str], *, again: bool = False) -> list[tuple[str, Endpoint]]:
        """List what is to be tried of `models`, model by model.

        Args:
            models: The models that are wanted.
            again: Count a failure that may have passed as not tried.
        """
        done = {
            (one.model, one.endpoint)
            for one in self.trials
            if not (again and one.error is not None and one.error.retryable)
        }
        return [(model, at) for model in models for at in ENDPOINTS if (model, at) not in done]

    def working(self, endpoint: Endpoint) -> set[str]:
        """Return the models that work at `endpoint`."""
        return {one.model for one in self.trials if one.endpoint == endpoint and one.works}


def read_trials(folder: Path, address: str) -> Trials:
    """Read what was tried at `address`; trials at another address are not of this account.

    Raises:
        ConfigurationError: If the file is there and cannot be read.
    """
    path = folder / TRIED
    try:
        trials = Trials.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Trials(address=address)
    except (OSError, ValidationError) as error:
        raise ConfigurationError(
            f"{path} cannot be read ({type(error).__name__}): move it away, or use --fresh"
        ) from None
    return trials if trials.address == address else Trials(address=address)


def write_trials(folder: Path, trials: Trials, models: Iterable[dict[str, Any]]) -> None:
    """Write what was tried, and for each endpoint the models that work, as OpenRouter describes them."""
    described = list(models)
    for endpoint, name in FILES.items():
        working = trials.working(endpoint)
        write_json(folder / name, {"data": [model for model in described if model["id"] in working]})
    write_json(folder / TRIED, trials.model_dump(mode="json"))


def write_models(folder: Path, models: Sequence[dict[str, Any]], free: Sequence[dict[str, Any]]) -> None:
    """Write all models and the free ones."""
    write_json(folder / "models.json", {"data": list(models)})
    write_json(folder / "free_models.json", {"data": list(free)})


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON; the file is never seen half-written."""
    with atomic_write(path) as file:
        file.write_bytes(_anything.dump_json(value, indent=2) + b"\n")
