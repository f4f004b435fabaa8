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
            raise ValueError(f"{part.strip()!r} is no weight: write member=weight, for example openai/gpt-6-luna=2")
        weights[name.strip()] = weight.strip()
    return weights


COUNTING = frozenset({"extract", "extractor", "stop_when", "waves", "weights"})
"""Settings of the count, which a pairwise judge does without."""


class VoteConfig(PanelConfig):
    """Who votes, how an answer is read and when to stop; or who compares the answers in pairs."""

    extract: str = Field(
        "text",
        description=(
            "How the answer is read out of a text: number, choice (a letter), json:FIELD, label:A,B, text (all of it, "
            "normalised), text:FIELD or llm (a model reads it)."
        ),
        examples=["number", "json:answer"],
    )
    extractor: str | None = Field(
        None,
        description="Model that reads the answers if extract is llm, as provider/model.",
    )
    stop_when: int | None = Field(
        None,
        ge=1,
        description="Stop as soon as an answer has this many votes; members are then asked in order. Default: ask all.",
    )
    waves: int | None = Field(
        None,
        ge=1,
        description="Members asked at once if stop_when is given; default: 1.",
    )
    weights: Annotated[dict[str, float], BeforeValidator(_read_weights, json_schema_input_type=dict[str, float])] = (
        Field(
            default_factory=dict,
            description=(
                "What votes count, by provider/model, provider/model#instance or the model's name alone; 1 where nothing "
                "is said."
            ),
        )
    )
    pairwise_judge: str | None = Field(
        None,
        description="Model that compares the answers in pairs instead of a count, as provider/model.",
    )
    comparisons: int | None = Field(
        None,
        ge=1,
        description="Sort by at most this many compared pairs; default: compare all pairs.",
    )
    fuse: str | None = Field(
        None,
        description="Model that writes one answer of the best ones that the pairwise judge found, as provider/model.",
    )
    fuse_top: int = Field(3, ge=1, description="How many of the best answers are fused.")
    judge_settings: Sampling = Field(
        default_factory=Sampling,
        description="Sampling settings of the extractor, of the pairwise judge and of the model that fuses.",
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
            raise ValueError(f"{value!r} has a count; one instance is asked, so write it without")
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
            raise ValueError(
                "extractor: `extract` llm needs the model that reads the answers, and every other extraction needs none"
            )
        if self.fuse is not None and self.pairwise_judge is None:
            raise ValueError("fuse: the best answers are found by a pairwise_judge, so name one")
        if self.comparisons is not None and self.pairwise_judge is None:
            raise ValueError("comparisons: answers are compared by a pairwise_judge, so name one")
        if self.pairwise_judge is not None and (self.stop_when is not None or self.weights or self.extractor):
            raise ValueError(
                "pairwise_judge: it compares whole answers, and no votes are counted: leave out stop_when, weights and "
                "extractor, or the judge"
            )
        self._check_unused()
        if self.waves is not None and self.stop_when is None:
            raise ValueError("waves: members are asked in waves to stop early, so say when by stop_when")
        members = self.panel()
        for name in self.weights:
            if not _names_one(name, members):
                known = ", ".join(dict.fromkeys(str(member.name) for member in members))
                raise ValueError(f"weights: {name!r} names no member, or several models; members are {known}")
        votes = math.fsum(self.weights_of(members))
        if self.stop_when is not None and self.stop_when > votes:
            raise ValueError(f"stop_when is {self.stop_when}, but all members together have {votes:g} votes")
        return self

    def _check_unused(self) -> None:
        """Refuse settings that would have no effect."""
        self.refuse_unless(
            self.pairwise_judge is None,
            "the pairwise_judge compares whole answers, and nothing is read out of them: leave it out, or the judge",
            "extract",
        )
        self.refuse_unless(
            self.pairwise_judge,
            "votes are counted, and no texts are compared: leave it out, or name a pairwise_judge",
            "embedding_model",
        )
        self.refuse_unless(
            self.fuse, "the best answers are fused by a model, so name one by fuse, or leave it out", "fuse_top"
        )
        self.refuse_unless(
            self.extractor or self.pairwise_judge,
            "only an extractor, a pairwise_judge and fuse have them: name one, or leave them out; members have `sampling`",
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
