"""The algorithms that answer one question, by the names that the command line gives them; nothing is imported until asked for."""

from importlib import import_module
from typing import Any, Literal, NamedTuple

Name = Literal["consortium", "learn", "moa", "vote", "pump", "prefer"]


class Algorithm(NamedTuple):
    """Where an algorithm and its saved configuration are found, each as `module:name`."""

    run: str
    """An async function of the question, the configuration and what makes the calls; it returns the record."""
    block: str
    """The block in which a configuration is saved."""

    def function(self) -> Any:
        """Import the function."""
        return _imported(self.run)

    def block_class(self) -> Any:
        """Import the block."""
        return _imported(self.block)

    def config_class(self) -> Any:
        """Import the configuration's model."""
        return self.block_class().model_fields["config"].annotation


ALGORITHMS: dict[Name, Algorithm] = {
    "consortium": Algorithm("flows.consortium:run_consortium", "blocks.consortium:Consortium"),
    "learn": Algorithm(
        "flows.consensus_learning:run_consensus_learning", "blocks.consensus_learning:ConsensusLearning"
    ),
    "moa": Algorithm("flows.mixture_of_agents:run_mixture_of_agents", "blocks.mixture_of_agents:MixtureOfAgents"),
    "vote": Algorithm("flows.vote:run_vote", "blocks.vote:Vote"),
    "pump": Algorithm("flows.pump:run_pump", "blocks.pump:Pump"),
    "prefer": Algorithm("flows.prefer:run_prefer", "blocks.prefer:Prefer"),
}


def _imported(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(module), name)
