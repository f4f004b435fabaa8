"""The settings of a consortium run, and the block in which they are saved."""

from typing import Literal

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, field_validator, model_validator

from consensus_flows.blocks.member import ModelName, parse_member
from consensus_flows.blocks.panel import PanelConfig
from consensus_flows.blocks.sampling import Sampling


class ConsortiumConfig(PanelConfig):
    """Who is asked, who judges, and when to stop."""

    arbiter: str = Field(
        description="Model that compares the answers, as provider/model.", json_schema_extra={"position": 2}
    )
    fallback_arbiters: list[str] = Field(
        default_factory=list,
        description="Models that judge, in order, when the arbiter fails.",
        json_schema_extra={"position": 3},
    )
    judging_method: Literal["synthesize", "rank"] = Field(
        "synthesize",
        description="The arbiter writes one answer (synthesize), or ranks them and the best is returned word for word.",
        json_schema_extra={"position": 4},
    )
    comparison: bool = Field(
        True,
        description="Have the arbiter compare the answers, too: where they agree, contradict each other and fall short.",
        json_schema_extra={"position": 9},
    )
    confidence_threshold: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Stop when the arbiter is this confident and wants no further round; 0.8 is 80 %.",
        json_schema_extra={"position": 5},
    )
    max_iterations: int = Field(3, ge=1, description="Most iterations.", json_schema_extra={"position": 6})
    min_iterations: int = Field(1, ge=1, description="Fewest iterations.", json_schema_extra={"position": 7})
    keep: Literal["best", "last"] = Field(
        "best",
        description="Return the iteration of the highest confidence, or the last one.",
        json_schema_extra={"position": 8},
    )
    arbiter_settings: Sampling = Field(
        default_factory=Sampling, description="Sampling settings of the arbiter.", json_schema_extra={"position": 15}
    )

    @field_validator("arbiter", "fallback_arbiters")
    @classmethod
    def _check_arbiters(cls, value: str | list[str]) -> str | list[str]:
        for name in [value] if isinstance(value, str) else value:
            if parse_member(name)[1] > 1:
                raise ValueError(f"{name!r} has a count; one instance judges, so write it without")
        return value

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

    def models(self) -> list[ModelName]:
        """Every model that a run may ask, the members' first."""
        return [*super().models(), *self.arbiters()]


class Consortium(Block):
    """A saved configuration of the consortium flow.

    Example:
        Load a saved configuration:
        ```python
        from consensus_flows.blocks import Consortium

        saved = Consortium.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Consortium"
    _block_type_slug = "consortium"
    # The picture that `prefect.filesystems` uses: a configuration is a small document.
    _logo_url = HttpUrl(
        "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9/assets/block-logos/filesystem.png"
    )
    _documentation_url = HttpUrl("https://docs.prefect.io/latest/develop/blocks")

    config: ConsortiumConfig = Field(description="The settings of the run.")
