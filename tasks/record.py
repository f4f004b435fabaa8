"""The record of a run: what `--json` prints, what `--output` writes and what the flow returns."""

from typing import Literal

from pydantic import BaseModel, Field

from tasks.request import ErrorKind, Usage

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
    """Requests whose response was lost on the way; the vendor may have billed them."""
    model_served: str | None = None
    warnings: list[str] = Field(default_factory=list)

    @property
    def answered(self) -> bool:
        """Whether the call gave a complete answer."""
        return self.error is None


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


class Iteration(BaseModel):
    """One round: what the members answered and what was made of it."""

    number: int
    responses: list[Response] = Field(default_factory=list)
    synthesis: Synthesis | None = None
    agreement: float | None = None
    judgements: list[Response] = Field(default_factory=list)
    """Every call of an arbiter in this iteration, failed ones included."""
    duration_s: float = 0.0


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

    def calls_made(self) -> list[Response]:
        """Every call of the run, in order."""
        return [call for one in self.iterations for call in (*one.responses, *one.judgements)]

    def add_up(self) -> None:
        """Fill in the sums over all calls. The cost is None as soon as that of one answered call is not known."""
        calls = self.calls_made()
        self.usage = sum((call.spent for call in calls), Usage())
        costs = [call.cost_usd for call in calls]
        known = [cost for cost in costs if cost is not None]
        self.cost_usd = round(sum(known), 10) if len(known) == len(costs) else None
        self.calls = len(calls)
        self.cached_calls = sum(call.cached for call in calls)
        self.requests = sum(call.attempts for call in calls)
        self.possibly_billed = sum(call.possibly_billed for call in calls)
