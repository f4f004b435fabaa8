"""The record of a run: what `--json` prints, what `--output` writes and what the flow returns.

Plain data, and sums over it. Nothing here asks a model, and everything else may import it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from consensus_flows.tasks.errors import ErrorKind, QuorumError
from consensus_flows.tasks.plain_text import plural

Status = Literal["confident", "agreed", "finished", "max_iterations", "budget", "failed"]

PDF = "application/pdf"
_BULLET = re.compile(r"[ \t]*(?:[-*•][ \t]+|(?=\[?\^?\d{1,3}(?:\]|[.)][ \t])))")
_MARK = re.compile(r"\[?\^?\d{1,3}(?:\]:?|[.)](?=\s))\s*")
_NONE = re.compile(r"\W*(?:none|n/a|no sources?)\W*\Z", re.IGNORECASE)


class Usage(BaseModel):
    """Tokens of one or several calls, counted alike for all vendors.

    Cached input is part of `input_tokens`; reasoning is part of `output_tokens`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in Usage.model_fields})


class Attachment(BaseModel):
    """A file that a question is about. Its bytes are kept by their digest; see `consensus_flows.tasks.attachments`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """What the file is called."""
    type: str
    """Its media type, for example image/png."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """The SHA-256 of its bytes."""
    size: int = Field(ge=0)
    """Its bytes."""
    pages: int | None = None
    """The pages of a PDF."""

    @property
    def kind(self) -> Literal["image", "pdf", "text"]:
        """How it is sent: an image or a PDF in the vendor's own form, everything else as text in the prompt."""
        return "image" if self.type.startswith("image/") else "pdf" if self.type == PDF else "text"

    def __str__(self) -> str:
        pages = "" if self.pages is None else f", {plural(self.pages, 'page')}"
        return f"{self.name} ({self.type}, {self.size:,} bytes{pages}, sha256 {self.sha256[:12]})"


class RunWarning(BaseModel):
    """Something about a run that a person may want to know, though its answer stands."""

    model_config = ConfigDict(frozen=True)

    kind: str
    """What it is about. Where a call failed, the kind of its error; else for example `tie`, `abstained` or `stand_in`."""
    message: str
    member: str | None = None
    """Whose call or answer it is about, if it is about one."""
    iteration: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_text(cls, value: Any) -> Any:
        """Read a record whose warnings are plain sentences."""
        return {"kind": "other", "message": value} if isinstance(value, str) else value

    def __str__(self) -> str:
        return self.message


class CallError(BaseModel):
    """Why a call gave no answer."""

    kind: ErrorKind
    message: str
    retryable: bool = False


class TakenOut(BaseModel):
    """A model that kept failing, and was not asked for the rest of a run."""

    model: str
    kind: ErrorKind
    """Why it failed."""
    row: str
    """The id of the row after which it was not asked any more."""
    message: str

    def __str__(self) -> str:
        return f"{self.model} was disabled after row {self.row}: {self.message.removeprefix(f'{self.model}: ')}"


class Response(BaseModel):
    """One call: of a member, or of a judge.

    `cost_usd` and `requests` are of this run; an answer from the cache cost nothing now and shows in
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
    warnings: list[RunWarning] = Field(default_factory=list)
    recorded: bool = False
    """Whether it was given to the run as a recorded answer; nobody was called for it."""
    reasoning: str | None = None
    """What was written before the answer, where the prompt set keeps it apart; it does not vote and no judge sees it."""
    citations: list[str] = Field(default_factory=list)
    """The sources that were named, where the prompt set keeps them apart."""
    embedding: tuple[float, ...] | None = Field(None, exclude=True, repr=False)
    """The vector, where a text was embedded; it is not part of what is printed or stored."""
    entries: tuple[int, ...] = Field((), exclude=True, repr=False)
    """Numbers of its requests in the book of the run, if it has one; see `consensus_flows.tasks.calls.budget`."""
    panel: "Record | None" = None
    """The run of the saved panel that has answered, where the model is `panel/NAME`. The figures here are its sums."""
    hazards: list[str] = Field(default_factory=list)
    """What in the text looked like an attack on a judge or a reader; see `consensus_flows.tasks.prompting.fence`. It was shown as data."""

    @property
    def answered(self) -> bool:
        """Whether the call gave a complete answer."""
        return self.error is None

    @property
    def refused_by_budget(self) -> bool:
        """Whether the call was not made, or was cut, because the budget does not cover it; of a panel, any call of it."""
        cut = self.error is not None and self.error.kind == "budget"
        return cut or any(warning.kind == "budget" for warning in self.warnings)

    def calls_made(self) -> list["Response"]:
        """The calls of models behind this one: itself, or those of the panel that has answered."""
        return [self] if self.panel is None else self.panel.calls_made()

    @property
    def lost(self) -> bool:
        """Whether all that was sent for it was lost, so that nobody knows what it cost."""
        return 0 < self.attempts <= self.possibly_billed


class Position(BaseModel):
    """One side of a contradiction."""

    position: str
    members: list[str]


class Contradiction(BaseModel):
    """Something about which members say different things."""

    topic: str
    positions: list[Position]


class PartialCoverage(BaseModel):
    """A point that some members make and others leave out."""

    point: str
    members: list[str]


class UniqueInsight(BaseModel):
    """A point worth having that one member alone makes."""

    insight: str
    member: str


class AnswerComparison(BaseModel):
    """How the members' answers compare, in the arbiter's judgement."""

    consensus: list[str] = Field(default_factory=list)
    """Points on which the answers agree."""
    contradictions: list[Contradiction] = Field(default_factory=list)
    partial_coverage: list[PartialCoverage] = Field(default_factory=list)
    unique_insights: list[UniqueInsight] = Field(default_factory=list)
    blind_spots: list[str] = Field(default_factory=list)
    """What the question needs and no answer covers."""


class Synthesis(BaseModel):
    """What an arbiter made of the answers of an iteration."""

    text: str
    confidence: float | None = None
    analysis: str = ""
    dissent: str = ""
    needs_iteration: bool = False
    refinement_areas: list[str] = Field(default_factory=list)
    comparison: AnswerComparison | None = None
    """How the answers compare, where the arbiter was asked for it."""
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


class Adopted(BaseModel):
    """A member took over a peer's answer."""

    round: int
    member: str
    peer: str
    """The member that was asked and held the answer."""
    author: str
    """The member whose answer it is, word for word as in its response."""
    value: str
    """What was compared: the extracted answer, or the group of like texts."""


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
    probability: float | None = None
    """How probable it is that the answer is right, where that was fitted on labeled rows."""


class FieldOption(BaseModel):
    """One value of a field of a JSON answer, and who voted for it."""

    value: JsonValue = None
    left_out: bool = False
    """Whether it is no value: these members left the field out."""
    votes: float
    """Sum of the weights."""
    share: float
    """Part of all votes cast on the field, 0 to 1."""
    members: list[str] = Field(default_factory=list)

    def __str__(self) -> str:
        """Write the value as JSON."""
        return "left out" if self.left_out else json.dumps(self.value, ensure_ascii=False)


class FieldVote(BaseModel):
    """The votes on one field of a JSON answer."""

    field: str
    """Its name; of a field in a nested object the names from the outermost one, with dots between them."""
    agreement: float
    """Share of the votes that the value of the answer has."""
    tie: bool = False
    """Whether several values have the most votes; the order of the members decided."""
    options: list[FieldOption]
    """The value of the answer, then the others from most to fewest votes."""

    @property
    def split(self) -> bool:
        """Whether a person should look at it: too few agree, or as many on another value."""
        return self.tie or self.agreement < LOW_SHARE

    @property
    def unanimous(self) -> bool:
        """Whether all who voted gave one value."""
        return len(self.options) == 1


LOW_SHARE = 0.6
"""A share of the votes below this one is low."""
CALIBRATED = "calibrated"
"""The measure of a confidence that is a probability."""
Outcome = Literal["first", "second", "tie"]


class Part(BaseModel):
    """A part of a task that was split, and who was asked for it."""

    number: int
    title: str
    task: str
    """What was to be done, as the orchestrator wrote it."""
    member: str
    """Who was asked; its answer is among the responses."""
    error: ErrorKind | None = None
    """Why there is no answer, if there is none."""

    def __str__(self) -> str:
        """Name it."""
        return f"part {self.number} ({' '.join(self.title.split())[:80]})"


class Comparison(BaseModel):
    """Two answers that a judge compared in both orders."""

    pair: tuple[str, str]
    """The two members, in the order in which the members are listed."""
    said: tuple[Outcome | None, Outcome | None]
    """What the judge said where the first of the pair was shown first, and where it was shown second; None: nothing."""
    winner: str | None = None
    """The better one by both; None for a tie, which a disagreement of the two orders is too."""


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


class Citation(BaseModel):
    """A source and who has named it."""

    source: str
    members: list[str] = Field(default_factory=list)


def read_sources(text: str) -> list[str]:
    """List the sources in `text`, one a line, as they were written, without bullets.

    A number before a source, like `[1]`, is kept, because the answer refers to it. In a list with bullets or numbers, a
    line without one continues the source before it. A list that only says that there are none is empty.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    listed = any(_BULLET.match(line) for line in lines)
    parts: list[list[str]] = []
    for line in lines:
        found = _BULLET.match(line)
        said = (line[found.end() :] if found else line).strip()
        if listed and not found and parts:
            parts[-1].append(said)
        elif said:
            parts.append([said])
    sources = [" ".join(part) for part in parts]
    return [] if len(sources) == 1 and _NONE.match(sources[0]) else sources


def put_together(named: Iterable[tuple[str, Sequence[str]]]) -> list[Citation]:
    """Return each source once, in the order in which they were first named, with all who named it.

    Args:
        named: For each member its name and its sources. Numbers before them are left out, for each member has its own.
    """
    found: dict[str, Citation] = {}
    for member, sources in named:
        for source in sources:
            plain = _MARK.sub("", source, count=1) if _MARK.match(source) else source
            key = plain.casefold()
            citation = found.get(key) or found.setdefault(key, Citation(source=plain))
            if plain and member not in citation.members:
                citation.members.append(member)
    return [citation for citation in found.values() if citation.source]


class AttestedParts(BaseModel):
    """What an attestation is about. `consensus_flows.tasks.attestation.digest` says how each part is made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    flow: str
    run_id: str | None
    time: str
    """When the run ended, in UTC."""
    prompt: str
    """SHA-256 of the prompt."""
    conversation: str | None
    """SHA-256 of the earlier turns; None where there were none."""
    configuration: str
    """SHA-256 of the settings."""
    answer: str
    """SHA-256 of the answer."""
    models: list[str]
    """Every model that was called, as provider/model."""
    calls: str
    """SHA-256 of what each call gave, and whether it was cached or recorded."""
    endpoints: dict[str, str]
    """For each model that the run may call: the base URL of its provider, or what identifies local weights."""


class Attestation(BaseModel):
    """A token of a trusted execution environment that is bound to a record; `consensus verify` checks it."""

    model_config = ConfigDict(frozen=True)

    parts: AttestedParts
    digest: str
    """SHA-256 of the parts, which the token repeats after `consensus:`."""
    challenge: str | None = None
    """The caller's text, which the token repeats too."""
    audience: str
    token: str


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

    def answered(self) -> list[Response]:
        """The responses of the members that answered."""
        return [response for response in self.responses if response.answered]

    def calls_made(self) -> list[Response]:
        """Every call of the iteration: of members, for embeddings, and of judges."""
        return [*self.responses, *self.embeddings, *self.judgements]

    @property
    def cut_by_budget(self) -> bool:
        """Whether the budget refused a call of this iteration."""
        return any(call.refused_by_budget for call in self.calls_made())


Level = Literal["easy", "medium", "hard"]


class Grade(BaseModel):
    """How hard a question is in the judgement of a small model, and who was asked because of it."""

    model: str
    """The model that graded, as provider/model."""
    level: Level | None = None
    """None where it could not be read: the whole panel was asked."""
    reason: str = ""
    """In its words; or why there is no level."""
    flow: str = ""
    """The algorithm of the panel."""
    answered_by: str | None = None
    """The model that answered alone; None for the whole panel."""
    calls: list[Response] = Field(default_factory=list)
    """The calls that were made for it; they are in the sums of the run."""

    @property
    def cost_usd(self) -> float | None:
        """What the grade cost; None where that is not known."""
        costs = [call.cost_usd for call in self.calls]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    def __str__(self) -> str:
        """Say it in a line."""
        by = f"{self.answered_by} answered alone" if self.answered_by else "the whole panel was asked"
        graded = f"graded {self.level} by {self.model}" if self.level else f"not graded, {self.model} failed"
        return f"{graded}: {by}" + (f" ({' '.join(self.reason.split())})" if self.reason else "")


class Record(BaseModel):
    """The whole run."""

    flow: str
    """The algorithm."""
    flow_run_id: str | None = None
    """The Prefect flow run in which it was made."""
    run_id: str | None = None
    """The id of this run in the history, where its flow run makes many: a row of a batch. Else it is that of the flow run."""
    prompt: str
    attachments: list[Attachment] = Field(default_factory=list, exclude_if=lambda found: not found)
    """The files that the prompt is about."""
    grade: Grade | None = Field(None, exclude_if=lambda found: found is None)
    """How hard the prompt was found, where it was graded."""
    answer: str | None = None
    """The answer of the panel; None if there is none."""
    status: Status = "finished"
    """How the run ended. `budget`: a limit was reached, and the answer is the best so far."""
    degraded: bool = False
    """Whether a call failed or a stand-in answered."""
    warnings: list[RunWarning] = Field(default_factory=list)
    """What is worth knowing about the run, though its answer stands."""
    confidence: float | None = None
    """How sure the answer is, 0 to 1: the arbiter's own word, or the probability that it is right."""
    confidence_measure: str | None = None
    """`calibrated` where the confidence is a probability that was fitted on labeled rows; None for the arbiter's own word."""
    agreement: float | None = None
    """How alike the members' answers are, measured, 0 to 1; where votes are counted, the share of the winner."""
    agreement_measure: str | None = None
    """How it was measured: `lexical`, `embedding:provider/model`, or `votes`."""
    best_iteration: int | None = None
    """The number of the iteration whose answer is returned."""
    iterations: list[Iteration] = Field(default_factory=list)
    """The rounds, each with every call."""
    usage: Usage = Usage()
    """Tokens used in this run; answers from the cache use none."""
    cost_usd: float | None = None
    """What this run cost, as far as it is known; None if nothing is known."""
    calls: int = 0
    """Calls of models, those answered from the cache included."""
    cached_calls: int = 0
    """Calls answered from the cache."""
    requests: int = 0
    """HTTP requests sent, retries included."""
    possibly_billed: int = 0
    """Requests whose response was lost; the vendor may have billed them."""
    known_cost_usd: float = 0.0
    """What is known to have been paid, whether or not the price of every call is known."""
    unpriced_calls: int = 0
    """Calls whose price is not known."""
    duration_s: float = 0.0
    error: str | None = None
    """Why there is no answer."""
    seed: int | None = None
    """The seed that shuffled the order in which judges saw the answers."""
    rankings: list[JudgeRanking] = Field(default_factory=list)
    """How each judge ranked the answers, where members rank each other."""
    scores: Scores | None = None
    """Those rankings put together."""
    votes: list[Vote] = Field(default_factory=list)
    """What each member that was asked voted for, where votes are counted."""
    tally: list[Option] = Field(default_factory=list)
    """Those votes counted: the panel's answer, then the others from most to fewest votes."""
    fields: list[FieldVote] = Field(default_factory=list)
    """The votes on each field of the answer, where the fields of JSON answers are voted on by themselves."""
    parts: list[Part] = Field(default_factory=list, exclude_if=lambda found: not found)
    """The parts into which the task was split, where it was."""
    not_asked: list[str] = Field(default_factory=list)
    """The members, and the saved panel behind a cascade, that did not have to be asked because the answer was settled."""
    tie: bool | None = None
    """Whether several answers had the most votes, or were found equally good; the order of the members decided."""
    unanimous: bool | None = None
    """Whether every member that was asked voted for the same."""
    margin: float | None = None
    """By how much of the votes cast the winner is ahead of the best other answer; below 0 where it won by something else."""
    full_text: str | None = None
    """All that the first member wrote that gave the winning answer."""
    comparisons: list[Comparison] = Field(default_factory=list)
    """The pairs of answers that a judge compared."""
    conversation_id: str | None = None
    """The conversation that continues with this answer; see `consensus_flows.tasks.history`."""
    citations: list[Citation] = Field(default_factory=list)
    """The sources behind the answer, and who named each; nobody has looked them up."""
    attestation: Attestation | None = None
    """Proof of which image computed the answer, where the run was attested."""

    def answering(self) -> Iteration | None:
        """The iteration whose members stand behind the answer: of one that only asks judges, the one before.

        Of a run without an answer, the last that asked members.
        """
        return next((one for one in reversed(self.iterations[: self.best_iteration]) if one.responses), None)

    def calls_made(self) -> list[Response]:
        """Every call of a model in the run, in order; those of a panel that was asked in its place."""
        graded = self.grade.calls if self.grade else []
        return [*graded, *(call for one in self.iterations for made in one.calls_made() for call in made.calls_made())]

    def warn(self, kind: str, message: str, *, member: str | None = None, iteration: int | None = None) -> None:
        """Add a warning, unless it is there already."""
        self.add_warnings([RunWarning(kind=kind, message=message, member=member)], iteration)

    def add_warnings(self, warnings: Iterable[RunWarning], iteration: int | None = None) -> None:
        """Add those warnings that are not there yet, with the iteration in which they came first."""
        known = {(one.kind, one.member, one.message) for one in self.warnings}
        for one in warnings:
            key = one.kind, one.member, one.message
            if key not in known:
                known.add(key)
                self.warnings.append(one.model_copy(update={"iteration": iteration}))

    def end_by_budget(self) -> None:
        """Say of a run that the budget ended it, where it refused any call.

        A failed run has failed all the same, and a confident arbiter was so without the call that is missing. Whatever
        else has come to an end might have ended differently.
        """
        if self.status not in {"failed", "confident"} and any(one.cut_by_budget for one in self.iterations):
            self.status = "budget"

    def add_up(self) -> None:
        """Fill in the sums over all calls.

        The cost is None as soon as that of one answered call is not known, and where nothing is known: with
        `possibly_billed` it is the least.
        """
        calls = self.calls_made()
        self.usage = sum((call.spent for call in calls), Usage())
        costs = [call.cost_usd for call in calls if call.cost_usd is not None or not call.lost]
        known = [cost for cost in costs if cost is not None]
        # Nobody was called for a recorded answer, or where the budget refused the call.
        self.calls = sum(call.cached or call.attempts > 0 for call in calls)
        self.known_cost_usd, self.unpriced_calls = round(sum(known), 10), len(costs) - len(known)
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


Response.model_rebuild()


def known_cost(cost_usd: float | None, possibly_billed: int) -> float | None:
    """Return a sum of US dollars, but None where it is 0 only because what may have been billed is not known.

    Args:
        cost_usd: What is known to have been paid; None where that is not known.
        possibly_billed: Requests that may have been billed beside it.
    """
    return None if possibly_billed and not cost_usd else cost_usd


def bill(cost_usd: float | None, possibly_billed: int = 0, known_usd: float = 0.0, unpriced: int = 0) -> str:
    """Say for a person what was paid: `$0.0120`, or `$0.0120 + 3 calls of unknown price; 2 requests may have been billed`.

    Args:
        cost_usd: The cost; None where it is not known.
        possibly_billed: Requests that may have been billed beside it.
        known_usd: What is known of it.
        unpriced: Calls whose price is not known.
    """
    paid = "cost unknown" if cost_usd is None else f"${cost_usd:.4f}"
    least = "" if cost_usd is None or not possibly_billed else "at least "
    if cost_usd is None and known_usd and unpriced:
        paid = f"${known_usd:.4f} + {plural(unpriced, 'call')} of unknown price"
    if not possibly_billed:
        return paid
    return f"{least}{paid}; {plural(possibly_billed, 'request')} may have been billed"


class Paid(Protocol):
    """What has a cost: a run, or a batch."""

    cost_usd: float | None
    possibly_billed: int
    known_cost_usd: float
    unpriced_calls: int


def bill_of(paid: Paid) -> str:
    """Say for a person what a run or a batch has cost."""
    return bill(paid.cost_usd, paid.possibly_billed, paid.known_cost_usd, paid.unpriced_calls)


class NoAnswerError(QuorumError):
    """No answer came of a run.

    Attributes:
        record: The record of the run.
    """

    def __init__(self, message: str = "", record: Record | None = None) -> None:
        super().__init__(message)
        self.record = record
