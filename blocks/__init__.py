"""What is saved: the credentials of a vendor, a saved configuration of a flow."""

from blocks.budget import Budget
from blocks.consensus_learning import ConsensusLearning, ConsensusLearningConfig
from blocks.consortium import Consortium, ConsortiumConfig

# Not their base: Prefect registers every class of blocks that it finds here, and would offer it in the UI.
from blocks.credentials import (
    AnthropicCredentials,
    GoogleCredentials,
    OpenAICompatibleCredentials,
    OpenAICredentials,
)
from blocks.history import HistoryDatabase
from blocks.member import Member, ModelName, parse_member, parse_model
from blocks.panel import PanelConfig, RunConfig
from blocks.prefer import Prefer, PreferConfig
from blocks.pump import Pump, PumpConfig
from blocks.sampling import Sampling
from blocks.vote import Vote, VoteConfig

__version__ = "0.1.0"

__all__ = [
    "AnthropicCredentials",
    "Budget",
    "ConsensusLearning",
    "ConsensusLearningConfig",
    "Consortium",
    "ConsortiumConfig",
    "GoogleCredentials",
    "HistoryDatabase",
    "Member",
    "ModelName",
    "OpenAICompatibleCredentials",
    "OpenAICredentials",
    "PanelConfig",
    "Prefer",
    "PreferConfig",
    "Pump",
    "PumpConfig",
    "RunConfig",
    "Sampling",
    "Vote",
    "VoteConfig",
    "parse_member",
    "parse_model",
]
