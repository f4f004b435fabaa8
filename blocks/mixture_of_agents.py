"""The settings of a mixture-of-agents run, and the block in which they are saved."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from consensus_flows.blocks.layer import Layer, MixturePrompts, NamedLayer
from consensus_flows.blocks.member import Member, ModelName, named, parse_member
from consensus_flows.blocks.panel import OneModel, PanelConfig, RunConfig, StandIn
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.blocks.settings import saved_config
from consensus_flows.blocks.spelling import did_you_mean


class MixtureOfAgentsConfig(RunConfig):
    """Who proposes in each layer, and who makes the one answer."""

    layers: list[NamedLayer] = Field(
        default_factory=list,
        description="Layers of models, in order, without the aggregator. A layer may be a text P/A,P/B:2 or a list of models.",
    )
    aggregator: str = Field(
        "",
        description="Model that writes the final answer, as provider/model; default: the model of self_moa.",
    )
    fallback_aggregators: list[OneModel] = Field(
        default_factory=list,
        description="Models to use, in order, if the aggregator fails.",
    )
    stand_in: StandIn = None
    self_moa: str | None = Field(
        None,
        description="Model to sample several times instead of layers (Self-MoA), as provider/model.",
    )
    samples: int = Field(6, ge=1, le=1000, description="Number of samples of the model of self_moa.")
    window: int | None = Field(
        None,
        ge=2,
        description=(
            "Maximum number of answers that the aggregator sees at a time; it continues from its synthesis so far"
            " (Self-MoA-Seq). Default: all."
        ),
    )
    reserved: int = Field(
        1,
        ge=1,
        description="Number of places in each further window taken by the synthesis so far; more give it more weight.",
    )
    prompts: MixturePrompts = Field(
        default_factory=MixturePrompts,
        description="Instructions that replace the built-in ones.",
    )
    aggregator_settings: Sampling = Field(
        default_factory=Sampling,
        description="Sampling settings of the aggregator; they override those of all models.",
    )

    @classmethod
    def missing(cls, values: Mapping[str, Any]) -> list[str]:
        """Name the settings that a run needs and that `values` do not hold."""
        return [] if values.get("self_moa") else [name for name in ("layers", "aggregator") if not values.get(name)]

    @classmethod
    def under(cls, below: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of `below` without layers if self-MoA is given over them, and the other way round."""
        gone = {
            *(("self_moa", "samples") if given.get("layers") else ()),
            *(("layers",) if given.get("self_moa") else ()),
        }
        return {name: value for name, value in below.items() if name not in gone}

    @field_validator("aggregator", "self_moa")
    @classmethod
    def _check_names(cls, value: str | None) -> str | None:
        if value and parse_member(value)[1] > 1:
            raise ValueError(f"{value!r} must not have a count; for self_moa, set samples")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.self_moa and self.layers:
            raise ValueError("self_moa and layers exclude each other: set one of them")
        if not self.aggregator and not self.self_moa:
            raise ValueError("aggregator: set the model that writes the final answer, as provider/model")
        if self.window is not None and self.reserved >= self.window:
            raise ValueError(
                f"reserved is {self.reserved}, which leaves no room for answers in a window of {self.window}"
            )
        self.refuse_unless(
            self.window,
            "requires window, the maximum number of answers seen at a time: set both, or remove it",
            "reserved",
        )
        self.refuse_unless(
            self.self_moa, "requires self_moa: set its model, or use a count in a layer, as provider/model:6", "samples"
        )
        self._check_layers()
        return self

    def _check_layers(self) -> None:
        known = {str(member.name) for layer in self.proposer_layers() for member in layer.panel()}
        for name in self.member_settings:
            if known and name not in known:
                raise ValueError(
                    f"member_settings: {name!r} is in no layer.{did_you_mean(name, known)} Use one of {', '.join(sorted(known))}"
                )
        for number, layer in enumerate(self.proposer_layers(), 1):
            quorum = layer.quorum or self.quorum
            if quorum is not None and quorum > len(layer.panel()):
                raise ValueError(f"layer {number}: quorum is {quorum}, but it has only {len(layer.panel())} members")

    def proposer_layers(self) -> list[Layer]:
        """The layers before the aggregator."""
        return [Layer(members=[f"{self.self_moa}:{self.samples}"])] if self.self_moa else self.layers

    def panel_of(self, layer: Layer) -> PanelConfig:
        """Return the settings that hold in `layer`: its own override those of the run."""
        members = layer.panel()
        names = {str(member.name) for member in members}
        own = {**self.member_settings}
        for name, sampling in layer.member_settings.items():
            own[name] = sampling.over(own[name]) if name in own else sampling
        values: dict[str, Any] = {name: getattr(self, name) for name in RunConfig.model_fields}
        values |= {
            "members": layer.members,
            "system": self.system if layer.system is None else layer.system,
            "quorum": layer.quorum or self.quorum,
            "timeout": layer.timeout or self.timeout,
            "sampling": layer.sampling.over(self.sampling),
            "member_settings": {name: sampling for name, sampling in own.items() if name in names},
            "prices": [],  # those of the run hold, the aggregator's among them
        }
        return PanelConfig.model_validate(values)

    def members(self) -> list[Member]:
        """Every proposer of every layer, in order."""
        return [member for layer in self.proposer_layers() for member in layer.panel()]

    def aggregator_sampling(self) -> Sampling:
        """Return the sampling settings of the aggregator: its own override those of the run."""
        return self.aggregator_settings.over(self.sampling)

    def aggregators(self) -> list[ModelName]:
        """The aggregator and then its fallbacks."""
        return [parse_member(name)[0] for name in (self.aggregator or self.self_moa or "", *self.fallback_aggregators)]

    def models(self) -> list[ModelName]:
        """Every model that a run may ask, the proposers first."""
        return [*(member.name for member in self.members()), *self.aggregators(), *named(self.stand_in)]


MixtureOfAgents = saved_config("Mixture of Agents", MixtureOfAgentsConfig)
