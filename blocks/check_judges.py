"""The settings of judges of pairs of answers: of a check on labeled pairs, and of a comparison of free text."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from consensus_flows.blocks.member import ModelName, named, parse_member
from consensus_flows.blocks.panel import PanelConfig
from consensus_flows.blocks.settings import Settings

ADVERSARIAL = "adversarial"
"""The kind of the pairs whose worse answer looks better: it is longer, more polished, or speaks to the judge."""


def _letter(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


class LabelledPair(Settings):
    """Two answers to a question, one of which a person found better."""

    model_config = ConfigDict(frozen=True)

    question: str = Field(min_length=1, pattern=r"\S", description="The question.")
    a: str = Field(min_length=1, pattern=r"\S", description="One answer.")
    b: str = Field(min_length=1, pattern=r"\S", description="The other answer.")
    better: Annotated[Literal["a", "b"], BeforeValidator(_letter)] = Field(
        description="Which answer is better: a or b."
    )
    kind: str = Field("own", min_length=1, description="What kind of pair it is; figures are reported for each kind.")


class JudgesConfig(PanelConfig):
    """Which models judge pairs of answers."""

    def by_schema(self) -> list[ModelName]:
        """Those of the models whose answer is read by a JSON schema: all."""
        return self.models()

    @model_validator(mode="after")
    def _check_judges(self) -> Self:
        names = [str(member.name) for member in self.panel()]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"members: {twice} is named twice: a judge is asked once")
        self.refuse_unless(
            False, "has no effect on judges: remove it", "quorum", "straggler_grace", "prompt_set", "embedding_model"
        )
        return self


class CheckJudgesConfig(JudgesConfig):
    """Which models are tried out as judges, and on what."""

    pairs: list[LabelledPair] = Field(
        default_factory=list,
        description="Labeled pairs in place of the built-in natural ones; the built-in adversarial ones are always judged.",
    )


class FreeTextConfig(JudgesConfig):
    """Which models judge a panel's answers beside its members'."""

    strong_judge: str | None = Field(
        None,
        description="Model that decides where the other judges differ, or their verdicts depend on the order, as provider/model.",
    )

    @model_validator(mode="after")
    def _check_strong_judge(self) -> Self:
        if self.strong_judge is not None:
            name, count = parse_member(self.strong_judge)
            if count > 1 or name in [member.name for member in self.panel()]:
                raise ValueError(
                    f"strong_judge: {self.strong_judge!r} must be one model that is none of the other judges"
                )
        return self

    def models(self) -> list[ModelName]:
        """Every model that a run may ask."""
        return [*super().models(), *named(self.strong_judge)]
