"""The settings of a capability check: which models are tried out for which role, and on what."""

from typing import Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from consensus_flows.blocks.extraction import parse_extraction
from consensus_flows.blocks.layer import MixturePrompts
from consensus_flows.blocks.panel import PanelConfig
from consensus_flows.blocks.settings import Settings

CheckRole = Literal["proposer", "aggregator"]


class CheckCase(Settings):
    """One prompt that every candidate is given."""

    model_config = ConfigDict(frozen=True)

    prompt: str = Field(min_length=1, pattern=r"\S", description="The question.")
    answers: tuple[str, ...] = Field((), description="For aggregators: prepared answers to the question.")
    expected: str | None = Field(
        None,
        min_length=1,
        description="Expected answer: words that the text contains, or the value that `extract` reads.",
    )
    extract: str | None = Field(
        None,
        description=(
            "How to read the answer, as in a vote: number, choice, label:yes,no, ... Empty: search the text for "
            "the expected answer."
        ),
    )
    note: str = Field("", description="What the case tests.")

    @field_validator("extract")
    @classmethod
    def _check_extract(cls, value: str | None) -> str | None:
        if value is not None and parse_extraction(value).kind == "llm":
            raise ValueError(
                "extract is 'llm', but a check asks no other model: use number, choice, json:FIELD, label:A,B, text or exact"
            )
        return value


class CheckModelsConfig(PanelConfig):
    """Which models are tried out, and on what."""

    role: CheckRole = Field(
        "proposer",
        description="A proposer answers a question; an aggregator merges prepared answers.",
    )
    cases: list[CheckCase] = Field(
        default_factory=list,
        description="Prompts, for aggregators with prepared answers; default: the built-in ones.",
    )
    prompts: MixturePrompts = Field(
        default_factory=MixturePrompts,
        description="Instructions that replace the built-in ones of this role in a mixture of agents.",
    )

    @model_validator(mode="after")
    def _check_cases(self) -> Self:
        self.refuse_unless(False, "a check compares no texts: remove it", "embedding_model")
        seen: set[str] = set()
        for number, case in enumerate(self.cases, 1):
            if case.prompt in seen:
                raise ValueError(f"cases: {case.prompt[:60]!r} is a duplicate: prompts must be unique")
            if self.role == "aggregator" and not any(answer.strip() for answer in case.answers):
                raise ValueError(f"cases: number {number} has no answers to aggregate")
            seen.add(case.prompt)
        return self
