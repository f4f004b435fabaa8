"""The record of a run: what `--json` prints, what `--output` writes and what the flow returns."""

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, Field

from tasks.calls.money.bill import known_cost
from tasks.calls.request import ErrorKind, Usage
from tasks.counting.ballot import Comparison, Option, Vote
from tasks.counting.settled import Settlement
from tasks.judging.ranked import JudgeRanking, Scores
from tasks.prompting.citations import Citation, put_together

Status = Literal["confident", "agreed", "finished", "max_iterations", "budget", "failed"]


class CallError(BaseModel):
    """Why a call gave no answer."""

    kind: ErrorKind
    message: str
    retryable: bool = False


class Response(BaseModel):
    """One call: of a member, or of a judge.

    `cost_usd` and `requests` are of this run; an answer from the store cost nothing now and shows in
    `stored_cost_usd` what it cost when it was made.
    """

    member: str
    provider: str
    model: str
    instance: int = 1
    text: str | None = None
    finish_reason: str | None = None
    latency_s: float = 0.0
    attempts: int = 0
    cached: bool = False
    usage: Usage = Usage()
    cost_usd: float | None = None
    error: CallError | None = None
    spent: Usage = Usage()
    """Tokens used in this run, those of failed attempts included."""
    stored_cost_usd: float | None = None
    possibly_billed: int = 0
    """Requests whose response was lost on the way; the vendor may have billed them, beside `cost_usd`."""
    model_served: str | None = None
    service_tier: str | None = None
    """The tier that the vendor says has served it, for example flex; None where it says nothing."""
    warnings: list[str] = Field(default_factory=list)
    recorded: bool = False
    """Whether it was given to the run as a recorded answer; nobody was called for it."""
    reasoning: str | None = None
    """What was written before the answer, where the prompt set keeps it apart; it does not vote and no judge sees it."""
    citations: list[str] = Field(default_factory=list)
    """The sources that were named, where the prompt set keeps them apart."""
    embedding: tuple[float, ...] | None = Field(None, exclude=True, repr=False)
    """The vector, where a text was embedded; it is not part of what is printed or stored."""
    entries: tuple[int, ...] = Field((), exclude=True, repr=False)
    """Numbers of its requests in the book of the run, if it has one; see `tasks.calls.money.budget`."""
    hazards: list[str] = Field(default_factory=list)
    """What in the text looked like an attack on a judge or a reader; see `tasks.judging.hazards`. It was shown as data."""

    @property
    def answered(self) -> bool:
        """Whether the call gave a complete answer."""
        return self.error is None

    @property
    def lost(self) -> bool:
        """Whether all that was sent for it was lost, so that nobody knows what it cost."""
        return 0 < self.attempts <= self.possibly_billed


class Synthesis(BaseModel):
    """What an arbiter made of the answers of an iteration."""

    text: str
    confidence: float | None = None
    analysis: str = ""
    dissent: str = ""
    needs_iteration: bool = False
    refinement_areas: list[str] = Field(default_factory=list)
    arbiter: str | None = None
    """The model that judged; None when none could, and the answer is a member's."""
    chosen: str | None = None
    """The member whose answer this is word for word, if it is one."""
    ranking: list[str] = Field(default_factory=list)
    """Members from best to worst, where the arbiter ranked."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Which member stood behind each label that the arbiter saw, in the order in which it saw them."""
    method: str | None = None
    """How it was made, where a flow has several ways; another one than was asked for is a stand-in."""
    value: str | None = None
    """The answer that was counted or compared, where one was extracted."""
    votes: dict[str, list[str]] = Field(default_factory=dict)
    """Who gave each value; members whose answer could not be read are in none."""


class Iteration(BaseModel):
    """One round: what the members answered and what was made of it."""

    number: int
    responses: list[Response] = Field(default_factory=list)
    synthesis: Synthesis | None = None
    agreement: float | None = None
    judgements: list[Response] = Field(default_factory=list)
    """Every call of an arbiter in this iteration, failed ones included."""
    agreement_measure: str | None = None
    """How `agreement` was measured: `lexical`, `embedding:provider/model`, or `votes`."""
    embeddings: list[Response] = Field(default_factory=list)
    """Every call that embedded a text, to measure how alike the answers are."""
    duration_s: float = 0.0
    settlement: Settlement | None = None
    """How the members came to one value among themselves, where no aggregator did it."""
    shown: dict[str, list[str]] = Field(default_factory=dict)
    """For each member that was shown answers of the round before: whose, in the order in which it saw them."""


class Record(BaseModel):
    """The whole run."""

    flow: str
    flow_run_id: str | None = None
    prompt: str
    answer: str | None = None
    status: Status = "finished"
    degraded: bool = False
    warnings: list[str] = Field(default_factory=list)
    confidence: float | None = None
    """The arbiter's own word."""
    agreement: float | None = None
    """How alike the members' answers are, measured."""
    agreement_measure: str | None = None
    """How it was measured: `lexical`, `embedding:provider/model`, or `votes`."""
    best_iteration: int | None = None
    iterations: list[Iteration] = Field(default_factory=list)
    usage: Usage = Usage()
    cost_usd: float | None = None
    calls: int = 0
    cached_calls: int = 0
    requests: int = 0
    possibly_billed: int = 0
    duration_s: float = 0.0
    error: str | None = None
    seed: int | None = None
    rankings: list[JudgeRanking] = Field(default_factory=list)
    """How each judge ranked the answers, where members rank each other."""
    scores: Scores | None = None
    """Those rankings put together."""
    votes: list[Vote] = Field(default_factory=list)
    """What each member that was asked voted for, where votes are counted."""
    tally: list[Option] = Field(default_factory=list)
    """Those votes counted, from most to fewest."""
    tie: bool | None = None
    """Whether several answers had the most votes, or were found equally good; the member listed first decided."""
    unanimous: bool | None = None
    """Whether every member that was asked voted for the same."""
    margin: float | None = None
    """By how much of the votes cast the winner is ahead of the next, 0 to 1."""
    full_text: str | None = None
    """All that the first member wrote that gave the winning answer."""
    comparisons: list[Comparison] = Field(default_factory=list)
    """The pairs of answers that a judge compared."""
    conversation_id: str | None = None
    """The conversation that goes on with this answer; see `tasks.history`."""
    citations: list[Citation] = Field(default_factory=list)
    """The sources behind the answer, and who named each; nobody has looked them up."""

    def calls_made(self) -> list[Response]:
        """Every call of the run, in order."""
        return [call for one in self.iterations for call in (*one.responses, *one.embeddings, *one.judgements)]

    def add_up(self) -> None:
        """Fill in the sums over all calls.

        The cost is None as soon as that of one answered call is not known, and where nothing is known: with
        `possibly_billed` it is the least.
        """
        calls = self.calls_made()
        self.usage = sum((call.spent for call in calls), Usage())
        costs = [call.cost_usd for call in calls if call.cost_usd is not None or not call.lost]
        known = [cost for cost in costs if cost is not None]
        self.calls = len(calls)
        self.cached_calls = sum(call.cached for call in calls)
        self.requests = sum(call.attempts for call in calls)
        self.possibly_billed = sum(call.possibly_billed for call in calls)
        cost = round(sum(known), 10) if len(known) == len(costs) else None
        self.cost_usd = known_cost(cost, self.possibly_billed)
        self.citations = put_together(self._cited())

    def _cited(self) -> Iterator[tuple[str, list[str]]]:
        """The sources of those who gave the answer: who voted for it, whose it is word for word, or else all."""
        best = self.best_iteration or 0
        answers = next((one.responses for one in reversed(self.iterations[:best]) if one.responses), [])
        made = (self.iterations[best - 1].synthesis if answers else None) or Synthesis(text="")
        gave = made.votes.get(made.value or "") or ([made.chosen] if made.chosen else None)
        for call in answers:
            if call.answered and (gave is None or call.member in gave):
                yield call.member, call.citations
