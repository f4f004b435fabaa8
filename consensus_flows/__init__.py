"""Many models, one answer, as workflows on Prefect.

What this module exports is the public interface. Nothing is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from consensus_flows.blocks.consensus_learning import ConsensusLearning as ConsensusLearning
    from consensus_flows.blocks.consensus_learning import ConsensusLearningConfig as ConsensusLearningConfig
    from consensus_flows.blocks.consortium import Consortium as Consortium
    from consensus_flows.blocks.consortium import ConsortiumConfig as ConsortiumConfig
    from consensus_flows.blocks.credentials import AnthropicCredentials as AnthropicCredentials
    from consensus_flows.blocks.credentials import GoogleCredentials as GoogleCredentials
    from consensus_flows.blocks.credentials import OpenAICompatibleCredentials as OpenAICompatibleCredentials
    from consensus_flows.blocks.credentials import OpenAICredentials as OpenAICredentials
    from consensus_flows.blocks.history import HistoryDatabase as HistoryDatabase
    from consensus_flows.blocks.mixture_of_agents import MixtureOfAgents as MixtureOfAgents
    from consensus_flows.blocks.mixture_of_agents import MixtureOfAgentsConfig as MixtureOfAgentsConfig
    from consensus_flows.blocks.panel import OneModel as OneModel
    from consensus_flows.blocks.panel import PanelConfig as PanelConfig
    from consensus_flows.blocks.panel import RunConfig as RunConfig
    from consensus_flows.blocks.prefer import Prefer as Prefer
    from consensus_flows.blocks.prefer import PreferConfig as PreferConfig
    from consensus_flows.blocks.pump import Pump as Pump
    from consensus_flows.blocks.pump import PumpConfig as PumpConfig
    from consensus_flows.blocks.sampling import Sampling as Sampling
    from consensus_flows.blocks.settings import Budget as Budget
    from consensus_flows.blocks.settings import saved_config as saved_config
    from consensus_flows.blocks.swarm import Swarm as Swarm
    from consensus_flows.blocks.swarm import SwarmConfig as SwarmConfig
    from consensus_flows.blocks.vote import Vote as Vote
    from consensus_flows.blocks.vote import VoteConfig as VoteConfig
    from consensus_flows.deployments.ask import ask as ask
    from consensus_flows.deployments.server import connect as connect
    from consensus_flows.flows.algorithms import Algorithm as Algorithm
    from consensus_flows.flows.batch import batch as batch
    from consensus_flows.flows.consensus_learning import consensus_learning as consensus_learning
    from consensus_flows.flows.consensus_learning import run_consensus_learning as run_consensus_learning
    from consensus_flows.flows.consortium import consortium as consortium
    from consensus_flows.flows.consortium import run_consortium as run_consortium
    from consensus_flows.flows.mixture_of_agents import mixture_of_agents as mixture_of_agents
    from consensus_flows.flows.mixture_of_agents import run_mixture_of_agents as run_mixture_of_agents
    from consensus_flows.flows.prefer import prefer as prefer
    from consensus_flows.flows.prefer import run_prefer as run_prefer
    from consensus_flows.flows.pump import pump as pump
    from consensus_flows.flows.pump import run_pump as run_pump
    from consensus_flows.flows.run import FLOW as FLOW
    from consensus_flows.flows.run import Run as Run
    from consensus_flows.flows.run import begin as begin
    from consensus_flows.flows.run import run_as_flow as run_as_flow
    from consensus_flows.flows.swarm import run_swarm as run_swarm
    from consensus_flows.flows.swarm import swarm as swarm
    from consensus_flows.flows.vote import run_vote as run_vote
    from consensus_flows.flows.vote import vote as vote
    from consensus_flows.tasks.batches.planning import Planned as Planned
    from consensus_flows.tasks.batches.planning import member_calls as member_calls
    from consensus_flows.tasks.batches.summary import BatchSummary as BatchSummary
    from consensus_flows.tasks.calls.call import Call as Call
    from consensus_flows.tasks.calls.request import Message as Message
    from consensus_flows.tasks.errors import ConfigurationError as ConfigurationError
    from consensus_flows.tasks.errors import ConsensusError as ConsensusError
    from consensus_flows.tasks.errors import QuorumError as QuorumError
    from consensus_flows.tasks.record import CallError as CallError
    from consensus_flows.tasks.record import Iteration as Iteration
    from consensus_flows.tasks.record import NoAnswerError as NoAnswerError
    from consensus_flows.tasks.record import Record as Record
    from consensus_flows.tasks.record import Response as Response
    from consensus_flows.tasks.record import RunWarning as RunWarning
    from consensus_flows.tasks.record import Synthesis as Synthesis
    from consensus_flows.tasks.record import Usage as Usage
    from consensus_flows.tasks.reports.report import Artifact as Artifact
    from consensus_flows.tasks.reports.report import Report as Report

_NAMES = {
    "blocks.consensus_learning": ("ConsensusLearning", "ConsensusLearningConfig"),
    "blocks.consortium": ("Consortium", "ConsortiumConfig"),
    "blocks.credentials": (
        "AnthropicCredentials",
        "GoogleCredentials",
        "OpenAICompatibleCredentials",
        "OpenAICredentials",
    ),
    "blocks.history": ("HistoryDatabase",),
    "blocks.mixture_of_agents": ("MixtureOfAgents", "MixtureOfAgentsConfig"),
    "blocks.panel": ("OneModel", "PanelConfig", "RunConfig"),
    "blocks.prefer": ("Prefer", "PreferConfig"),
    "blocks.pump": ("Pump", "PumpConfig"),
    "blocks.sampling": ("Sampling",),
    "blocks.settings": ("Budget", "saved_config"),
    "blocks.swarm": ("Swarm", "SwarmConfig"),
    "blocks.vote": ("Vote", "VoteConfig"),
    "deployments.ask": ("ask",),
    "deployments.server": ("connect",),
    "flows.algorithms": ("Algorithm",),
    "flows.batch": ("batch",),
    "flows.consensus_learning": ("consensus_learning", "run_consensus_learning"),
    "flows.consortium": ("consortium", "run_consortium"),
    "flows.mixture_of_agents": ("mixture_of_agents", "run_mixture_of_agents"),
    "flows.prefer": ("prefer", "run_prefer"),
    "flows.pump": ("pump", "run_pump"),
    "flows.run": ("FLOW", "Run", "begin", "run_as_flow"),
    "flows.swarm": ("run_swarm", "swarm"),
    "flows.vote": ("run_vote", "vote"),
    "tasks.batches.planning": ("Planned", "member_calls"),
    "tasks.batches.summary": ("BatchSummary",),
    "tasks.calls.call": ("Call",),
    "tasks.calls.request": ("Message",),
    "tasks.errors": ("ConfigurationError", "ConsensusError", "QuorumError"),
    "tasks.record": (
        "CallError",
        "Iteration",
        "NoAnswerError",
        "Record",
        "Response",
        "RunWarning",
        "Synthesis",
        "Usage",
    ),
    "tasks.reports.report": ("Artifact", "Report"),
}
"""Where a name is found; what is above tells type checkers the same."""
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = ["__version__", *_MODULES]  # noqa: PLE0604 - all of them are texts


def __getattr__(name: str) -> Any:
    """Import a name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
