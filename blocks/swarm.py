"""The settings of a swarm of sub-tasks, and the block in which they are saved."""

from typing import Self

from pydantic import Field, model_validator

from consensus_flows.blocks.member import Member, ModelName, parse_member
from consensus_flows.blocks.panel import OneModel, PanelConfig
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.blocks.settings import saved_config


class SwarmConfig(PanelConfig):
    """Who splits a task into parts, who answers them, and who joins the answers."""

    members: list[str] = Field(
        min_length=1,
        description="Models that answer the parts, in turn: provider/model, or panel/NAME for a saved panel.",
        examples=[["openai/gpt-6-luna", "panel/night"]],
    )
    orchestrator: OneModel = Field(description="Model that splits the task into parts, as provider/model.")
    aggregator: OneModel | None = Field(
        None,
        description="Model that joins the answers of the parts, as provider/model; default: the orchestrator.",
    )
    fallback_aggregators: list[OneModel] = Field(
        default_factory=list,
        description="Models to use, in order, if the aggregator fails.",
    )
    max_parts: int = Field(6, ge=2, le=100, description="Maximum number of parts.")
    quorum: int | None = Field(
        None,
        ge=1,
        description="Minimum number of parts that must have an answer; default: more than half.",
    )
    orchestrator_settings: Sampling = Field(
        default_factory=Sampling, description="Sampling settings of the orchestrator."
    )
    aggregator_settings: Sampling = Field(default_factory=Sampling, description="Sampling settings of the aggregator.")

    @model_validator(mode="after")
    def _check_quorum(self) -> Self:
        if self.quorum is not None and self.quorum > self.max_parts:
            raise ValueError(f"quorum is {self.quorum}, but there are at most {self.max_parts} parts")
        return self

    @model_validator(mode="after")
    def _check_unused(self) -> Self:
        self.refuse_unless(False, "has no effect on parts, which are not compared: remove it", "embedding_model")
        self.refuse_unless(False, "a swarm answers in free text: remove it", "answer_schema")
        return self

    def turns(self, parts: int) -> list[Member]:
        """Who answers each of so many parts: the members in turn, a further instance of a model for each of its parts."""
        panel = [member.name for member in self.panel()]
        names = [panel[number % len(panel)] for number in range(parts)]
        return [Member(name, names[: number + 1].count(name)) for number, name in enumerate(names)]

    def needed_of(self, parts: int) -> int:
        """How many of so many parts must have an answer."""
        return min(parts, self.quorum or parts // 2 + 1)

    def orchestrator_model(self) -> ModelName:
        """The orchestrator."""
        return parse_member(self.orchestrator)[0]

    def aggregators(self) -> list[ModelName]:
        """The aggregator and then its fallbacks."""
        return [parse_member(name)[0] for name in (self.aggregator or self.orchestrator, *self.fallback_aggregators)]

    def by_schema(self) -> list[ModelName]:
        """Those of the models whose answer is read by a JSON schema."""
        return [self.orchestrator_model()]

    def schema_refusal(self) -> str | None:
        """Say why the answer of a run cannot be JSON by the schema of whoever asks; None where it can."""
        return "a swarm answers in free text"

    def models(self) -> list[ModelName]:
        """Every model that a run may ask, the members' first."""
        return [*super().models(), self.orchestrator_model(), *self.aggregators()]


Swarm = saved_config("Swarm", SwarmConfig)
