"""What is saved: the credentials of a vendor, a saved configuration of a flow."""

from blocks.budget import Budget
from blocks.consortium import Consortium, ConsortiumConfig
from blocks.credentials import (
    AnthropicCredentials,
    GoogleCredentials,
    ModelCredentials,
    OpenAICompatibleCredentials,
    OpenAICredentials,
)
from blocks.member import Member, ModelName, parse_member, parse_model
from blocks.panel import PanelConfig, RunConfig
from blocks.sampling import Sampling

__version__ = "0.1.0"

__all__ = [
    "AnthropicCredentials",
    "Budget",
    "Consortium",
    "ConsortiumConfig",
    "GoogleCredentials",
    "Member",
    "ModelCredentials",
    "ModelName",
    "OpenAICompatibleCredentials",
    "OpenAICredentials",
    "PanelConfig",
    "RunConfig",
    "Sampling",
    "parse_member",
    "parse_model",
]
