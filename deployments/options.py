"""The options of the command line that several commands share, and the configuration that is made of them."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import Group, Parameter
from pydantic import BaseModel, ValidationError

from consensus_flows.blocks.sampling import ReasoningEffort, Sampling, ServiceTier
from consensus_flows.deployments.terminal import Stop, explain
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.json_text import parse
from consensus_flows.tasks.prompting.prompt_sets import is_path, path_of, prompt_set

PANEL = Group("Panel", sort_key=1)
JUDGING = Group("Judging", sort_key=2)
SAMPLING = Group("Sampling", sort_key=3)
BUDGET = Group("Budget", sort_key=4)
OUTPUT = Group("Input and output", sort_key=5)

Config = TypeVar("Config", bound=BaseModel)


@Parameter(name="*")
@dataclass(kw_only=True)
class RunOptions:
    """Conditions of every run. What is not given comes from the saved configuration, or is the default."""

    system: Annotated[str | None, Parameter(group=PANEL)] = None
    """System prompt of the members."""
    quorum: Annotated[int | None, Parameter(group=PANEL)] = None
    """Members that must answer; default: more than half."""
    straggler_grace: Annotated[float | None, Parameter(group=PANEL)] = None
    """With the quorum in, wait for the rest at most so many times the median time."""
    timeout: Annotated[float | None, Parameter(group=PANEL)] = None
    """Seconds that one request may take; default 120."""
    order_seed: Annotated[int | None, Parameter(group=JUDGING)] = None
    """Seed of every order that is shuffled; default 0."""
    temperature: Annotated[float | None, Parameter(group=SAMPLING)] = None
    """Temperature of the members."""
    top_p: Annotated[float | None, Parameter(group=SAMPLING)] = None
    """Nucleus sampling of the members."""
    top_k: Annotated[int | None, Parameter(group=SAMPLING)] = None
    """Most likely tokens that the members sample from."""
    max_output_tokens: Annotated[int | None, Parameter(group=SAMPLING)] = None
    """Most tokens in a member's answer."""
    seed: Annotated[int | None, Parameter(group=SAMPLING)] = None
    """Sampling seed of the members; each further instance of a model takes the next one."""
    reasoning_effort: Annotated[ReasoningEffort | None, Parameter(group=SAMPLING)] = None
    """How long reasoning members may think."""
    service_tier: Annotated[ServiceTier | None, Parameter(group=BUDGET)] = None
    """flex: half the price where the vendor has it, for slower answers; the timeout is then 900 s unless one is given."""
    max_calls: Annotated[int | None, Parameter(group=BUDGET)] = None
    """Most requests of the run, retries included."""
    max_tokens: Annotated[int | None, Parameter(group=BUDGET)] = None
    """Most tokens of the run, input and output."""
    max_cost: Annotated[float | None, Parameter(group=BUDGET)] = None
    """Most US dollars of the run."""
    deadline: Annotated[float | None, Parameter(group=BUDGET)] = None
    """Seconds after which no call starts, and those under way are cut."""
    fresh: Annotated[bool | None, Parameter(group=OUTPUT)] = None
    """Ask again even where an answer is stored, and replace it."""
    config: Annotated[Path | None, Parameter(group=OUTPUT)] = None
    """A JSON or TOML file with settings, which are laid over what is saved, and options given here over both."""
    prompt_set: Annotated[str | None, Parameter(group=PANEL)] = None
    """How members are prompted: a name that `consensus prompts list` shows, or a file; default plain."""
    embedding_model: Annotated[str | None, Parameter(group=PANEL)] = None
    """The model that measures how alike free texts are: provider/model; default: their wording is compared."""


@Parameter(name="*")
@dataclass(kw_only=True)
class PanelOptions(RunOptions):
    """Who is asked."""

    member: Annotated[list[str] | None, Parameter(name=["--member", "--model", "-m"], group=PANEL, negative="")] = None
    """A model that answers: provider/model, or provider/model:count for several instances. May be repeated."""


@Parameter(name="*")
@dataclass(kw_only=True)
class ConsortiumOptions(PanelOptions):
    """Who judges, and when to stop."""

    arbiter: Annotated[str | None, Parameter(group=PANEL)] = None
    """The model that judges: provider/model."""
    fallback_arbiter: Annotated[list[str] | None, Parameter(group=PANEL, negative="")] = None
    """A model that judges when the arbiter fails. May be repeated."""
    judging_method: Annotated[Literal["synthesize", "rank"] | None, Parameter(group=JUDGING)] = None
    """One new answer of all, or the best one word for word; default synthesize."""
    comparison: Annotated[bool | None, Parameter(group=JUDGING)] = None
    """Have the arbiter compare the answers, too; the default. --no-comparison saves its tokens."""
    confidence_threshold: Annotated[float | None, Parameter(group=JUDGING)] = None
    """Stop at this confidence, 0 to 1, if the arbiter wants no further round; default 0.8."""
    max_iterations: Annotated[int | None, Parameter(group=JUDGING)] = None
    """Most iterations; default 3."""
    min_iterations: Annotated[int | None, Parameter(group=JUDGING)] = None
    """Fewest iterations; default 1."""
    keep: Annotated[Literal["best", "last"] | None, Parameter(group=JUDGING)] = None
    """Which iteration's answer is returned; default best."""


FIELDS = {
    "member": "members",
    "fallback_arbiter": "fallback_arbiters",
    "fallback_aggregator": "fallback_aggregators",
    "k": "decentralized.k",
    "alpha": "decentralized.alpha",
    "beta": "decentralized.beta",
    "max_rounds": "decentralized.max_rounds",
    "order_seed": "seed",
    "temperature": "sampling.temperature",
    "top_p": "sampling.top_p",
    "top_k": "sampling.top_k",
    "max_output_tokens": "sampling.max_output_tokens",
    "seed": "sampling.seed",
    "reasoning_effort": "sampling.reasoning_effort",
    "final_temperature": "aggregator_settings.temperature",
    "final_max_output_tokens": "aggregator_settings.max_output_tokens",
    "max_calls": "budget.max_calls",
    "max_tokens": "budget.max_tokens",
    "max_cost": "budget.max_cost_usd",
    "deadline": "budget.max_seconds",
}
"""Where an option goes in the configuration, if not to the field of the same name."""


def flag(option: str) -> str:
    """Return an option as it is written."""
    return "-m" if option == "member" else f"--{option.replace('_', '-')}"


def file_of(options: RunOptions) -> dict[str, Any]:
    """Return what the configuration file says; nothing where there is none.

    Raises:
        Stop: If it cannot be read.
    """
    return _read(options.config) if options.config else {}


def laid_over(config_class: type[BaseModel], over: Mapping[str, Any], under: Mapping[str, Any]) -> dict[str, Any]:
    """Lay settings over others. A group of settings, such as the budget, is laid over the other one key by key."""
    result = {**under}
    for name, value in over.items():
        field, below = config_class.model_fields.get(name), under.get(name)
        group = field.annotation if field else None
        if not (isinstance(value, Mapping) and isinstance(below, Mapping)):
            result[name] = value
        elif isinstance(group, type) and issubclass(group, BaseModel):
            result[name] = laid_over(group, value, below)
        else:  # by members' names, who may be others now; a vendor's `extra` is merged as `Sampling.over` does it
            result[name] = {**below, **value} if config_class is Sampling else value
    return result


def settings(config_class: type[BaseModel], options: RunOptions, saved: dict[str, Any] | None = None) -> dict[str, Any]:
    """Lay the options that were given over the configuration file, and that over the saved configuration."""
    result = laid_over(config_class, file_of(options), saved or {})
    for option in fields(options):
        value = getattr(options, option.name)
        if value is None or option.name == "config":
            continue
        *group, name = FIELDS.get(option.name, option.name).split(".")
        if not group:
            result[name] = value
        elif isinstance(below := result.get(group[0], {}), Mapping):
            result[group[0]] = {**below, name: value}
        # What is no group there is left for the configuration to refuse.
    return result


def configured(
    config_class: type[Config],
    options: RunOptions,
    saved: dict[str, Any] | None = None,
    over: dict[str, Any] | None = None,
    /,
    **required: str,
) -> Config:
    """Make the configuration of a run.

    Args:
        config_class: The configuration's model.
        options: What was given on the command line.
        saved: A saved configuration that lies under it.
        over: What further options say, which lies over all.
        required: For each field that must be given, how to give it.

    Raises:
        Stop: Naming each option that is missing or wrong.
    """
    values = laid_over(config_class, over or {}, settings(config_class, options, saved))
    missing = [f"{field}: give {how}" for field, how in required.items() if not values.get(field)]
    if missing:
        raise Stop("\n".join(missing))
    names = {field: f"--{option.replace('_', '-')}" for option, field in FIELDS.items()}
    plain = {name: flag(name) for name in config_class.model_fields if name not in names}
    if values.get("prompt_set"):
        values["prompt_set"] = _checked_set(values["prompt_set"])
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        raise Stop(explain(error, plain | names)) from None


def _checked_set(name: Any) -> Any:
    """Return the name of a prompt set that can be used, and a path as one that holds wherever the run takes place.

    Raises:
        Stop: If there is no such set, or its file is not right.
    """
    if not isinstance(name, str):
        return name  # the configuration says what is wrong
    try:
        prompt_set(name)
        return str(path_of(name)) if is_path(name) else name
    except ConfigurationError as error:
        raise Stop(f"--prompt-set: {error.message.removeprefix('prompt_set: ')}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        value = tomllib.loads(text) if path.suffix == ".toml" else parse(text)
    except OSError as error:
        raise Stop(f"--config {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Stop(f"--config {path} is no {'TOML' if path.suffix == '.toml' else 'JSON'}: {error}") from None
    if not isinstance(value, dict):
        raise Stop(f"--config {path} must hold an object of settings")
    return value
