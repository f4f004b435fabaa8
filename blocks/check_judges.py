"""The settings of a check of judges: which models are tried out, and on which labelled pairs of answers."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

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


class CheckJudgesConfig(PanelConfig):
    """Which models are tried out as judges, and on what."""

    pairs: list[LabelledPair] = Field(
        default_factory=list,
        description="Labelled pairs in place of the built-in natural ones; the built-in adversarial ones are always judged.",
    )

    @model_validator(mode="after")
    def _check_judges(self) -> Self:
        names = [str(member.name) for member in self.panel()]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"members: {twice} is named twice: a judge is tried out once")
        self.refuse_unless(
            False, "has no effect on judges: remove it", "quorum", "straggler_grace", "prompt_set", "embedding_model"
        )
        return self
