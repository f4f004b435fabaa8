"""Reads the history: runs, one run in full, conversations, and how each model did."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    and_,
    case,
    false,
    func,
    literal_column,
    or_,
    select,
)

from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.errors import HistoryError
from consensus_flows.tasks.history.database import calls, conversations, runs, turns
from consensus_flows.tasks.history.writing import BATCH, Conversation, Row, username
from consensus_flows.tasks.record import known_cost

LISTED = 5
"""Ids that are named when an abbreviation fits several."""
LIST = [column for column in runs.c if column.name not in {"answer", "record"}]


@dataclass(frozen=True)
class Filter:
    """Which runs are wanted; None wants all.

    Attributes:
        flow: Name of the flow, as the record has it.
        status: How the run ended.
        since: When it began at the earliest.
        until: Before which moment it began.
        rows: Whether runs are wanted that are a row of a batch.
        batches: Whether batches as a whole are wanted.
        text: What stands in the question or in the answer.
        model: A model that was called, as `provider/model` or without the provider.
    """

    flow: str | None = None
    status: str | None = None
    since: datetime | None = None
    model: str | None = None
    until: datetime | None = None
    rows: bool = True
    batches: bool = True
    text: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return what holds for a run that is wanted."""
        found: list[ColumnElement[bool]] = []
        if self.flow is not None:
            found.append(func.replace(runs.c.flow, "_", "-") == self.flow.replace("_", "-"))
        if self.status is not None:
            found.append(runs.c.status == self.status)
        if self.since is not None:
            found.append(runs.c.started_at >= self.since)
        if self.until is not None:
            found.append(runs.c.started_at < self.until)
        if self.text is not None:
            found.append(or_(*(one.icontains(self.text, autoescape=True) for one in (runs.c.prompt, runs.c.answer))))
        if self.model is not None:
            made = calls.alias()  # a query over calls itself must not be taken for this one
            found.append(runs.c.id.in_(select(made.c.run_id).where(is_model(self.model, made))))
        if not self.batches:
            found.append(runs.c.position > 0)
        if not self.rows:
            batches = runs.alias()
            of_batch = select(batches.c.flow_run_id).where(batches.c.position == literal_column("0"))
            found.append(or_(runs.c.flow == BATCH, runs.c.flow_run_id.is_(None), runs.c.flow_run_id.not_in(of_batch)))
        return found


def is_model(name: str, of: FromClause = calls) -> ColumnElement[bool]:
    """Return what holds for a row in `of`, a table of calls, if the model `name` was called."""
    plain = of.c.model == name
    provider, slash, model = name.partition("/")
    # A model's own name may hold slashes too: openrouter/deepseek/deepseek-r1.
    return or_(plain, and_(of.c.provider == provider, of.c.model == model)) if slash else plain


def list_runs(connection: Connection, wanted: Filter, limit: int, *, answers: bool = False) -> list[Row]:
    """Return the latest runs, newest first, with their answers or without."""
    query = (
        select(*LIST, *([runs.c.answer] if answers else []))
        .where(*wanted.conditions())
        .order_by(runs.c.started_at.desc(), runs.c.id.desc())
    )
    return [_plain(row._mapping) for row in connection.execute(query.limit(limit))]  # noqa: SLF001 - that is its public name


def list_batches(connection: Connection, limit: int) -> list[Row]:
    """Return the latest batches with their summaries, newest first."""
    query = select(runs).where(runs.c.flow == BATCH).order_by(runs.c.started_at.desc(), runs.c.id.desc()).limit(limit)
    found = [_plain(row._mapping) for row in connection.execute(query)]  # noqa: SLF001 - that is its public name
    return [row | {"record": json.loads(row["record"])} for row in found]


def count_runs(connection: Connection) -> int:
    """Return how many runs there are."""
    return int(connection.execute(select(func.count()).select_from(runs)).scalar_one())


def read_run(connection: Connection, name: str) -> tuple[Row, dict[str, Any]]:
    """Return a run's row, and its record.

    Args:
        connection: Of the history.
        name: The run's id, or the beginning of one that fits no other.

    Raises:
        HistoryError: If there is none, or the beginning fits several.
    """
    fits = runs.c.id.startswith(name, autoescape=True)
    found = connection.execute(select(runs.c.id).where(fits).order_by(runs.c.id).limit(LISTED + 1)).scalars().all()
    # The id of a flow run is the beginning of those of its further records.
    run_id = name if name in found else only(found, name, "run")
    row = _plain(connection.execute(select(runs).where(runs.c.id == run_id)).one()._mapping)  # noqa: SLF001
    return row, json.loads(row.pop("record"))


def only(found: Sequence[str] | set[str], name: str, what: str) -> str:
    """Return the one id that was found.

    Raises:
        HistoryError: If there is none or several.
    """
    if not name.strip() or not found:
        raise HistoryError(f"no {what} {name!r}")
    if len(found) > 1:
        listed = ", ".join(sorted(found)[:LISTED])
        raise HistoryError(f"{name!r} matches several IDs: {listed}{', ...' if len(found) > LISTED else ''}")
    return next(iter(found))


def latest(connection: Connection) -> Conversation:
    """Return the conversation in which this user got the latest answer, after that answer.

    Raises:
        HistoryError: If there is none.
    """
    found = connection.execute(
        select(turns.c.run_id)
        .join(conversations, conversations.c.id == turns.c.conversation_id)
        .where(conversations.c.username == username())
        .order_by(turns.c.ended_at.desc(), turns.c.run_id.desc())
        .limit(1)
    ).scalar()
    if found is None:
        raise HistoryError("no conversation to continue")
    return _after(connection, found)


def named(connection: Connection, name: str) -> Conversation:
    """Return the conversation `name`, after its latest turn; or, if `name` is that of a run, after that run's turn.

    Args:
        connection: Of the history.
        name: An id, or the beginning of one that fits no other.

    Raises:
        HistoryError: If there is none, or the beginning fits several.
    """
    found: set[str] = set()
    for column in (conversations.c.id, turns.c.run_id):
        fits = column.startswith(name, autoescape=True)
        found |= set(connection.execute(select(column).where(fits).limit(LISTED + 1)).scalars())
    full = name if name in found else only(found, name, "conversation or answered run")
    leaf = connection.execute(
        select(turns.c.run_id)
        .where(turns.c.conversation_id == full)
        .order_by(turns.c.ended_at.desc(), turns.c.run_id.desc())
        .limit(1)
    ).scalar()
    return _after(connection, leaf or full)


def _after(connection: Connection, run_id: str) -> Conversation:
    """Return the conversation up to and with the turn of a run."""
    conversation_id = connection.execute(select(turns.c.conversation_id).where(turns.c.run_id == run_id)).scalar_one()
    query = select(turns.c.run_id, turns.c.parent_id, turns.c.given, runs.c.prompt, runs.c.answer).join(
        runs, runs.c.id == turns.c.run_id
    )
    known = {row.run_id: row for row in connection.execute(query.where(turns.c.conversation_id == conversation_id))}
    path, at = [], known.get(run_id)
    while at is not None:
        path.append(at)
        at = known.get(at.parent_id)
    conversation = Conversation(conversation_id)
    for row in reversed(path):
        given = [Message.model_validate(message) for message in json.loads(row.given or "[]")]
        conversation.add(row.prompt, row.answer, row.run_id, given)
    return conversation


@dataclass(frozen=True)
class ModelStats:
    """How a model did.

    Attributes:
        model: As `provider/model`.
        runs: Runs in which it was called.
        calls: Calls, failed ones and those answered from the cache included.
        failures: Calls that gave no answer.
        cached: Calls that were answered from the cache.
        p50_s: Median latency in seconds of the answers that were asked for, not taken from the cache.
        p95_s: The latency that 95 % of them stayed below.
        cost_usd: What all calls cost, without failed ones of which nobody knows the cost; None as soon as that of an
            answered one is not known, and where nothing is known.
        wins: Times its answer became the run's, word for word.
        agreement: Mean agreement of its answers as a member with the run's answer, 0 to 1.
    """

    model: str
    runs: int
    calls: int
    failures: int
    cached: int
    p50_s: float | None
    p95_s: float | None
    cost_usd: float | None
    wins: int
    agreement: float | None


def model_stats(connection: Connection, wanted: Filter) -> list[ModelStats]:
    """Return how each model did, most called first."""
    found = [
        ModelStats(
            model=f"{row.provider}/{row.model}",
            runs=row.runs,
            calls=row.calls,
            failures=row.failures,
            cached=row.cached,
            p50_s=_latency(connection, wanted, row, 0.50),
            p95_s=_latency(connection, wanted, row, 0.95),
            cost_usd=None if row.unpriced or row.cost is None else known_cost(round(row.cost, 10), row.lost),
            wins=row.wins,
            agreement=None if row.agreement is None else round(row.agreement, 4),
        )
        for row in connection.execute(_sums(wanted)).all()
    ]
    return sorted(found, key=lambda one: (-one.calls, one.model))


def _of_runs(query: Select[Any], wanted: Filter) -> Select[Any]:
    query = query.where(calls.c.role != "recorded")
    if wanted != Filter():
        # Not a join, for which a database would read each run where it is, and not in the index.
        query = query.where(calls.c.run_id.in_(select(runs.c.id).where(*wanted.conditions())))
    return query.where(is_model(wanted.model)) if wanted.model else query


def _sums(wanted: Filter) -> Select[Any]:
    one = case((calls.c.error_kind.is_not(None), 1), else_=0)
    query = select(
        calls.c.provider,
        calls.c.model,
        func.count(func.distinct(calls.c.run_id)).label("runs"),
        func.count().label("calls"),
        func.sum(one).label("failures"),
        func.sum(case((calls.c.cached, 1), else_=0)).label("cached"),
        func.sum(case((calls.c.error_kind.is_(None) & (calls.c.cached == false()), 1), else_=0)).label("asked"),
        func.sum(case((calls.c.cost_usd.is_(None) & calls.c.error_kind.is_(None), 1), else_=0)).label("unpriced"),
        func.sum(case((calls.c.cost_usd.is_(None) & calls.c.error_kind.is_not(None), 1), else_=0)).label("lost"),
        func.sum(calls.c.cost_usd).label("cost"),
        func.sum(case((calls.c.won, 1), else_=0)).label("wins"),
        func.avg(calls.c.agreement).label("agreement"),
    )
    return _of_runs(query, wanted).group_by(calls.c.provider, calls.c.model)


def _latency(connection: Connection, wanted: Filter, of: Any, share: float) -> float | None:
    """Return the latency that `share` of a model's answers do not exceed, the nearest rank; found in the index, not in memory."""
    number = of.asked
    query = _of_runs(select(calls.c.latency_s), wanted).where(
        calls.c.provider == of.provider,
        calls.c.model == of.model,
        calls.c.error_kind.is_(None),
        calls.c.cached == false(),
    )
    ranked = query.order_by(calls.c.latency_s).offset(nearest_rank(number, share) - 1).limit(1)
    found = connection.execute(ranked).scalar() if number else None
    return None if found is None else float(found)


def nearest_rank(number: int, share: float) -> int:
    """Return which of so many values in ascending order is the smallest that `share` of all do not exceed, from 1.

    Args:
        number: How many there are, at least 1.
        share: Above 0 and up to 1.
    """
    return max(1, math.ceil(share * number))


Lengths = dict[tuple[str, str, str], float]
"""Mean output tokens of an answer, by provider, model and role."""


def mean_output_tokens(connection: Connection) -> Lengths:
    """Return the mean output tokens of every model in every role, over the answers whose usage is known."""
    query = (
        select(calls.c.provider, calls.c.model, calls.c.role, func.avg(calls.c.output_tokens).label("mean"))
        .where(calls.c.error_kind.is_(None), calls.c.output_tokens > 0, calls.c.role != "recorded")
        .group_by(calls.c.provider, calls.c.model, calls.c.role)
    )
    return {(row.provider, row.model, row.role): float(row.mean) for row in connection.execute(query)}


def _plain(row: Any) -> Row:
    """Return a row as JSON has it."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}
