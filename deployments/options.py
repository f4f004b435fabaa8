"""The options of the command line that several commands share."""

import json
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from blocks.sampling import ReasoningEffort
from deployments.terminal import Stop

PANEL = Group("Panel", sort_key=1)
JUDGING = Group("Judging", sort_key=2)
SAMPLING = Group("Sampling", sort_key=3)
BUDGET = Group("Budget", sort_key=4)
OUTPUT = Group("Input and output", sort_key=5)


@Parameter(name="*")
@dataclass(kw_only=True)
class PanelOptions:
    """Who is asked and who judges. What is not given comes from the saved configuration, or is the default."""

    member: Annotated[list[str] | None, Parameter(name=["--member", "--model", "-m"], group=PANEL, negative="")] = None
    """A model that answers: provider/model, or provider/model:count for several instances. May be repeated."""
    arbiter: Annotated[str | None, Parameter(group=PANEL)] = None
    """The model that judges: provider/model."""
    fallback_arbiter: Annotated[list[str] | None, Parameter(group=PANEL, negative="")] = None
    """A model that judges when the arbiter fails. May be repeated."""
    system: Annotated[str | None, Parameter(group=PANEL)] = None
    """System prompt of the members."""
    quorum: Annotated[int | None, Parameter(group=PANEL)] = None
    """Members that must answer; default: more than half."""
    straggler_grace: Annotated[float | None, Parameter(group=PANEL)] = None
    """With the quorum in, wait for the rest at most so many times the median time."""
    timeout: Annotated[float | None, Parameter(group=PANEL)] = None
    """Seconds that one request may take; default 120."""
    judging_method: Annotated[Literal["synthesize", "rank"] | None, Parameter(group=JUDGING)] = None
    """One new answer of all, or the best one word for word; default synthesize."""
    confidence_threshold: Annotated[float | None, Parameter(group=JUDGING)] = None
    """Stop at this confidence, 0 to 1; default 0.8."""
    max_iterations: Annotated[int | None, Parameter(group=JUDGING)] = None
    """Most iterations; default 3."""
    min_iterations: Annotated[int | None, Parameter(group=JUDGING)] = None
    """Fewest iterations; default 1."""
    keep: Annotated[Literal["best", "last"] | None, Parameter(group=JUDGING)] = None
    """Which iteration's answer is returned; default best."""
    order_seed: Annotated[int | None, Parameter(group=JUDGING)] = None
    """Seed of the order in which the arbiter sees the answers; default 0."""
    temperature: Annotated[float | None, Parameter(group=SAMPLING)] = None
    """Temperature of the members."""
    top_p: Annotated[float | None, Parameter(group=SAMPLING)] = None
    """Nucleus sampling of the members."""
    top_k: Annotated[int | None, Parameter(group=SAMPLING)] = None
    """Most likely tokens that the members sample from."""
    max_output_tokens: Annotated[int | None, Parameter(group=SAMPLING)] = None
    """Most tokens in a member's answer."""
    seed: Annotated[int | None, Parameter(group=SAMPLING)] = None
    """Sampling seed of the members."""
    reasoning_effort: Annotated[ReasoningEffort | None, Parameter(group=SAMPLING)] = None
    """How long reasoning members may think."""
    max_calls: Annotated[int | None, Parameter(group=BUDGET)] = None
    """Most requests of the run, retries included."""
    max_tokens: Annotated[int | None, Parameter(group=BUDGET)] = None
    """Most tokens of the run, input and output."""
    max_cost: Annotated[float | None, Parameter(group=BUDGET)] = None
    """Most US dollars of the run."""
    deadline: Annotated[float | None, Parameter(group=BUDGET)] = None
    """No call starts later than so many seconds into the run."""
    fresh: Annotated[bool | None, Parameter(group=OUTPUT)] = None
    """Ask again even where an answer is stored, and replace it."""
    config: Annotated[Path | None, Parameter(group=OUTPUT)] = None
    """A JSON or TOML file with the settings; options given here are laid over it."""


_TOP = {
    "member": "members",
    "fallback_arbiter": "fallback_arbiters",
    "order_seed": "seed",
    **{
        name: name
        for name in (
            "arbiter system quorum straggler_grace timeout judging_method confidence_threshold max_iterations "
            "min_iterations keep fresh"
        ).split()
    },
}
_SAMPLING = ("temperature", "top_p", "top_k", "max_output_tokens", "seed", "reasoning_effort")
_BUDGET = {"max_calls": "max_calls", "max_tokens": "max_tokens", "max_cost": "max_cost_usd", "deadline": "max_seconds"}

FIELD_NAMES = {
    **{field: f"--{option.replace('_', '-')}" for option, field in _TOP.items()},
    **{f"sampling.{name}": f"--{name.replace('_', '-')}" for name in _SAMPLING},
    **{f"budget.{field}": f"--{option.replace('_', '-')}" for option, field in _BUDGET.items()},
}
"""The command line's names of a configuration's fields, for error messages."""


def settings(options: PanelOptions, saved: dict[str, Any] | None = None) -> dict[str, Any]:
    """Lay the options that were given over the configuration file, and that over the saved configuration."""
    result: dict[str, Any] = {**(saved or {}), **(_read(options.config) if options.config else {})}
    given = {f.name: getattr(options, f.name) for f in fields(options) if getattr(options, f.name) is not None}
    result |= {field: given[option] for option, field in _TOP.items() if option in given}
    sampling = {name: given[name] for name in _SAMPLING if name in given}
    budget = {field: given[option] for option, field in _BUDGET.items() if option in given}
    if sampling:
        result["sampling"] = {**result.get("sampling", {}), **sampling}
    if budget:
        result["budget"] = {**result.get("budget", {}), **budget}
    return result


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        value = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise Stop(f"--config {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise Stop(f"--config {path} is no {'TOML' if path.suffix == '.toml' else 'JSON'}: {error}") from None
    if not isinstance(value, dict):
        raise Stop(f"--config {path} must hold an object of settings")
    return value
