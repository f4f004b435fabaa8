"""What a row of the output says of its run: the columns, each written once, with what they mean."""

from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, JsonValue

from consensus_flows.tasks.batches.rows import Row
from consensus_flows.tasks.record import CallError, Iteration, Record, Response

NOT_STARTED = "not_started"
TIE = "tie"
ABSTAINED = "abstained"
DECIDED = "decided"
UNSURE = "unsure"
ANSWERS = "answers"
OF_BATCH = "calibration"
"""Kind of the warnings that would be the same in every row: a batch says them once, and the records have them."""


class MemberAnswer(BaseModel):
    """What one member said to a row."""

    answer: str | None = None
    """What was read out of its text; None where the algorithm reads nothing, or could not."""
    text: str | None = None
    """All that it wrote."""
    cost_usd: float | None = None
    """What the answer cost when it was made, also where it is from the cache now."""
    input_tokens: int = 0
    output_tokens: int = 0
    error: CallError | None = None


class FieldResult(BaseModel):
    """The votes on one field."""

    value: JsonValue = None
    agreement: float
    tie: bool
    votes: dict[str, JsonValue]


class RowResult(BaseModel):
    """The columns that every output begins with, in order. Those named like a field of the record hold that field.

    A new column is a new field here; one that is no field of the record is filled in by `outcome`.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    """The row's own id; without one its number among the rows of the input, from 1."""
    answer: str | None = None
    """The panel's answer; empty if there is none."""
    status: str = NOT_STARTED
    """How the run ended: `finished`, `confident`, `agreed`, `max_iterations`, `budget`, `failed`; `tie` where several answers
    have the most votes and the order of the members decided; `abstained` where too few agree for `--abstain-below`; `unsure` where
    the probability is below `--review-below`; `decided` by a person; `not_started` for a row that was left."""
    degraded: bool = False
    """Whether a call failed, or a stand-in answered."""
    confidence: float | None = None
    """How sure the answer is, 0 to 1: the probability that it is right, from a calibrated vote; else the arbiter's own word."""
    agreement: float | None = None
    """How alike the members' answers are, 0 to 1."""
    cost_usd: float | None = None
    """What the row cost in this batch; empty where a price is not known."""
    calls: int = 0
    """Calls of the row, those answered from the cache included."""
    cached_calls: int = 0
    """Calls answered from the cache."""
    error: str | None = None
    """Why there is no answer."""
    warnings: str | None = None
    """What else is worth knowing about the run."""
    duration_s: float | None = None
    """Seconds from the first call to the answer."""
    possibly_billed: int = 0
    """Requests whose response was lost; the vendor may have billed them."""
    run_id: str | None = None
    """The row's run in the history: `consensus run RUN_ID` shows it."""
    share: float | None = None
    """Share of the votes that the answer has, 0 to 1. Only where votes are counted."""
    margin: float | None = None
    """Lead over the best other answer, as a share of the votes; below 0 where it won by something else. Only where votes are
    counted."""
    tie: bool | None = None
    """Whether several answers have the most votes, or were found equally good. Only for a vote."""
    votes: dict[str, JsonValue] | None = None
    """Votes by answer, most first. Only where votes are counted."""
    dissent: str | None = None
    """What the arbiter reports of a minority. Only for a consortium."""
    hazards: dict[str, list[str]] | None = None
    """By member, what in its text looks like an attack on a judge or a reader."""
    panel_answer: str | None = None
    """What the panel answered, where `answer` is not that: it abstained, or a person decided."""
    decided_by: str | None = None
    """Who decided, where a person did."""
    decided_at: str | None = None
    """When, in UTC."""
    confidence_measure: str | None = None
    """`calibrated` where the confidence is a probability."""
    calls_not_made: int = 0
    """Members that did not have to be asked, because the answer was settled; a saved panel counts as one."""
    grade: str | None = None
    """How hard the prompt was found: `easy`, `medium` or `hard`. Only with `--grade`."""
    grade_reason: str | None = None
    """Why, in the words of the model that graded; or why there is no grade."""
    grade_cost_usd: float | None = None
    """What the grade cost; it is part of `cost_usd`."""
    answered_by: str | None = None
    """The model that answered alone; empty for the whole panel."""
    answers: dict[str, MemberAnswer] | None = None
    """By member (`provider/model`, further instances `provider/model#2`): `answer` (what was read out of the text where votes are
    counted, else empty), `text`, `cost_usd` (when the answer was made), `input_tokens`, `output_tokens`, `error`."""
    fields: dict[str, FieldResult] | None = None
    """By field of a JSON answer: `value`, `agreement` (its share of the votes), `tie`, and `votes` by value. Only where each field is
    voted on by itself; `share` and `margin` are then those of the field with the least agreement."""
    split_fields: str | None = None
    """The fields about which members differ: those of a tie, and those on which fewer than 60 % agree."""


class OutputColumn(NamedTuple):
    """A column of the output, for people."""

    name: str
    meaning: str


def output_columns() -> list[OutputColumn]:
    """Return the columns that every output begins with, in order, and what they mean."""
    return [
        OutputColumn(name, " ".join((field.description or "").split()))
        for name, field in RowResult.model_fields.items()
    ]


def _kind(annotation: Any) -> Any:
    """Return what a field holds beside None: a plain type, the fields of a model, or a text for everything else."""
    kinds = [one for one in get_args(annotation) or (annotation,) if one is not type(None)]
    if isinstance(kinds[0], type) and issubclass(kinds[0], BaseModel):
        return {name: _kind(field.annotation) for name, field in kinds[0].model_fields.items()}
    return kinds[0] if kinds[0] in {bool, int, float} else str


RESULT_COLUMNS: dict[str, type] = {name: _kind(field.annotation) for name, field in RowResult.model_fields.items()}
"""The names of these columns, and what is in them; texts for what is nested."""
BY_MEMBER: dict[str, dict[str, Any]] = {ANSWERS: _kind(MemberAnswer)}
"""Columns that hold an object for each member, with the fields of each."""


def outcome(row: Row, record: Record) -> dict[str, Any]:
    """Return the columns that a finished run gives a row of the output."""
    values = {name: getattr(record, name) for name in RESULT_COLUMNS if hasattr(record, name) and name != "grade"}
    shown = record.answering()
    responses = shown.responses if shown else []
    dissent = shown.synthesis.dissent.strip() if shown and shown.synthesis else ""
    hazards = {member_key(one.member): one.hazards for one in responses if one.hazards}
    values |= {
        "id": row.id,
        "status": TIE if record.tie and record.status == "finished" else record.status,
        "warnings": "; ".join(dict.fromkeys(str(one) for one in record.warnings if one.kind != OF_BATCH)) or None,
        "calls_not_made": len(record.not_asked),
        "share": record.tally[0].share if record.tally else min((one.agreement for one in record.fields), default=None),
        "votes": {one.answer: _whole(one.votes) for one in record.tally} if record.tally else None,
        "fields": _fields(record) or None,
        "split_fields": ", ".join(one.field for one in record.fields if one.split) or None,
        "dissent": dissent or None,
        "hazards": hazards or None,
        "answers": _answers(record, responses, shown),
    }
    if (graded := record.grade) is not None:
        values |= {
            "grade": graded.level,
            "grade_reason": graded.reason,
            "grade_cost_usd": graded.cost_usd,
            "answered_by": graded.answered_by,
        }
    return RowResult.model_validate(values).model_dump(mode="json")


def _fields(record: Record) -> dict[str, FieldResult]:
    return {
        one.field: FieldResult(
            value=one.options[0].value,
            agreement=one.agreement,
            tie=one.tie,
            votes={str(option): _whole(option.votes) for option in one.options},
        )
        for one in record.fields
    }


def not_started(row: Row, error: str | None = None) -> dict[str, Any]:
    """Return the columns of a row that was left, and why."""
    return RowResult(id=row.id, error=error).model_dump(mode="json")


def member_key(member: str) -> str:
    """Return what a member is called in the output: `provider/model`, and `provider/model#2` for a further instance.

    It does not depend on which other instances were asked, so that a member has one name in all rows.
    """
    return member.removesuffix("#1")


def _answers(record: Record, responses: list[Response], shown: Iteration | None) -> dict[str, MemberAnswer]:
    read: dict[str, str | None] = {vote.member: vote.answer for vote in record.votes}
    if not read and shown is not None and shown.settlement is not None:
        read = shown.settlement.given
    return {
        member_key(one.member): MemberAnswer(
            answer=read.get(one.member),
            text=one.text,
            cost_usd=one.stored_cost_usd if one.cached else one.cost_usd,
            input_tokens=one.usage.input_tokens,
            output_tokens=one.usage.output_tokens,
            error=one.error,
        )
        for one in responses
    }


def flat_answers(result: Mapping[str, Any]) -> dict[str, str | None]:
    """Return what each member said, as one text: its answer where answers are read out of the texts, else the whole text."""
    counted = result.get("votes") is not None
    return {
        member: said["error"]["kind"] if said["error"] else said["answer"] if counted else said["text"]
        for member, said in (result.get("answers") or {}).items()
    }


def _whole(number: float) -> int | float:
    return int(number) if number.is_integer() else number
