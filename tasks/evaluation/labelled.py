"""Labeled rows: questions whose right answer is known, and the answers of members that a batch has written down.

The rows may be without labels: then only the members' agreement can be measured.
"""

import base64
import datetime as dt
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, Field, RootModel, ValidationError

from consensus_flows.blocks.calibration import Calibration
from consensus_flows.blocks.extraction import Extraction, parse_extraction
from consensus_flows.blocks.spelling import did_you_mean
from consensus_flows.tasks.batches.columns import ID, PREFERRED
from consensus_flows.tasks.batches.frames import output_rows
from consensus_flows.tasks.batches.results import ANSWERS, MemberAnswer
from consensus_flows.tasks.batches.rows import BadRow
from consensus_flows.tasks.batches.source import Source
from consensus_flows.tasks.batches.summary import describe
from consensus_flows.tasks.calls.pricing import list_price
from consensus_flows.tasks.counting.extraction.extract import Reading, extract, extract_all, extract_label
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.evaluation.rows import LabelledRow, MemberReading
from consensus_flows.tasks.record import Usage

SHOWN = 5
"""Rows that an error or a note names."""
_HASH = 4
"""Bytes by which a question is known. Of 1,000 new questions, one is taken for one of 1,000 known ones in 1 of 4,000 cases."""
LEAST = 10
"""Labeled rows without which nothing can be said."""


class Note(BaseModel):
    """Something about the rows that a reader of the figures should know."""

    kind: Literal["unlabelled", "duplicates", "missing", "failed", "unread", "unpriced", "prices", "calibrated"]
    count: int = 0
    ids: list[str] = []
    """The first of the rows."""
    members: list[str] = []
    source: str | None = None
    """Where prices come from: the table, or a file."""
    date: dt.date | None = None
    """The day of the prices."""


class Question(NamedTuple):
    """A question, and its right answer if that is known."""

    id: str
    prompt: str | None
    """None where only its answers were recorded."""
    label: Reading | None
    group: str | None
    said: Mapping[str, MemberAnswer]
    """By member, what was recorded."""
    files: Sequence[str] = ()
    """The files that it is about, as the row names them."""

    def key(self) -> str:
        """Return what two writings of one question have in common."""
        return self.id if self.prompt is None else "\n".join((normalized(self.prompt), *self.files))

    def hashes(self) -> tuple[bytes, bytes]:
        """Return what a calibration knows the question by: its text; its id where the text was not known."""
        by_id = _hash(f"id {self.id}")
        return by_id if self.prompt is None else _hash(f"prompt {self.key()}"), by_id


@dataclass
class Labelled:
    """Questions with their right answers, and what is to be known of the file."""

    questions: list[Question]
    notes: list[Note] = field(default_factory=list)


def today() -> dt.date:
    """Return the day, as this place's clock has it."""
    return dt.datetime.now().astimezone().date()


def normalized(prompt: str) -> str:
    """Return a prompt without what makes no other question of it: case and blanks."""
    return " ".join(prompt.casefold().split())


def ids_digest(ids: Iterable[str]) -> str:
    """Return the SHA-256 of the ids of rows, whatever their order; by it a panel's calibration knows the rows it was fitted on."""
    return hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest()


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()[:_HASH]


def calibrated_on(calibration: Calibration, questions: Sequence[Question]) -> list[str]:
    """List the ids of the questions that a panel was calibrated on."""
    if not calibration.questions:
        ids = [one.id for one in questions]
        return ids if calibration.ids_digest == ids_digest(ids) else []
    packed = base64.b64decode(calibration.questions)
    known = {packed[at : at + _HASH] for at in range(0, len(packed), _HASH)}
    return [one.id for one in questions if not known.isdisjoint(one.hashes())]


def read_questions(source: Source, label: str | None, extract: str, by: str | None = None) -> Labelled:
    """Read a file of questions.

    Args:
        source: The file.
        label: The column of the right answer; None without labels.
        extract: How answers are read.
        by: The column of the category.

    Raises:
        ConfigurationError: If a row cannot be used, there is no such column, or a label cannot be read.
    """
    rows = list(source.rows())
    if bad := [row for row in rows if isinstance(row, BadRow)]:
        named = "\n".join(describe(row) for row in bad[:SHOWN])
        raise ConfigurationError(f"input: {len(bad)} of {len(rows)} rows are invalid:\n{named}")
    return _questions(
        (
            (row.id, row.prompt, row.columns, {}, source.files_of(row.columns) if source.attach_column else ())
            for row in rows
            if not isinstance(row, BadRow)
        ),
        label,
        extract,
        by,
    )


def read_recorded(
    address: str, label: str | None, extract: str | None, id_column: str | None, by: str | None
) -> Labelled:
    """Read questions whose answers were recorded, in the shape of a batch's output.

    Args:
        address: The file.
        label: The column of the right answer; None without labels.
        extract: How answers are read; None to take them as they were read.
        id_column: The column of the id; None for `id` where there is one, else the number of the row.
        by: The column of the category.

    Raises:
        ConfigurationError: As `read_questions`.
    """
    return _questions(_recorded(address, id_column), label, extract or "text", by)


Found = tuple[str, str | None, Mapping[str, Any], Mapping[str, MemberAnswer], Sequence[str]]


def _recorded(address: str, id_column: str | None) -> Iterator[Found]:
    for number, row in enumerate(output_rows(address), 1):
        name = row.get(id_column or ID)
        if name is None and id_column is not None:
            raise ConfigurationError(f"id_column: row {number} has no {id_column!r}")
        name = str(number if name is None else name)
        answers = row.get(ANSWERS)
        if not isinstance(answers, dict):
            raise ConfigurationError(
                f"from: row {name} has no {ANSWERS!r}, an object by member, as the output of a batch without --wide has"
            )
        try:
            said = {member: MemberAnswer.model_validate(_plain(one)) for member, one in answers.items()}
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ConfigurationError(
                f"from: row {name}: {ANSWERS}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
            ) from None
        prompt = next((str(row[column]) for column in PREFERRED if row.get(column)), None)
        yield name, prompt, row, said, ()


def _plain(said: Any) -> Any:
    """Let a number be an answer, and a text be the cause of an error."""
    if not isinstance(said, dict):
        return said
    answer, error = said.get("answer"), said.get("error")
    if answer is not None and not isinstance(answer, str):
        said = {**said, "answer": json.dumps(answer, ensure_ascii=False)}
    if isinstance(error, str):
        said = {**said, "error": {"kind": "unknown", "message": error}}
    return said


def _questions(rows: Iterator[Found], label: str | None, extract: str, by: str | None) -> Labelled:
    how = _extraction(extract)
    found, unlabelled, unreadable = list[Question](), list[str](), list[str]()
    columns = dict[str, None]()
    ids, keys = set[str](), dict[str, str]()
    duplicates = list[str]()
    for name, prompt, row, said, files in rows:
        columns.update(dict.fromkeys(row))
        if name in ids:
            raise ConfigurationError(f"id_column: two rows have the id {name!r}")
        ids.add(name)
        reading = None
        if label is not None:
            value = row.get(label)
            if value is None or value == "":
                unlabelled.append(name)
                continue
            if (reading := extract_label(value, how)) is None:
                unreadable.append(f"row {name}: {str(value)[:60]!r}")
                continue
        group = None if by is None or row.get(by) is None else str(row[by])
        question = Question(name, prompt, reading, group, said, files)
        # Asked twice, it could be fitted on and judged; and it would count twice.
        if keys.setdefault(question.key(), name) != name:
            duplicates.append(name)
        else:
            found.append(question)
    for option, column in (("label", label), ("by", by)):
        if column is not None and column not in columns:
            raise ConfigurationError(
                f"{option}: no column {column!r}.{did_you_mean(column, columns)} The columns are {', '.join(map(repr, columns))}"
            )
    if unreadable:
        shown = "\n".join(unreadable[:SHOWN])
        raise ConfigurationError(
            f"label: {len(unreadable)} labels cannot be read as {extract}; correct them, or leave them empty:\n{shown}"
        )
    if len(found) < LEAST:
        option, have = ("input", "") if label is None else ("label", f" have a label in {label!r}")
        raise ConfigurationError(
            f"{option}: only {len(found)} rows{have}: at least {LEAST} are needed, and 200 are better"
        )
    notes = [
        Note(kind=kind, count=len(named), ids=named[:SHOWN])
        for kind, named in (("unlabelled", unlabelled), ("duplicates", duplicates))
        if named
    ]
    return Labelled(found, notes)


def _extraction(text: str) -> Extraction:
    try:
        return parse_extraction(text)
    except ValueError as error:
        raise ConfigurationError(f"extract: {error}") from None


class Price(BaseModel):
    """US dollars per million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)


class Prices(RootModel[dict[str, Price]]):
    """Prices by model, or by provider/model."""

    def of(self, member: str) -> Price | None:
        """Return the price of a member."""
        name = member.partition("#")[0]
        return self.root.get(name) or self.root.get(name.partition("/")[2])


def read_prices(path: Path) -> Prices:
    """Read a file of prices: `{"MODEL": {"input": 0.15, "output": 0.6}}`, US dollars per million tokens.

    Raises:
        ConfigurationError: If it cannot be read.
    """
    try:
        return Prices.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"prices: {path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigurationError(
            f'prices: {path}: {where}: {first["msg"]}; write {{"MODEL": {{"input": 0.15, "output": 0.6}}}}, US dollars '
            "per million tokens"
        ) from None


@dataclass(frozen=True)
class PanelAnswers:
    """What the members of a panel answered to labeled questions.

    Attributes:
        members: Their names, in order.
        rows: The questions with the answers.
        hashes: By id, what a calibration knows the question by.
        read_as: By id, the label and then the answers, as they were written; None where there is none.
        failed: By member, calls that failed.
        missing: By member, questions that it was not asked.
        notes: What is to be known of all that.
    """

    members: tuple[str, ...]
    rows: list[LabelledRow]
    hashes: dict[str, bytes]
    labels: dict[str, str]
    failed: Counter[str]
    missing: Counter[str]
    notes: list[Note]


def read_answers(
    labelled: Labelled, members: Sequence[str], extract: str | None, prices: Prices | None = None
) -> PanelAnswers:
    """Read what the members said, and price it.

    An answer costs what the row says, else its tokens times the given price, else times that of the price table.

    Args:
        labelled: The questions, with what was recorded.
        members: The names of the members, in order; empty for all that were recorded, in the order of the file.
        extract: How answers are read out of the texts; None to take them as they were read.
        prices: Prices that were given.

    Raises:
        ConfigurationError: If nothing is recorded of a member, or nothing can be read.
    """
    known = dict.fromkeys(member for question in labelled.questions for member in question.said)
    names = tuple(members) or tuple(known)
    if strangers := [name for name in names if name not in known]:
        raise ConfigurationError(
            f"members: no answer of {', '.join(strangers)} is recorded; recorded are {', '.join(known)}"
        )
    if len(names) < 2:
        raise ConfigurationError("members: a panel has two members or more")
    how, pricing = _extraction(extract or "text"), _Pricing(prices)
    texts = extract is not None and how.kind != "llm"
    failed, missing, rows = Counter[str](), Counter[str](), list[LabelledRow]()
    without = list[str]()
    for question in labelled.questions:
        said = [question.said.get(name) for name in names]
        if None in said:
            without.append(question.id)
        missing.update(name for name, one in zip(names, said, strict=True) if one is None)
        failed.update(name for name, one in zip(names, said, strict=True) if one and one.error)
        rows.append(
            LabelledRow(
                question.id,
                question.label and question.label.value,
                tuple(
                    MemberReading(
                        None if reading is None else reading.value,
                        None if reading is None else reading.text,
                        pricing.cost(name, one) if one else 0.0,
                        int(one is not None),
                    )
                    for name, one, reading in zip(names, said, _readings(said, how, texts=texts), strict=True)
                ),
                question.group,
            )
        )
    if all(one.answer is None for row in rows for one in row.answers):
        how_to = f"as {extract}" if extract else "; --extract says how to read the texts"
        raise ConfigurationError(f"extract: no answer of any member can be read{'' if not extract else ' '}{how_to}")
    notes = [*labelled.notes, *pricing.notes()]
    if without:
        notes.append(Note(kind="missing", count=len(without), ids=without[:SHOWN], members=list(missing)))
    if failed:
        notes.append(Note(kind="failed", count=failed.total(), members=list(failed)))
    labels = {question.id: question.label.text for question in labelled.questions if question.label}
    hashes = {question.id: question.hashes()[0] for question in labelled.questions}
    return PanelAnswers(names, rows, hashes, labels, failed, missing, notes)


def _readings(said: Sequence[MemberAnswer | None], how: Extraction, *, texts: bool) -> list[Reading | None]:
    """Return what each member answers; a text is read, and an answer that was read already is taken as it is."""
    given = [None if one is None or one.error else one for one in said]
    read = extract_all([one.text if one and texts else None for one in given], how)
    return [
        reading if one is None or (texts and one.text is not None) else answer_in(one.answer, how)
        for one, reading in zip(given, read, strict=True)
    ]


def answer_in(text: str | None, how: Extraction) -> Reading | None:
    """Return the answer in what a panel or an extractor returned: a text that holds it, or the answer alone."""
    if text is None:
        return None
    return extract(text, how) or extract_label(text, how)


class _Pricing:
    """What answers cost, and which prices are not known."""

    def __init__(self, given: Prices | None) -> None:
        self._given = given
        self._from = set[str]()
        self._unpriced = dict[str, None]()

    def cost(self, member: str, said: MemberAnswer) -> float | None:
        """Return what an answer cost in US dollars; None if that is not known."""
        if said.cost_usd is not None:
            return said.cost_usd
        usage = Usage(input_tokens=said.input_tokens, output_tokens=said.output_tokens)
        if not (usage.input_tokens or usage.output_tokens):
            # A call that was never answered has no tokens, and was not billed.
            if said.error:
                return 0.0
            self._unpriced[member] = None
            return None
        if self._given and (price := self._given.of(member)):
            self._from.add("file")
            return (price.input * usage.input_tokens + price.output * usage.output_tokens) / 1_000_000
        cost = list_price(member.partition("#")[0], usage)
        if cost is None:
            self._unpriced[member] = None
        else:
            self._from.add("table")
        return cost

    def notes(self) -> list[Note]:
        """Say which prices are not known, and which are not those of the rows themselves."""
        found = [Note(kind="prices", source=source, date=today()) for source in sorted(self._from)]
        if self._unpriced:
            found.append(Note(kind="unpriced", count=len(self._unpriced), members=list(self._unpriced)))
        return found
