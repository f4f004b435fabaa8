"""The settings of a consensus learning run, and the block in which they are saved."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.blocks.member import Member, ModelName, named, parse_member
from consensus_flows.blocks.panel import OneModel, PanelConfig, StandIn
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.blocks.settings import Settings, saved_config
from consensus_flows.blocks.spelling import did_you_mean

Approach = Literal["centralized_llm", "majority", "medoid", "decentralized"]
PromptType = Literal["user", "assistant", "system"]
SETTINGS_OF: dict[tuple[Approach, ...], tuple[str, ...]] = {
    ("centralized_llm",): (
        "aggregator",
        "fallback_aggregators",
        "stand_in",
        "aggregator_context",
        "aggregator_prompt",
        "aggregator_settings",
    ),
    ("majority", "decentralized"): ("extract",),
    ("decentralized",): ("decentralized", "alike"),
}
"""Settings that only some approaches have."""


def is_used(name: str, approach: Approach | None) -> bool:
    """Tell whether a setting has an effect in an approach; in an unknown one it may."""
    return approach is None or all(approach in approaches for approaches, names in SETTINGS_OF.items() if name in names)


class Turn(Settings):
    """One turn that the aggregator is shown."""

    model_config = ConfigDict(frozen=True)

    role: PromptType = Field(description="Role of the turn.")
    content: str = Field(min_length=1, description="Text of the turn.")


def _turns(role: PromptType) -> BeforeValidator:
    """Let a plain text stand for one turn of `role`."""

    def read(value: Any) -> Any:
        return [{"role": role, "content": value}] if isinstance(value, str) else value

    return BeforeValidator(read, json_schema_input_type=list[Turn] | str)


class Snowflake(Settings):
    """The parameters of the decentralized consensus (Snowflake, arXiv:1906.08936)."""

    model_config = ConfigDict(frozen=True)

    k: int = Field(
        10,
        ge=1,
        le=1000,
        description="Number of peers that a member asks in each round, or all if there are fewer.",
    )
    alpha: float = Field(
        0.6,
        gt=0.5,
        le=1,
        description="Share of the asked peers that must hold a value for a member to adopt it.",
    )
    beta: int = Field(
        5,
        ge=1,
        le=1000,
        description="Number of consecutive rounds that must confirm a value to settle it.",
    )
    max_rounds: int = Field(100, ge=1, le=10_000, description="Maximum number of rounds.")


class ConsensusLearningConfig(PanelConfig):
    """Who is asked, how the answers are aggregated, and how the aggregate goes back."""

    aggregator: OneModel | None = Field(
        None,
        description="Model that merges the answers, as provider/model; required by centralized_llm.",
    )
    fallback_aggregators: list[OneModel] = Field(
        default_factory=list,
        description="Models to use, in order, if the aggregator fails.",
    )
    stand_in: StandIn = None
    approach: Approach = Field(
        "centralized_llm",
        description=(
            "How to aggregate: by a model (centralized_llm), by counting extracted answers (majority), by taking "
            "the answer closest to all others (medoid), or by members asking random peers (decentralized)."
        ),
    )
    iterations: int = Field(
        1,
        ge=0,
        le=100,
        description="Number of improvement rounds after the first round.",
    )
    aggregated_prompt_type: PromptType = Field(
        "user",
        description="Role in which members see the aggregate; system appends it to the leading system message.",
    )
    improvement_prompt: str = Field(
        "",
        description="Instruction to the members on the aggregate; default: built in.",
    )
    aggregator_context: Annotated[list[Turn], _turns("system")] = Field(
        default_factory=list,
        description="Turns that the aggregator sees first; a plain text is a system prompt.",
    )
    aggregator_prompt: Annotated[list[Turn], _turns("user")] = Field(
        default_factory=list,
        description="Instruction to the aggregator after the answers; a plain text is one user turn. Default: built in.",
    )
    extract: str | None = Field(
        None,
        description=(
            "How to read the answer: number, choice, json:FIELD, label:A,B, text or exact. Used by majority and "
            "decentralized; without it, decentralized compares whole texts."
        ),
    )
    decentralized: Snowflake = Field(
        default_factory=Snowflake,
        description="Parameters of the decentralized approach.",
    )
    alike: float = Field(
        0.6,
        gt=0,
        le=1,
        description="Minimum similarity of two texts that count as one value in the decentralized approach.",
    )
    stop_when_stable: bool = Field(
        False,
        description="Stop when a round no longer changes the answer and the members agree.",
    )
    stability_threshold: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Minimum similarity of two consecutive aggregates, and minimum agreement, to be stable.",
    )
    aggregator_settings: Sampling = Field(default_factory=Sampling, description="Sampling settings of the aggregator.")
    instance_settings: dict[str, Sampling] = Field(
        default_factory=dict,
        description="Sampling settings of one instance, by provider/model#number; they override those of its model.",
    )

    @classmethod
    def missing(cls, values: Mapping[str, Any]) -> list[str]:
        """Name the settings that a run needs and that `values` do not hold."""
        central = values.get("approach", "centralized_llm") == "centralized_llm"
        return [*super().missing(values), *(["aggregator"] if central and not values.get("aggregator") else [])]

    @classmethod
    def under(cls, below: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of `below` without those that an approach given over them does not use."""
        return {name: value for name, value in below.items() if is_used(name, given.get("approach"))}

    @field_validator("aggregator_prompt")
    @classmethod
    def _check_prompt(cls, value: list[Turn]) -> list[Turn]:
        said = [turn for turn in value if turn.role != "system"]
        if said and said[-1].role != "user":
            raise ValueError("the last turn must be a user's, not the assistant's")
        return value

    @field_validator("extract")
    @classmethod
    def _check_extract(cls, value: str | None) -> str | None:
        if value is not None and parse_extraction(value).kind == "llm":
            raise ValueError("llm is not supported here: use number, choice, json:FIELD, label:A,B, text or exact")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.approach == "centralized_llm" and self.aggregator is None:
            raise ValueError(
                "aggregator: required by the approach centralized_llm: set it as provider/model, or use majority,"
                " medoid or decentralized"
            )
        self._check_unused()
        known = {str(member) for member in self.panel()}
        for name in self.instance_settings:
            if name not in known:
                raise ValueError(
                    f"instance_settings: {name!r} is not a member.{did_you_mean(name, known)} Use one of {', '.join(sorted(known))}"
                )
        return self

    def _check_unused(self) -> None:
        """Refuse settings that the approach does not have, or that would have no effect."""
        fit = f"not used by the approach {self.approach}: remove it, or use"
        for approaches, names in SETTINGS_OF.items():
            self.refuse_unless(self.approach in approaches, f"{fit} {' or '.join(approaches)}", *names)
        self.refuse_unless(
            self.extract is None,
            "has no effect with extract, because no texts are compared: remove one of them",
            "alike",
        )
        self.refuse_unless(
            self.stop_when_stable,
            "requires stop_when_stable: set both, or remove it",
            "stability_threshold",
        )

    def aggregators(self) -> list[ModelName]:
        """The aggregator and then its fallbacks; none where the approach asks no model."""
        if self.approach != "centralized_llm" or self.aggregator is None:
            return []
        return [parse_member(name)[0] for name in (self.aggregator, *self.fallback_aggregators)]

    def schema_refusal(self) -> str | None:
        """Say why the answer of a run cannot be JSON by the schema of whoever asks; None where it can."""
        return None if self.extract is None else f"its answer is what it reads (extract {self.extract})"

    def models(self) -> list[ModelName]:
        """Every model that a run may ask, the members' first."""
        return [*super().models(), *self.aggregators(), *named(self.stand_in)]

    def settings_of(self, member: Member) -> Sampling:
        """Return the sampling settings of `member`: its own over those of its model over those of all."""
        own = self.instance_settings.get(str(member))
        settings = super().settings_of(member)
        return own.over(settings) if own else settings


ConsensusLearning = saved_config("Consensus Learning", ConsensusLearningConfig)
