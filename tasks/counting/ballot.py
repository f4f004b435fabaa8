"""What a run that counts votes or compares pairs adds to the record."""

from typing import Literal

from pydantic import BaseModel, Field


class Vote(BaseModel):
    """What one member's answer counted for."""

    member: str
    answer: str | None = None
    """The extracted answer, written as the first member that gave it wrote it; None for an abstention."""
    weight: float = 1.0
    """What the vote counts; an abstention counts nothing."""
    heard: bool = True
    """Whether it is known what the member says; False where it failed, or the extractor did on its answer."""


class Option(BaseModel):
    """One answer and who voted for it."""

    answer: str
    votes: float
    """Sum of the weights."""
    share: float
    """Part of all votes cast, 0 to 1."""
    members: list[str] = Field(default_factory=list)


Outcome = Literal["first", "second", "tie"]


class Comparison(BaseModel):
    """Two answers that a judge compared in both orders."""

    pair: tuple[str, str]
    """The two members, in the order in which the members are listed."""
    said: tuple[Outcome | None, Outcome | None]
    """What the judge said where the first of the pair was shown first, and where it was shown second; None: nothing."""
    winner: str | None = None
    """The better one by both; None for a tie, which a disagreement of the two orders is too."""
