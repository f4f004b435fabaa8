"""OpenRouter's own: what the account has left, which models there are and are free, and which of these work.

What was tried is kept in a file after every trial.
"""

import asyncio
import time
from collections.abc import Awaitable, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal, cast

from prefect.client.schemas.objects import State
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from consensus_flows.blocks.free_models import FreeModelsConfig
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.tasks.calls.ask import ask_task
from consensus_flows.tasks.calls.attempt import RETRY_AFTER_CAP_S
from consensus_flows.tasks.calls.pace import pace_of
from consensus_flows.tasks.calls.providers import BACKOFF_S, Endpoint, client_of, endpoint_of, setting
from consensus_flows.tasks.calls.redact import redact
from consensus_flows.tasks.calls.request import Answer, Message, Request
from consensus_flows.tasks.calls.vendors.openai import VENDOR, fault_in_body
from consensus_flows.tasks.calls.vendors.vendor import malformed
from consensus_flows.tasks.errors import ConfigurationError, ModelError
from consensus_flows.tasks.files import atomic_write
from consensus_flows.tasks.record import CallError
from consensus_flows.tasks.reports.markdown import cell

PROVIDER = "openrouter"
TIMEOUT_S = 30.0
RETRIES = 2
"""How often a look-up that may succeed later is tried again."""
Api = Literal["chat_completions", "completions"]
ENDPOINTS: tuple[Api, ...] = ("chat_completions", "completions")
TRIED = "tried_models.json"
FILES: dict[Api, str] = {
    "chat_completions": "free_working_chat_completion_models.json",
    "completions": "free_working_completion_models.json",
}
"""The files of the models that work; the names and the shape are those of flare-ai-consensus."""
Limit = Literal["minute", "account"]
_ABOUT_THE_KEY = frozenset({"label", "name", "hash", "creator_user_id"})
"""What tells about the key itself: the label is the key with its middle left out."""
_anything: TypeAdapter[Any] = TypeAdapter(Any)


async def openrouter() -> Endpoint:
    """Return where OpenRouter's calls go, by the saved credentials `openrouter` or the environment.

    Raises:
        ConfigurationError: If there is no key, or the credentials are those of another kind of server.
    """
    endpoint = await endpoint_of(PROVIDER, "")
    if endpoint.vendor is not VENDOR:
        raise ConfigurationError(f"the saved credentials {PROVIDER!r} are not those of an OpenAI-compatible server")
    return endpoint


async def look_up(path: str) -> Any:
    """Return what stands under `data` at an address of OpenRouter's.

    Args:
        path: The address behind the base URL, for example `/models`.

    Raises:
        ModelError: If it could not be read, also after a second and a third try where that makes sense.
        ConfigurationError: If there is no key.
    """
    endpoint = await openrouter()
    client = await client_of(endpoint, "")
    for tried in range(RETRIES + 1):
        try:
            async with pace_of(endpoint).turn(), asyncio.timeout(TIMEOUT_S + 1):
                found = await client.get(path, cast_to=object, options={"timeout": TIMEOUT_S})
        except Exception as error:  # the SDK's, or the transport's under it; `classify` says what it means
            fault = VENDOR.fault_of(error)
        else:
            if isinstance(found, dict) and isinstance(found.get("data"), dict | list):
                return found["data"]
            failed = isinstance(found, dict) and found.get("error")
            fault = fault_in_body(failed) if failed else malformed("the response is not in OpenRouter's format")
        verdict = VENDOR.classify(fault)
        wait = setting("BACKOFF_S", BACKOFF_S) * 2**tried if verdict.wait_s is None else verdict.wait_s
        if not verdict.retry or tried == RETRIES or wait > setting("RETRY_AFTER_CAP_S", RETRY_AFTER_CAP_S):
            break
        if verdict.wait_s is None:
            await asyncio.sleep(wait)
        else:
            pace_of(endpoint).hold(wait)  # what the server asks for holds back every call on the key
    where = f"HTTP {fault.status}: " if fault.status else ""
    message = redact(f"{PROVIDER}{path}: {verdict.kind}: {where}{fault.message}", endpoint.secrets)
    raise ModelError(message, kind=verdict.kind, retryable=verdict.retry, wait_s=verdict.wait_s, status=fault.status)


async def account() -> dict[str, Any]:
    """Return what the account and the key have used and have left, in US dollars.

    Returns:
        `credits`, which OpenRouter tells only to management keys, or None; `key`, the limits of this key; and `notes`,
        which say what could not be read.

    Raises:
        ModelError: If neither can be read.
    """
    notes: list[str] = []
    credits_left: dict[str, Any] | None = None
    try:
        credits_left = dict(await look_up("/credits"))
        bought, used = credits_left.get("total_credits"), credits_left.get("total_usage")
        if isinstance(bought, int | float) and isinstance(used, int | float):
            credits_left["remaining"] = round(bought - used, 10)
    except ModelError as error:
        notes.append(error.message)
    key: dict[str, Any] | None = None
    try:
        key = {name: value for name, value in dict(await look_up("/key")).items() if name not in _ABOUT_THE_KEY}
    except ModelError as error:
        if credits_left is None:
            raise
        notes.append(error.message)
    return {"credits": credits_left, "key": key, "notes": notes}


async def list_models() -> list[dict[str, Any]]:
    """Return every model that OpenRouter offers, as it describes them.

    Raises:
        ModelError: If the list cannot be read.
    """
    found = await look_up("/models")
    return [model for model in found if isinstance(model, dict) and isinstance(model.get("id"), str)]


def free_models(models: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return those of `models` that cost nothing: every price that is given is zero, and at least one is given."""
    return [model for model in models if model.get("pricing") and _is_zero(model["pricing"])]


def _is_zero(price: Any) -> bool:
    """Tell whether a price, or every price in an object or a list, is zero; -1 stands for one that depends."""
    if isinstance(price, dict | list):
        return all(_is_zero(part) for part in (price.values() if isinstance(price, dict) else price))
    try:
        return Decimal(str(price)) == 0
    except InvalidOperation:
        return False


class Trial(BaseModel):
    """One model, tried at one endpoint."""

    model: str
    endpoint: Api
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

    def untried(self, models: Sequence[str], *, again: bool = False) -> list[tuple[str, Api]]:
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

    def working(self, endpoint: Api) -> set[str]:
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
        _write_json(folder / name, {"data": [model for model in described if model["id"] in working]})
    _write_json(folder / TRIED, trials.model_dump(mode="json"))


def write_models(folder: Path, models: Sequence[dict[str, Any]], free: Sequence[dict[str, Any]]) -> None:
    """Write all models and the free ones."""
    _write_json(folder / "models.json", {"data": list(models)})
    _write_json(folder / "free_models.json", {"data": list(free)})


def _write_json(path: Path, value: Any) -> None:
    """Write a value as JSON; the file is never seen half-written."""
    with atomic_write(path) as file:
        file.write_bytes(_anything.dump_json(value, indent=2) + b"\n")


async def try_model(model: str, endpoint: Api, config: FreeModelsConfig) -> tuple[Trial, Limit | None]:
    """Send one request, and say which limit of the account's is in its way, if one is."""
    request = Request(
        provider=PROVIDER,
        model=model,
        messages=(Message(role="user", content=config.prompt),),
        sampling=Sampling(max_output_tokens=config.max_output_tokens),
        label=f"{model} · {endpoint}",
        timeout=config.timeout,
        kind="chat" if endpoint == "chat_completions" else "completion",
    )
    # Always asked anew: a stored answer says nothing about today. Once, because each try counts against the limit.
    task = ask_task(request.kind, fresh=True)
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
        trial.error = CallError(kind="unknown", message=redact(f"{type(found).__name__}: {found}"))
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
