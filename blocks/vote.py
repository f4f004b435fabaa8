"""The settings of a vote, and the block in which they are saved."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.blocks.member import Member, ModelName, parse_member
from consensus_flows.blocks.panel import PanelConfig
from consensus_flows.blocks.sampling import Sampling
from consensus_flows.blocks.settings import saved_config


def _read_weights(value: Any) -> Any:
    """Let `a=1,b=2` stand for the weights, as they are written on a command line."""
    if not isinstance(value, str):
        return value
    weights: dict[str, str] = {}
    for part in value.split(","):
        name, equals, weight = part.strip().rpartition("=")
        if not equals or not name.strip():
            raise ValueError(f"{part.strip()!r} is not a weight: use member=weight, for example openai/gpt-6-luna=2")
        weights[name.strip()] = weight.strip()
    return weights


COUNTING = frozenset({"extract", "extractor", "stop_when", "waves", "weights"})
"""Settings of the count, which a pairwise judge does without."""


class VoteConfig(PanelConfig):
    """Who votes, how an answer is read and when to stop; or who compares the answers in pairs."""

    extract: str = Field(
        "text",
        description=(
            "How to read the answer: number, choice (a letter), choice:A-D, json:FIELD, label:A,B, text (all of it, "
            "normalized), text:FIELD, exact (all of it, as it is), exact:FIELD or llm (a model reads it)."
        ),
        examples=["number", "json:answer"],
    )
    extractor: str | None = Field(
        None,
        description="Model that reads the answers, as provider/model; required if extract is llm.",
    )
    stop_when: int | None = Field(
        None,
        ge=1,
        description="Number of votes at which to stop; members are then asked in order. Default: ask all.",
    )
    waves: int | None = Field(
        None,
        ge=1,
        description="Number of members to ask at a time with stop_when; default: 1.",
    )
    weights: Annotated[dict[str, float], BeforeValidator(_read_weights, json_schema_input_type=dict[str, float])] = (
        Field(
            default_factory=dict,
            description=(
                "Weights of the votes, by provider/model, provider/model#instance or the model's name alone; "
                "default: 1 each."
            ),
        )
    )
    pairwise_judge: str | None = Field(
        None,
        description="Model that ranks the answers in pairs instead of counting votes, as provider/model.",
    )
    comparisons: int | None = Field(
        None,
        ge=1,
        description="Maximum number of pairs to compare; default: all.",
    )
    fuse: str | None = Field(
        None,
        description="Model that writes one answer from the best ones, as provider/model; requires a pairwise judge.",
    )
    fuse_top: int = Field(3, ge=1, description="Number of best answers to fuse.")
    judge_settings: Sampling = Field(
        default_factory=Sampling,
        description="Sampling settings of the extractor, the pairwise judge and the model that fuses.",
    )

    @classmethod
    def under(cls, below: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of `below` without those of the count if a pairwise judge is given over them."""
        return {name: value for name, value in below.items() if not ("pairwise_judge" in given and name in COUNTING)}

    @field_validator("extract")
    @classmethod
    def _check_extract(cls, value: str) -> str:
        parse_extraction(value)
        return value

    @field_validator("extractor", "pairwise_judge", "fuse")
    @classmethod
    def _check_model(cls, value: str | None) -> str | None:
        if value is not None and parse_member(value)[1] > 1:
            raise ValueError(f"{value!r} must not have a count: a single instance is asked")
        return value

    @field_validator("weights")
    @classmethod
    def _check_weights(cls, value: dict[str, float]) -> dict[str, float]:
        for name, weight in value.items():
            if not 0 < weight < math.inf:
                raise ValueError(f"the weight of {name} is {weight}: it must be above 0")
        return value

    @model_validator(mode="after")
    def _check_vote(self) -> Self:
        if (parse_extraction(self.extract).kind == "llm") != (self.extractor is not None):
            raise ValueError("extractor: required with extract llm, and only then")
        if self.fuse is not None and self.pairwise_judge is None:
            raise ValueError("fuse: requires a pairwise_judge, which finds the best answers")
        if self.comparisons is not None and self.pairwise_judge is None:
            raise ValueError("comparisons: requires a pairwise_judge")
        if self.pairwise_judge is not None and (self.stop_when is not None or self.weights or self.extractor):
            raise ValueError("pairwise_judge: counts no votes: remove stop_when, weights and extractor, or the judge")
        self._check_unused()
        if self.waves is not None and self.stop_when is None:
            raise ValueError("waves: requires stop_when")
        members = self.panel()
        for name in self.weights:
            if not _names_one(name, members):
                known = ", ".join(dict.fromkeys(str(member.name) for member in members))
                raise ValueError(f"weights: {name!r} is not the name of exactly one member model: use one of {known}")
        votes = math.fsum(self.weights_of(members))
        if self.stop_when is not None and self.stop_when > votes:
            raise ValueError(f"stop_when is {self.stop_when}, but all members together have {votes:g} votes")
        return self

    def _check_unused(self) -> None:
        """Refuse settings that would have no effect."""
        self.refuse_unless(
            self.pairwise_judge is None,
            "has no effect with a pairwise_judge, which compares whole answers: remove one of them",
            "extract",
        )
        self.refuse_unless(
            self.pairwise_judge,
            "requires a pairwise_judge, because votes compare no texts: set one, or remove it",
            "embedding_model",
        )
        self.refuse_unless(self.fuse, "requires fuse: set both, or remove it", "fuse_top")
        self.refuse_unless(
            self.extractor or self.pairwise_judge,
            "requires an extractor, a pairwise_judge or fuse; for members use `sampling`",
            "judge_settings",
        )

    def weights_of(self, members: Sequence[Member]) -> list[float]:
        """What the vote of each of `members` counts; the most exact name decides."""
        names = ((str(member), str(member.name), member.name.model) for member in members)
        return [next((self.weights[name] for name in own if name in self.weights), 1.0) for own in names]

    def models(self) -> list[ModelName]:
        """Every model that a run may ask, the members' first."""
        others = [name for name in (self.extractor, self.pairwise_judge, self.fuse) if name]
        return [*super().models(), *(parse_member(name)[0] for name in others)]


def _names_one(name: str, members: Sequence[Member]) -> bool:
    """Tell whether `name` is that of an instance, of a model, or of a model without its provider, and of one model only."""
    named = {member.name for member in members if name in {str(member), str(member.name), member.name.model}}
    return len(named) == 1


Vote = saved_config("Vote", VoteConfig)
