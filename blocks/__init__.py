"""What is saved: the credentials of a vendor, a saved configuration of a flow."""

from consensus_flows.blocks import cloud_credentials, credentials

# What is in its __all__, so not the base: Prefect registers every class of blocks that it finds here, and would offer it in
# the UI.
from consensus_flows.blocks.cloud_credentials import *  # noqa: F403
from consensus_flows.blocks.consensus_learning import ConsensusLearning, ConsensusLearningConfig
from consensus_flows.blocks.consortium import Consortium, ConsortiumConfig
from consensus_flows.blocks.credentials import *  # noqa: F403
from consensus_flows.blocks.history import HistoryDatabase
from consensus_flows.blocks.member import Member, ModelName, parse_member, parse_model
from consensus_flows.blocks.mixture_of_agents import MixtureOfAgents, MixtureOfAgentsConfig
from consensus_flows.blocks.notification import AppriseAddress
from consensus_flows.blocks.panel import PanelConfig, RunConfig
from consensus_flows.blocks.prefer import Prefer, PreferConfig
from consensus_flows.blocks.pump import Pump, PumpConfig
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.blocks.settings import Budget
from consensus_flows.blocks.swarm import Swarm, SwarmConfig
from consensus_flows.blocks.vote import Vote, VoteConfig

__all__ = [
    "AppriseAddress",
    "Budget",
    "ConsensusLearning",
    "ConsensusLearningConfig",
    "Consortium",
    "ConsortiumConfig",
    "HistoryDatabase",
    "Member",
    "MixtureOfAgents",
    "MixtureOfAgentsConfig",
    "ModelName",
    "PanelConfig",
    "Prefer",
    "PreferConfig",
    "Pump",
    "PumpConfig",
    "RunConfig",
    "Sampling",
    "Swarm",
    "SwarmConfig",
    "Vote",
    "VoteConfig",
    "parse_member",
    "parse_model",
]
__all__ += credentials.__all__ + cloud_credentials.__all__
