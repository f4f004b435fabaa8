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
    "consortium": Algorithm(
        "consensus_flows.flows.consortium:run_consortium", "consensus_flows.blocks.consortium:Consortium"
    ),
    "learn": Algorithm(
        "consensus_flows.flows.consensus_learning:run_consensus_learning",
        "consensus_flows.blocks.consensus_learning:ConsensusLearning",
    ),
    "moa": Algorithm(
        "consensus_flows.flows.mixture_of_agents:run_mixture_of_agents",
        "consensus_flows.blocks.mixture_of_agents:MixtureOfAgents",
    ),
    "vote": Algorithm("consensus_flows.flows.vote:run_vote", "consensus_flows.blocks.vote:Vote"),
    "pump": Algorithm("consensus_flows.flows.pump:run_pump", "consensus_flows.blocks.pump:Pump"),
    "prefer": Algorithm("consensus_flows.flows.prefer:run_prefer", "consensus_flows.blocks.prefer:Prefer"),
}


def _imported(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(module), name)
