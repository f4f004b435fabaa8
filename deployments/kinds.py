"""The kinds of flows that can be saved and run by name; each has a module in this folder."""

from importlib import import_module
from typing import Any, NamedTuple

from flows.algorithms import ALGORITHMS, Name

MAIN: Name = "consortium"
"""The command that `consensus "PROMPT"` stands for."""


class Kind(NamedTuple):
    """One kind of flow.

    The module has `run_command` for the command line, `save` for `consensus save`, `run_saved(prompt, values, out)` for a
    configuration that was saved, and `configure(options, under)`, which lays options over a configuration.
    """

    module: str
    options: str
    """What the module calls the class of its options."""
    help: str
    command: str = "run_command"
    """What the module calls the command, where it is an app with commands of its own."""


KINDS: dict[Name, Kind] = {
    MAIN: Kind(
        "deployments.commands.algorithms.consortium",
        "ConsortiumOptions",
        "Ask a panel; an arbiter makes one answer of theirs.",
    ),
    "learn": Kind(
        "deployments.commands.algorithms.learn",
        "LearnOptions",
        "Ask a panel, aggregate, and let each improve its answer; reads Flare's input.json.",
    ),
    "pump": Kind(
        "deployments.commands.algorithms.pump",
        "PumpOptions",
        "Ask many models at once; print every answer with its time.",
    ),
    "prefer": Kind(
        "deployments.commands.preferences.prefer", "PreferOptions", "Ask many models, and let them rank each other."
    ),
    "moa": Kind(
        "deployments.commands.algorithms.mixture_of_agents",
        "MixtureOptions",
        "Ask layers of models, each of which sees the answers of the one before.",
        "app",
    ),
    "vote": Kind(
        "deployments.commands.algorithms.vote",
        "VoteOptions",
        "Ask many models and count their answers, or compare them in pairs.",
    ),
}


def block_class(kind: Name) -> Any:
    """Return the block in which configurations of this kind are saved."""
    return ALGORITHMS[kind].block_class()


def module_of(kind: Name) -> Any:
    """Return the command module of a kind."""
    return import_module(KINDS[kind].module)


def options_of(kind: Name) -> Any:
    """Return the class of a kind's options on the command line."""
    return getattr(module_of(kind), KINDS[kind].options)
