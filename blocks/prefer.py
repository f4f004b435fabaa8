"""The settings of a prefer run, and the block in which they are saved."""

from typing import Self

from pydantic import Field, model_validator

from consensus_flows.blocks.member import ModelName, named
from consensus_flows.blocks.panel import PanelConfig, StandIn
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.blocks.settings import saved_config


class PreferConfig(PanelConfig):
    """Who answers and then ranks the answers of the others."""

    rounds: int = Field(
        1,
        ge=1,
        le=1000,
        description="Number of rounds; each has new samples and new orders.",
    )
    include_self: bool = Field(
        False,
        description="Show each judge its own answer too; it does not count, but measures self-preference.",
    )
    criteria: str = Field(
        "",
        description="Criteria of the ranking; default: truth first, then completeness, then clarity.",
    )
    stand_in: StandIn = None
    judge_settings: Sampling = Field(
        default_factory=Sampling,
        description="Sampling settings of the members when they judge.",
    )

    @model_validator(mode="after")
    def _check_judges(self) -> Self:
        if len(self.panel()) < 3:
            raise ValueError(
                f"members: there are only {len(self.panel())}, and each judge needs two answers of others to compare: "
                "name at least 3"
            )
        return self

    def by_schema(self) -> list[ModelName]:
        """Those of the models whose answer is read by a JSON schema: the members, when they judge."""
        return [member.name for member in self.panel()]

    def models(self) -> list[ModelName]:
        """Every model that a run may ask, the members' first."""
        return [*super().models(), *named(self.stand_in)]


Prefer = saved_config("Prefer", PreferConfig)
