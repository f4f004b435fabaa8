"""The settings of a consortium run, and the block in which they are saved."""

from typing import Literal

from pydantic import Field, model_validator

from consensus_flows.blocks.member import ModelName, named, parse_member
from consensus_flows.blocks.panel import OneModel, PanelConfig, StandIn
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.blocks.settings import saved_config


class ConsortiumConfig(PanelConfig):
    """Who is asked, who judges, and when to stop."""

    arbiter: OneModel = Field(description="Model that merges or ranks the answers, as provider/model.")
    fallback_arbiters: list[OneModel] = Field(
        default_factory=list,
        description="Models to use, in order, if the arbiter fails.",
    )
    stand_in: StandIn = None
    judging_method: Literal["synthesize", "rank"] = Field(
        "synthesize",
        description=(
            "Whether the arbiter writes one answer (synthesize), or ranks the answers and the best is returned "
            "verbatim (rank)."
        ),
    )
    comparison: bool = Field(
        True,
        description="Compare the answers, too: where they agree, contradict each other and fall short.",
    )
    confidence_threshold: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Confidence at which to stop, if the arbiter wants no further round; 0.8 is 80 %.",
    )
    max_iterations: int = Field(3, ge=1, description="Maximum number of iterations.")
    min_iterations: int = Field(1, ge=1, description="Minimum number of iterations.")
    keep: Literal["best", "last"] = Field(
        "best",
        description="Iteration to return: the one of the highest confidence, or the last one.",
    )
    arbiter_settings: Sampling = Field(default_factory=Sampling, description="Sampling settings of the arbiter.")

    @model_validator(mode="after")
    def _check(self) -> "ConsortiumConfig":
        if self.min_iterations > self.max_iterations:
            raise ValueError(
                f"min_iterations is {self.min_iterations}, more than max_iterations, {self.max_iterations}: "
                "lower the first or raise the second"
            )
        return self

    def arbiters(self) -> list[ModelName]:
        """The arbiter and then its fallbacks."""
        return [parse_member(name)[0] for name in (self.arbiter, *self.fallback_arbiters)]

    def by_schema(self) -> list[ModelName]:
        """Those of the models whose answer is read by a JSON schema."""
        return [*super().by_schema(), *self.arbiters()]

    def models(self) -> list[ModelName]:
        """Every model that a run may ask, the members' first."""
        return [*super().models(), *self.arbiters(), *named(self.stand_in)]


Consortium = saved_config("Consortium", ConsortiumConfig)
