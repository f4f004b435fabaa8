"""The settings of a consortium run, and the block in which they are saved."""

from typing import Literal

from prefect.blocks.core import Block
from pydantic import BaseModel, ConfigDict, Field, model_validator

from blocks.budget import Budget
from blocks.member import Member, ModelName, members_of, parse_member
from blocks.sampling import Sampling


class ConsortiumConfig(BaseModel):
    """Who is asked, who judges, and when to stop."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    members: list[str] = Field(
        min_length=1,
        description="Models that answer, each provider/model or provider/model:count for several instances.",
        examples=[["openai/gpt-6-luna", "anthropic/claude-haiku-4-5:2"]],
        json_schema_extra={"position": 1},
    )
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
    confidence_threshold: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Stop when the arbiter's confidence reaches this share; 0.8 is 80 %.",
        json_schema_extra={"position": 5},
    )
    max_iterations: int = Field(3, ge=1, description="Most iterations.", json_schema_extra={"position": 6})
    min_iterations: int = Field(1, ge=1, description="Fewest iterations.", json_schema_extra={"position": 7})
    keep: Literal["best", "last"] = Field(
        "best",
        description="Return the iteration of the highest confidence, or the last one.",
        json_schema_extra={"position": 8},
    )
    system: str | None = Field(
        None, description="System prompt of the members; the arbiter is told of it.", json_schema_extra={"position": 9}
    )
    quorum: int | None = Field(
        None,
        ge=1,
        description="Members that must answer in each iteration; empty for more than half.",
        json_schema_extra={"position": 10},
    )
    straggler_grace: float | None = Field(
        None,
        gt=0,
        description="Once the quorum is in, wait for the rest at most so many times the median time; empty: wait.",
        json_schema_extra={"position": 11},
    )
    timeout: float = Field(
        120.0, gt=0, description="Seconds that one request may take.", json_schema_extra={"position": 12}
    )
    sampling: Sampling = Field(
        default_factory=Sampling, description="Sampling settings of all members.", json_schema_extra={"position": 13}
    )
    member_settings: dict[str, Sampling] = Field(
        default_factory=dict,
        description="Sampling settings of one member, by provider/model; laid over those of all.",
        json_schema_extra={"position": 14},
    )
    arbiter_settings: Sampling = Field(
        default_factory=Sampling, description="Sampling settings of the arbiter.", json_schema_extra={"position": 15}
    )
    budget: Budget = Field(
        default_factory=Budget, description="What the run may spend.", json_schema_extra={"position": 16}
    )
    seed: int = Field(
        0, description="Seed of the order in which the arbiter sees the answers.", json_schema_extra={"position": 17}
    )
    fresh: bool = Field(
        False, description="Ask again even where an answer is stored, and replace it.", json_schema_extra={"position": 18}
    )

    @model_validator(mode="after")
    def _check(self) -> "ConsortiumConfig":
        members = self.panel()
        for field, names in (("arbiter", [self.arbiter]), ("fallback_arbiters", self.fallback_arbiters)):
            for name in names:
                if parse_member(name)[1] > 1:
                    raise ValueError(f"{field}: {name!r} has a count; one instance judges, so write it without")
        if self.min_iterations > self.max_iterations:
            raise ValueError(
                f"min_iterations is {self.min_iterations}, more than max_iterations, {self.max_iterations}: "
                "lower the first or raise the second"
            )
        if self.quorum is not None and self.quorum > len(members):
            raise ValueError(f"quorum is {self.quorum}, but there are only {len(members)} members")
        known = {str(member.name) for member in members}
        for name in self.member_settings:
            if name not in known:
                raise ValueError(f"member_settings: {name!r} is no member; members are {', '.join(sorted(known))}")
        return self

    def panel(self) -> list[Member]:
        """List every instance of every member, in the order given."""
        return members_of(self.members)

    def needed(self) -> int:
        """The quorum: how many members must answer."""
        return self.quorum or len(self.panel()) // 2 + 1

    def settings_of(self, member: Member) -> Sampling:
        """Return the sampling settings of `member`."""
        own = self.member_settings.get(str(member.name))
        return own.over(self.sampling) if own else self.sampling

    def arbiters(self) -> list[ModelName]:
        """The arbiter and then its fallbacks."""
        return [parse_member(name)[0] for name in (self.arbiter, *self.fallback_arbiters)]


class Consortium(Block):
    """A saved configuration of the consortium flow.

    Example:
        Load a saved configuration:
        ```python
        from blocks import Consortium

        saved = Consortium.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Consortium"
    _block_type_slug = "consortium"
    _logo_url = f"{'https://raw.githubusercontent.com/PrefectHQ/prefect/main/assets/block-logos'}/json.png"  # type: ignore[assignment]
    _documentation_url = "https://github.com/search?q=consensus-flows"  # type: ignore[assignment]

    config: ConsortiumConfig = Field(description="The settings of the run.")
