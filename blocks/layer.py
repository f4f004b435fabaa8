"""One layer of a mixture of agents, and the instructions of its models."""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from consensus_flows.blocks.member import Member, members_of
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.blocks.settings import Settings
from consensus_flows.blocks.spelling import did_you_mean


class Layer(Settings):
    """The models of one layer and their settings."""

    members: list[str] = Field(
        min_length=1,
        description="Models of the layer, each provider/model or provider/model:count.",
        examples=[["openai/gpt-6-luna", "anthropic/claude-haiku-4-5:2"]],
    )
    sampling: Sampling = Field(
        default_factory=Sampling,
        description="Sampling settings of the layer; they override those of the run.",
    )
    member_settings: dict[str, Sampling] = Field(
        default_factory=dict,
        description="Sampling settings of one model of the layer, by provider/model; they override all others.",
    )
    system: str | None = Field(None, description="System prompt of the layer; default: that of the run.")
    quorum: int | None = Field(
        None,
        ge=1,
        description="Minimum number of models of the layer that must answer; default: the quorum of the run.",
    )
    timeout: float | None = Field(
        None,
        gt=0,
        description="Timeout of a request of the layer, in seconds; default: that of the run.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = {str(member.name) for member in self.panel()}
        for name in self.member_settings:
            if name not in known:
                raise ValueError(
                    f"member_settings: {name!r} is not in the layer.{did_you_mean(name, known)} Use one of {', '.join(sorted(known))}"
                )
        return self

    def panel(self) -> list[Member]:
        """List every instance of every model of the layer, in the order given."""
        return members_of(self.members)


def _of_names(value: Any) -> Any:
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",") if name.strip()]
    return {"members": value} if isinstance(value, list) else value


# With the forms that it may be written in, so that Prefect's check of parameters knows them too.
NamedLayer = Annotated[Layer, BeforeValidator(_of_names, json_schema_input_type=Layer | list[str] | str)]
"""A layer, or its models as `P/A,P/B:2` or as a list."""


class MixturePrompts(Settings):
    """Instructions in place of the built-in ones. The question and the answers are shown in any case."""

    initial: str | None = Field(
        None,
        description="Instructions for the first layer; an empty text for none.",
    )
    aggregate: str | None = Field(
        None,
        min_length=1,
        description="Instructions for the further layers.",
    )
    final: str | None = Field(
        None,
        min_length=1,
        description="Instructions for the aggregator.",
    )
