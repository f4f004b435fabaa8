"""`consensus import`: the panels of llm-consortium, as its commands print them, its database has them, or a script names them."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from consensus_flows.blocks.consortium import ConsortiumConfig
from consensus_flows.deployments.algorithm_commands import save_config
from consensus_flows.deployments.options import configured
from consensus_flows.deployments.terminal import Exit, Stop, explain, read_stdin, read_text, say
from consensus_flows.flows.algorithms import algorithm

PROVIDERS = {r"(?:chatgpt-|gpt-|o\d)": "openai", r"claude-": "anthropic", r"gemini-": "google"}
"""The providers of models that `llm` knows by a plain name, by how the name begins."""


class Panel(BaseModel, extra="allow"):
    """A panel in the format of llm-consortium."""

    name: str | None = None
    models: dict[str, int] = Field(min_length=1)
    arbiter: str
    system_prompt: str | None = None
    confidence_threshold: float = 0.8
    max_iterations: int = 3
    minimum_iterations: int = 1
    judging_method: str = "default"

    @model_validator(mode="before")
    @classmethod
    def _read_row(cls, value: Any) -> Any:
        """Take a row of the table `consortium_configs`, and models that are listed as `name:count`."""
        if not isinstance(value, dict):
            return value
        if isinstance(row := value.get("config") or value.get("config_json"), str):
            config = json.loads(row)
            value = {"name": value.get("name"), **(config if isinstance(config, dict) else {})}
        if isinstance(listed := value.get("models"), list):
            counts = Counter[str]()
            for one in map(str, listed):
                name, _, count = one.rpartition(":")
                counts.update({name: int(count)} if name and count.isdecimal() else {one: 1})
            value = {**value, "models": dict(counts)}
        return value


def import_panels(
    file: Annotated[Path, Parameter(allow_leading_hyphen=True)],
    name: str | None = None,
    *,
    map: Annotated[list[str] | None, Parameter(negative="", metavar="NAME=MODEL")] = None,
) -> Exit:
    """Save the panels of llm-consortium that `llm consortium list --json` or `info NAME --json` prints.

    Rows of its table `consortium_configs`, an object of panels by name, and models listed as `name:count` are read too.

    Args:
        file: JSON file; - reads standard input.
        name: Name to save under, if there is one panel; default: its own.
        map: What a model is called here: gpt-x=openai/gpt-x. May be repeated.
    """
    text = read_stdin() if str(file) == "-" else read_text(file, "FILE")
    panels = _panels(text, "standard input" if str(file) == "-" else str(file))
    if name is not None and len(panels) > 1:
        raise Stop(f"NAME: the file has {len(panels)} panels, which are saved under their own names: leave it out")
    names = dict(_pair(one) for one in map or [])
    configs = [(name or panel.name, _config(panel, names)) for panel in panels]  # all are read before one is saved
    for panel, (called, config) in zip(panels, configs, strict=True):
        if called is None:
            raise Stop("NAME: the panel has no name: give one")
        save_config(algorithm("consortium"), called.lower().replace("_", "-"), config)
        if left := sorted(
            key
            for key, value in (panel.model_extra or {}).items()
            if value and value != "default" and key != "created_at"
        ):
            say(f"consensus: {called}: not imported: {', '.join(left)}")
    return Exit.ANSWER


def _panels(text: str, name: str) -> list[Panel]:
    try:
        found = json.loads(text)
        if isinstance(found, dict):
            by_name = (
                all(isinstance(one, dict) for one in found.values()) and not found.keys() & Panel.model_fields.keys()
            )
            found = [{"name": key, **one} for key, one in found.items()] if found and by_name else [found]
        return TypeAdapter(list[Panel]).validate_python(found)
    except ValidationError as error:
        raise Stop(f"{name} holds no panels of llm-consortium: {explain(error)}") from None
    except (ValueError, RecursionError) as error:
        raise Stop(f"{name} is not valid JSON: {error}") from None


def _pair(text: str) -> tuple[str, str]:
    name, equals, model = text.partition("=")
    if not (name and equals and "/" in model):
        raise Stop(f"--map {text}: write NAME=provider/model")
    return name, model


def _config(panel: Panel, names: dict[str, str]) -> ConsortiumConfig:
    if panel.judging_method not in {"default", "rank"}:
        raise Stop(f"judging_method is {panel.judging_method!r}: it must be default or rank")
    values: dict[str, Any] = {
        "members": [f"{_model(model, names)}:{count}" for model, count in panel.models.items()],
        "arbiter": _model(panel.arbiter, names),
        "system": panel.system_prompt,
        "confidence_threshold": panel.confidence_threshold,
        "max_iterations": panel.max_iterations,
        "min_iterations": panel.minimum_iterations,
        "judging_method": "rank" if panel.judging_method == "rank" else "synthesize",
    }
    return configured(ConsortiumConfig, values)


def _model(name: str, names: dict[str, str]) -> str:
    if name in names or "/" in name:
        return names.get(name, name)
    for start, provider in PROVIDERS.items():
        if re.match(start, name):
            return f"{provider}/{name}"
    raise Stop(f"the provider of model {name!r} is not known: give --map {name}=provider/model")
