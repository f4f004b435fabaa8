"""The kinds of flows that can be saved and run by name; each has a module in this folder."""

from importlib import import_module
from typing import Any, NamedTuple

MAIN = "consortium"
"""The command that `consensus "PROMPT"` stands for."""


class Kind(NamedTuple):
    """One kind of flow.

    The module has `run_command` for the command line, `save` for `consensus save`, and `run_saved(prompt, values, out)`
    for a configuration that was saved.
    """

    module: str
    block: str
    help: str
    command: str = "run_command"
    """What the module calls the command, where it is an app with commands of its own."""


KINDS = {
    MAIN: Kind(
        "deployments.commands.consortium",
        "blocks.consortium:Consortium",
        "Ask a panel; an arbiter makes one answer of theirs.",
    ),
    "learn": Kind(
        "deployments.commands.learn",
        "blocks.consensus_learning:ConsensusLearning",
        "Ask a panel, aggregate, and let each improve its answer; reads Flare's input.json.",
    ),
    "pump": Kind(
        "deployments.commands.pump", "blocks.pump:Pump", "Ask many models at once; print every answer with its time."
    ),
    "prefer": Kind(
        "deployments.commands.prefer", "blocks.prefer:Prefer", "Ask many models, and let them rank each other."
    ),
    "moa": Kind(
        "deployments.commands.mixture_of_agents",
        "blocks.mixture_of_agents:MixtureOfAgents",
        "Ask layers of models, each of which sees the answers of the one before.",
        "app",
    ),
    "vote": Kind(
        "deployments.commands.vote",
        "blocks.vote:Vote",
        "Ask many models and count their answers, or compare them in pairs.",
    ),
}


def block_class(kind: str) -> Any:
    """Return the block in which configurations of this kind are saved."""
    module, name = KINDS[kind].block.split(":")
    return getattr(import_module(module), name)


def module_of(kind: str) -> Any:
    """Return the command module of a kind."""
    return import_module(KINDS[kind].module)
