"""What a run in which members rank each other adds to the record."""

from pydantic import BaseModel, Field

from tasks.calls.request import ErrorKind


class JudgeRanking(BaseModel):
    """How one judge ranked the answers of one round, or why it did not."""

    round: int = 1
    judge: str
    """The member that judged."""
    seed: str = ""
    """Seed of the shuffle."""
    order: list[str] = Field(default_factory=list)
    """The members whose answers it saw, in the order in which it saw them, as A, B, C and so on."""
    ranking: list[list[str]] = Field(default_factory=list)
    """Groups of tied members from best to worst; empty for an abstention."""
    abstained: bool = False
    analysis: str = ""
    text: str | None = None
    """What the judge wrote, word for word."""
    error: ErrorKind | None = None
    """Why there is no ranking, if the judge did not abstain of its own accord."""


class MemberScore(BaseModel):
    """How one member's answers were ranked; what judges say of their own answers is left out. What is not known is None."""

    mean_rank: float | None = None
    """Mean place, 1 is best, tied answers sharing the mean of their places."""
    borda: float | None = None
    """Points: one for each answer below it, half a one for each tied with it."""
    wins: int = 0
    """Other members that it beats, each pair compared over the rankings that rank both."""
    first_places: int = 0
    """Rankings that put it first, alone or tied."""
    ranked: int = 0
    """Rankings in which it is."""
    rank_by_self: float | None = None
    """Mean rank given by judges of the same model, among answers that other judges have ranked too, the very same ones."""
    rank_by_others: float | None = None
    """Mean rank given by the other judges among these answers; where there are none, among all the answers they saw."""
    self_preference: float | None = None
    """Places by which judges of its own model rank it better than the others do; below 0 for worse.

    None unless judges of both kinds have ranked the same answers. This is the self-enhancement bias of Zheng et al. 2023
    (arXiv:2306.05685, §3.3), who compare a model's win rate with itself as judge to that with other judges.
    """


class PositionEffect(BaseModel):
    """Whether what is shown first is ranked better, whoever wrote it."""

    mean_rank: list[float | None] = Field(default_factory=list)
    """Mean rank of the answers shown first, second and so on."""
    correlation: float | None = None
    """Pearson's correlation of place and position, both from 0 to 1: 1 if all is ranked as it was shown."""


class Scores(BaseModel):
    """All rankings of a run put together."""

    winner: str | None = None
    """The member of the highest Borda count."""
    tied: list[str] = Field(default_factory=list)
    """The members that share the highest Borda count, if several do."""
    condorcet_winner: str | None = None
    """The member that beats every other one in pairs, if there is one."""
    kendall_w: float | None = None
    """Kendall's W of all rankings: 1 if the judges agree, 0 if they do not."""
    members: dict[str, MemberScore] = Field(default_factory=dict)
    """In the order of their Borda counts."""
    rankings: int = 0
    abstentions: int = 0
    self_preference: float | None = None
    """Mean over the members for which it is known."""
    position_effect: PositionEffect | None = None
