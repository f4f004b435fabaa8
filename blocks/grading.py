"""How much panel a question gets: who grades it, and who answers alone what is not hard."""

from typing import Self

from pydantic import Field, model_validator

from consensus_flows.blocks.member import PANEL, ModelName, parse_member
from consensus_flows.blocks.settings import Settings


class Grading(Settings):
    """Which questions do without the whole panel."""

    model: str | None = Field(
        None,
        description=(
            "Model that grades each question as easy, medium or hard before the panel is asked, as provider/model. Default: none, "
            "and every question gets the whole panel."
        ),
    )
    easy: str | None = Field(
        None, description="Model that answers easy questions alone, as provider/model or panel/NAME."
    )
    medium: str | None = Field(
        None, description="Model that answers medium questions alone, as provider/model or panel/NAME."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for field in ("model", "easy", "medium"):
            name = getattr(self, field)
            if name is not None and parse_member(name)[1] > 1:
                raise ValueError(f"{field}: {name!r} must not have a count: a single instance is asked")
        if self.model is not None and parse_member(self.model)[0].provider == PANEL:
            raise ValueError(f"model: {self.model!r} is a panel: a single model grades")
        if self.model is None and (self.easy or self.medium):
            raise ValueError("model: name the model that grades the questions (--grade)")
        if self.model is not None and not (self.easy or self.medium):
            raise ValueError(
                "easy: name the model that answers easy questions alone (--easy), or one for medium ones (--medium)"
            )
        return self

    def targets(self) -> list[str]:
        """Those that answer alone, the one for easy questions first."""
        return list(dict.fromkeys(name for name in (self.easy, self.medium) if name))

    def models(self) -> list[ModelName]:
        """The model that grades, and those that answer alone."""
        return [parse_member(name)[0] for name in (self.model, self.easy, self.medium) if name]
