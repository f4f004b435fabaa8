"""What a calibration on labeled rows has found: plain numbers, saved with a panel, that a person can read."""

import datetime as dt
from typing import Any, Self

from pydantic import Field, model_validator

from consensus_flows.blocks.member import parse_price
from consensus_flows.blocks.settings import Settings

PAIR = " & "
"""Between the two members of a pair, in the order in which they are listed."""


class LearnedVote(Settings):
    """A logistic regression over the answers that members gave.

    It says how probable it is that an answer is right: the logistic function of the sum of the intercept and of the
    coefficients that apply. `consensus_flows.tasks.counting.learned` computes it.
    """

    intercept: float = Field(description="The sum's constant part.")
    members: dict[str, float] = Field(description="Coefficient of each member that gave the answer, by its name.")
    share: float = Field(description="Coefficient of the share of the members that gave the answer, 0 to 1.")
    two_or_more: float = Field(description="Coefficient for an answer that two members or more gave.")
    unanimous: float = Field(description="Coefficient for an answer that every member gave.")
    pairs: dict[str, float] = Field(
        description=f"Coefficient of each pair of members that both gave the answer, by their names: a{PAIR}b."
    )

    def __str__(self) -> str:
        """Describe it in a list of settings."""
        return f"fitted on {len(self.members)} members"

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = list(self.members)
        known = {f"{a}{PAIR}{b}" for position, a in enumerate(names) for b in names[position + 1 :]}
        if wrong := sorted(self.pairs.keys() - known):
            raise ValueError(f"pairs: {wrong[0]!r} is not a pair of members in their order: write a{PAIR}b")
        return self


VOTE = "vote"
"""Who decides behind a cascade: all members together."""


class SavedPanel(Settings):
    """A saved configuration of any algorithm, as it is when a run begins."""

    name: str = Field("", description="The name under which it is saved.")
    flow: str = Field(description="The algorithm.")
    config: dict[str, Any] = Field(description="The settings.")
    models: list[str] = Field(default_factory=list, description="The models that it may ask, as provider/model.")

    def price_table(self) -> dict[str, tuple[float, float]]:
        """The prices that its settings give, and those of the panels in it, by provider/model."""
        inner = [SavedPanel.model_validate(panel) for panel in self.config.get("panels", {}).values()]
        own = {name: (read, written) for name, read, written in map(parse_price, self.config.get("prices", ()))}
        return {name: price for table in (*(one.price_table() for one in inner), own) for name, price in table.items()}


class Cascade(Settings):
    """Who is asked first, and who decides where they do not agree."""

    ask: list[str] = Field(min_length=1, description="Members to ask first.")
    agree: int = Field(ge=1, description="Number of them that must give the same answer for it to be the result.")
    then: str | SavedPanel = Field(
        description="Who decides otherwise: a member, `vote` for a vote of all members, or a saved panel.",
    )

    def __str__(self) -> str:
        """Write it as it is given: a,b>c, or 2 of a,b,c>d."""
        some = "" if self.agree == len(self.ask) else f"{self.agree} of "
        return f"{some}{','.join(self.ask)}>{self.then if isinstance(self.then, str) else self.then.name}"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.agree > len(self.ask):
            raise ValueError(f"agree is {self.agree}, but only {len(self.ask)} members are asked first")
        return self


class Calibration(Settings):
    """On what a panel was calibrated, and how good it was on rows that it was not fitted on."""

    def __str__(self) -> str:
        """Describe it in a list of settings."""
        return f"on {self.rows} rows, {self.date}, {100 * self.accuracy:.1f} % right"

    rows: int = Field(ge=1, description="Number of labeled rows.")
    ids_digest: str = Field(description="SHA-256 of the ids of the rows.")
    questions: str = Field(
        "", description="Four bytes of the SHA-256 of each question, base64; tells rows apart from new ones."
    )
    date: dt.date = Field(description="Day of the calibration.")
    extract: str = Field(description="How answers were read.")
    prompts: str | None = Field(None, description="Digest or name of the prompts.")
    prices_date: dt.date | None = Field(None, description="Day of the prices.")
    probability: LearnedVote | None = Field(
        None,
        description="How probable it is that the answer is right, by who gave it; of a panel without a learned vote.",
    )
    rule: str | None = Field(
        None,
        description="Digest of the members and of how they are asked and counted, without which the probability does not hold.",
    )
    accuracy: float = Field(ge=0, le=1, description="Share of the rows that were right.")
    interval: tuple[float, float] = Field(description="95 % interval of the accuracy.")
    cost_usd: float | None = Field(None, ge=0, description="Cost of a question in US dollars; none if unknown.")
    calls: float = Field(ge=0, description="Number of calls a question.")
    unanimous: float = Field(
        ge=0, le=1, description="Share of the rows on which all members that were asked gave the same answer."
    )
    sure: float = Field(ge=0, le=1, description="Share of the rows said to be right with a probability of 0.9 or more.")
    sure_accuracy: float | None = Field(
        None, ge=0, le=1, description="Share of these that were right; none if there were none."
    )
