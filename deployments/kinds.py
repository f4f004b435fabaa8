"""The kinds of flows that can be saved and run by name; each has a module in this folder."""

from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from consensus_flows.deployments.terminal import Stop
from consensus_flows.flows.algorithms import ALGORITHMS, Name

if TYPE_CHECKING:
    from consensus_flows.deployments.options import RunOptions

MAIN: Name = "consortium"
"""The command that `consensus "PROMPT"` stands for."""


class Kind(NamedTuple):
    """One kind of flow.

    The module has `run_command` for the command line, `save` for `consensus save`, `configure(options, under)`, which lays
    options over a configuration, and `run_config(prompt, config, out)` for what came of that.
    """

    module: str
    options: str
    """What the module calls the class of its options."""
    help: str
    command: str = "run_command"
    """What the module calls the command, where it is an app with commands of its own."""


KINDS: dict[Name, Kind] = {
    MAIN: Kind(
        "consensus_flows.deployments.commands.algorithms.consortium",
        "ConsortiumOptions",
        "Ask a panel; an arbiter makes one answer of theirs.",
    ),
    "learn": Kind(
        "consensus_flows.deployments.commands.algorithms.learn",
        "LearnOptions",
        "Ask a panel, aggregate, and let each improve its answer; reads Flare's input.json.",
    ),
    "pump": Kind(
        "consensus_flows.deployments.commands.algorithms.pump",
        "PumpOptions",
        "Ask many models at once; print every answer with its time.",
    ),
    "prefer": Kind(
        "consensus_flows.deployments.commands.preferences.prefer",
        "PreferOptions",
        "Ask many models, and let them rank each other.",
    ),
    "moa": Kind(
        "consensus_flows.deployments.commands.algorithms.mixture_of_agents",
        "MixtureOptions",
        "Ask layers of models, each of which sees the answers of the one before.",
        "app",
    ),
    "vote": Kind(
        "consensus_flows.deployments.commands.algorithms.vote",
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


def options_for(kind: Name, options: "RunOptions", name: str | None) -> Any:
    """Return options that were given as those of a kind, to be laid over what is saved.

    Args:
        kind: The kind of the saved configuration.
        options: What was given, as the options of any kind.
        name: The name of the saved configuration.

    Raises:
        Stop: Naming each option that this kind does not have.
    """
    from consensus_flows.deployments.options import flag

    own = options_of(kind)
    known = {field.name for field in fields(own)}
    given = {field.name: value for field in fields(options) if (value := getattr(options, field.name)) is not None}
    if foreign := [flag(option) for option in given if option not in known]:
        raise Stop(
            f"{', '.join(foreign)}: {name!r} is saved for {kind}, which has no such option; `consensus {kind} --help` lists "
            "those it has"
        )
    return own(**given)
