"""What a round without a central aggregator adds to the record."""

from pydantic import BaseModel, Field


class Adopted(BaseModel):
    """A member took over a peer's answer."""

    round: int
    member: str
    peer: str
    """The member that was asked and held the answer."""
    author: str
    """The member whose answer it is word for word."""
    value: str
    """What was compared: the extracted answer, or the group of like texts."""
    text: str
    """The adopted answer, word for word."""


class Settlement(BaseModel):
    """How the members came to one value among themselves, or did not."""

    rounds: int
    """Rounds of asking peers; no model was called in them."""
    settled: bool
    """Whether all members ended with one value, confirmed as often as wanted."""
    value: str | None = None
    """The value that most members hold at the end."""
    given: dict[str, str | None] = Field(default_factory=dict)
    """For each member the value of its own answer; None where none could be read."""
    held: dict[str, str | None] = Field(default_factory=dict)
    """For each member the value that it holds at the end."""
    adopted: list[Adopted] = Field(default_factory=list)
    seed: str = ""
