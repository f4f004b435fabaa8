"""What all rows of a batch come to."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field

from consensus_flows.blocks.calibration import Calibration
from consensus_flows.tasks.batches.frames import Library, frame_of
from consensus_flows.tasks.batches.results import ABSTAINED, DECIDED, NOT_STARTED, UNSURE
from consensus_flows.tasks.batches.review import ReasonKind, reasons
from consensus_flows.tasks.batches.rows import BadRow
from consensus_flows.tasks.batches.totals import ModelSummary, Totals
from consensus_flows.tasks.calibration import has_fallen
from consensus_flows.tasks.record import CALIBRATED, TakenOut

SHOWN_FAILURES = 5
"""Rows without an answer that a summary names."""
SHOWN_REVIEW = 20
"""Rows to look at that a summary names."""
SURE = 0.9
"""A probability from which on an answer is counted as sure."""
BINS = 10
"""Columns of the histogram of agreement, each a tenth wide."""


_WEIGHT = get_args(ReasonKind)


def describe(bad: BadRow) -> str:
    """Say what is wrong with a row of the input."""
    return f"{bad.where}: {bad.message}"


def how_sure(summary: "BatchSummary") -> str | None:
    """Say how many answers are as good as sure, and how right such answers were on the labeled rows; None without probabilities."""
    found = summary.calibration
    if found is None or not summary.gives_probability:
        return None
    right = "" if found.sure_accuracy is None else f", and {100 * found.sure_accuracy:.1f} % of these were right"
    return (
        f"{summary.sure} of {summary.rows} rows have a probability of {100 * SURE:.0f} % or more; on the {found.rows} labeled "
        f"rows {100 * found.sure:.0f} % had{right}"
    )


def fewer_unanimous(summary: "BatchSummary") -> str | None:
    """Say that the members agree less often than in the calibration, if they do."""
    found = summary.calibration
    if found is None or not has_fallen(summary.unanimous, summary.counted, found):
        return None
    return (
        f"the members are unanimous in {100 * summary.unanimous / summary.counted:.0f} % of the rows, in the calibration in "
        f"{100 * found.unanimous:.0f} %: the questions or the models have changed; calibrate again"
    )


class MemberSummary(BaseModel):
    """How one member did over the rows of a batch, whoever paid for its answers."""

    rows: int = 0
    """Rows in which it was asked."""
    answered: int = 0
    read: int = 0
    """Rows in which an answer was read out of its text."""
    wins: int = 0
    """Rows in which that is the panel's answer."""


class ReviewRow(BaseModel):
    """A row that a person should look at."""

    id: str
    reasons: list[ReasonKind]
    answer: str | None = None
    run_id: str | None = None


class RowSums(BaseModel):
    """Sums over the rows of a batch."""

    rows: int = 0
    done: int = 0
    """Rows with an answer."""
    failed: int = 0
    degraded: int = 0
    ties: int = 0
    unanimous: int = 0
    """Rows on which all members that were asked voted for the same."""
    counted: int = 0
    """Rows on which votes were counted."""
    sure: int = 0
    """Rows whose answer has a probability of 0.9 or more, from a calibrated vote."""
    unsure: int = 0
    """Rows with an answer that is not as probable as `--review-below` wants."""
    calls_not_made: int = 0
    """Calls that were spared, because the answer of the row was settled."""
    abstained: int = 0
    """Rows without an answer because too few members agree."""
    to_review: int = 0
    """Rows that a person should look at."""
    not_started: int = 0
    """Rows that were left: the budget ended, or the batch was stopped."""
    calls: int = 0
    cached_calls: int = 0
    agreement: list[int] = Field(default_factory=lambda: [0] * BINS)
    """How many rows have an agreement from 0 to 0.1, from 0.1 to 0.2, and so on."""
    agreement_degraded: list[int] = Field(default_factory=lambda: [0] * BINS)
    """How many of these are degraded: not every member has a part in their agreement."""

    def add(self, result: Mapping[str, Any]) -> None:
        """Count a row of the output."""
        self.rows += 1
        if result["status"] == NOT_STARTED:
            self.not_started += 1
        elif result["status"] == ABSTAINED:
            self.abstained += 1
        elif result["answer"] is None:
            self.failed += 1
        else:
            self.done += 1
            self.degraded += bool(result["degraded"])
        self.unsure += result["status"] == UNSURE
        self.ties += bool(result.get("tie")) and result["status"] != DECIDED
        votes, answers = result.get("votes"), (result.get("answers") or {}).values()
        self.counted += bool(votes)
        self.unanimous += len(votes or ()) == 1 and all(one["answer"] is not None for one in answers)
        measured = result.get("confidence_measure") == CALIBRATED
        self.sure += measured and result["confidence"] >= SURE
        self.calls_not_made += result.get("calls_not_made") or 0
        self.to_review += bool(reasons(result))
        self.calls += result["calls"] or 0
        self.cached_calls += result["cached_calls"] or 0
        if result["agreement"] is not None:
            place = min(BINS - 1, int(result["agreement"] * BINS))
            self.agreement[place] += 1
            self.agreement_degraded[place] += bool(result["degraded"])


class Progress(RowSums):
    """How far a batch is: sums over the rows that this run has ended."""

    flow_run_id: str | None = None
    input: str = ""
    output: str = ""
    part: bool = False
    """Whether it is one of several shards."""
    algorithm: str = ""
    wanted: int = 0
    """Rows that there are."""
    resumed: int = 0
    """Rows that an earlier run had finished."""

    @property
    def finished(self) -> int:
        """Rows that are finished, by this run and by earlier ones."""
        return self.resumed + self.done + self.failed + self.abstained

    def add_shard(self, sums: Mapping[str, Any]) -> None:
        """Count the rows of a shard that has ended, those of its earlier runs among them."""
        for name in (
            "rows",
            "done",
            "failed",
            "degraded",
            "ties",
            "unanimous",
            "counted",
            "sure",
            "unsure",
            "calls_not_made",
            "abstained",
            "to_review",
            "not_started",
            "calls",
            "cached_calls",
        ):
            setattr(self, name, getattr(self, name) + sums.get(name, 0))


class BatchSummary(RowSums):
    """The result of a batch. Its sums include rows of earlier runs that were killed."""

    flow: str = "batch"
    flow_run_id: str | None = None
    algorithm: str = ""
    input: str = ""
    output: str = ""
    review_file: str | None = None
    """The file, or the page alone, of the rows to look at."""
    calibration: Calibration | None = None
    """On what the panel was calibrated, if it was."""
    gives_probability: bool = False
    """Whether the confidence of the rows is a probability that was fitted on labeled rows."""
    status: Literal["finished", "budget", "stopped", "waiting"] = "finished"
    """`budget`: it ended before all rows were done. `stopped`: row after row failed, so the rest was left. `waiting`: the rest
    is at the vendors, in batches that the next run collects."""
    error: str | None = None
    bad: int = 0
    """Rows of the input that cannot be used; they are in no other number here."""
    bad_rows: list[str] = Field(default_factory=list)
    """The first of them, each with its line and what is wrong with it."""
    failures: list[str] = Field(default_factory=list)
    """The first rows without an answer, each with its id and why."""
    resumed: int = 0
    """Rows that an earlier run had finished."""
    sent_calls: int = 0
    """Calls for which something was sent, which is what was paid for."""
    cost_usd: float | None = None
    """What is known to have been paid; None where a price is not known, or nothing is known."""
    possibly_billed: int = 0
    """Requests that the vendors may have billed beside that: their response was lost, or their run was killed."""
    known_cost_usd: float = 0.0
    """What is known to have been paid, whether or not the price of every call is known."""
    unpriced_calls: int = 0
    """Calls whose price is not known."""
    models: list[ModelSummary] = Field(default_factory=list)
    members: dict[str, MemberSummary] = Field(default_factory=dict)
    review: list[ReviewRow] = Field(default_factory=list)
    """The rows that a person should look at, the weightiest reasons first; not all where there are many."""
    requests: int = 0
    """Requests that were sent for these calls, retries included."""
    never_answered: list[str] = Field(default_factory=list)
    """The models that were asked and have not answered once."""
    taken_out: list[TakenOut] = Field(default_factory=list)
    """The models that kept failing, and were not asked for the rest of the run."""
    duration_s: float = 0.0
    """Seconds that this run took."""
    calls_per_s: float = 0.0
    """Calls of this run by its seconds, stored ones included."""

    def to_frame(self, library: Library | None = None) -> Any:
        """Return the rows of the output as a data frame.

        Args:
            library: `pandas`, `polars` or `pyarrow`; default: the first of them that is installed.
        """
        return frame_of(self.output, library)

    def add(self, result: Mapping[str, Any]) -> None:
        """Count a row of the output, and note why it has no answer."""
        super().add(result)
        for name, said in (result.get("answers") or {}).items():
            member = self.members.setdefault(name, MemberSummary())
            member.rows += 1
            member.answered += said["error"] is None
            member.read += said["answer"] is not None
            member.wins += said["answer"] is not None and said["answer"] == result["answer"]
        if why := reasons(result):
            answer = None if result["answer"] is None else result["answer"][:200]
            self.review.append(ReviewRow(id=result["id"], reasons=why, answer=answer, run_id=result.get("run_id")))
            self.review.sort(key=lambda row: _WEIGHT.index(row.reasons[0]))
            del self.review[SHOWN_REVIEW:]
        if (
            result["answer"] is None
            and result["status"] not in {NOT_STARTED, ABSTAINED}
            and len(self.failures) < SHOWN_FAILURES
        ):
            self.failures.append(f"{result['id']}: {result['error'] or result['status']}"[:500])

    def add_bill(self, totals: Totals) -> None:
        """Say what was sent and paid, by all runs of the batch."""
        self.sent_calls, self.models = totals.sent, totals.models()
        self.requests = sum(model.requests for model in self.models)
        self.never_answered = [model.model for model in self.models if model.never_answered]
        self.cost_usd, self.possibly_billed = totals.cost_usd, totals.possibly_billed
        self.known_cost_usd, self.unpriced_calls = totals.known_usd, totals.unpriced
