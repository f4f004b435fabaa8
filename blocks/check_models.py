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
        description="The right answer: words that the text holds, or what is read out of it by extract.",
    )
    extract: str | None = Field(
        None,
        description="How the answer is read, as in a vote: number, choice, label:yes,no, ... Empty: expected stands anywhere.",
    )
    note: str = Field("", description="What the case is meant to show.")

    @field_validator("extract")
    @classmethod
    def _check_extract(cls, value: str | None) -> str | None:
        if value is not None and parse_extraction(value).kind == "llm":
            raise ValueError("extract is 'llm': a check asks nobody but the candidates")
        return value


class CheckModelsConfig(PanelConfig):
    """Which models are tried out, and on what."""

    role: CheckRole = Field(
        "proposer",
        description="A proposer answers a question; an aggregator makes one answer of prepared ones.",
    )
    cases: list[CheckCase] = Field(
        default_factory=list,
        description="Prompts, for aggregators with prepared answers; empty for the list that comes along.",
    )
    prompts: MixturePrompts = Field(
        default_factory=MixturePrompts,
        description="Instructions in place of those that a mixture of agents gives in this role.",
    )

    @model_validator(mode="after")
    def _check_cases(self) -> Self:
        self.refuse_unless(False, "a check compares no texts: leave it out", "embedding_model")
        seen: set[str] = set()
        for number, case in enumerate(self.cases, 1):
            if case.prompt in seen:
                raise ValueError(
                    f"cases: {case.prompt[:60]!r} is there twice; results are kept by prompt, so leave one"
                )
            if self.role == "aggregator" and not any(answer.strip() for answer in case.answers):
                raise ValueError(f"cases: number {number} has no answers to aggregate")
            seen.add(case.prompt)
        return self
