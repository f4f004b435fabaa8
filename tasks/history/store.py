"""Writes runs into the history, and reads conversations from it."""

import json
from collections.abc import Sequence
from uuid import uuid4

from sqlalchemy import Connection, func, insert, select

from tasks.history.conversation import Conversation
from tasks.history.errors import HistoryError
from tasks.history.rows import Entry, Row, call_rows, iteration_rows, run_row, username
from tasks.history.schema import calls, conversations, iterations, runs, turns
from tasks.request import Message

LISTED = 5
"""Ids that are named when an abbreviation fits several."""


def save(connection: Connection, entry: Entry) -> str:
    """Write a run with all that belongs to it.

    Returns:
        The id under which it can be read again.
    """
    record = entry.record
    turn = entry.turn if record.answer is not None else None
    record.conversation_id = turn.conversation_id if turn else None
    if turn and not _exists(connection, turn.conversation_id):
        row: Row = {"id": turn.conversation_id, "username": username(), "started_at": entry.started_at}
        connection.execute(insert(conversations), row)
    position = _position(connection, record.flow_run_id)
    run_id = record.flow_run_id or str(uuid4())
    run_id = run_id if position == 1 else f"{run_id}-{position}"
    connection.execute(insert(runs), run_row(entry, run_id, position))
    for table, rows in ((iterations, iteration_rows(record, run_id)), (calls, call_rows(entry, run_id))):
        if rows:
            connection.execute(insert(table), rows)
    if turn:
        given = json.dumps([message.model_dump() for message in turn.given]) if turn.given else None
        row = {"run_id": run_id, "conversation_id": turn.conversation_id, "parent_id": turn.parent_id}
        connection.execute(insert(turns), row | {"ended_at": entry.ended_at, "given": given})
    return run_id


def _exists(connection: Connection, conversation_id: str) -> bool:
    return (
        connection.execute(select(conversations.c.id).where(conversations.c.id == conversation_id)).first() is not None
    )


def _position(connection: Connection, flow_run_id: str | None) -> int:
    """Return the how manieth record of its flow run this is: a list of questions makes many, a retried run two."""
    if flow_run_id is None:
        return 1
    found = connection.execute(select(func.max(runs.c.position)).where(runs.c.flow_run_id == flow_run_id)).scalar()
    return int(found or 0) + 1


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
        raise HistoryError("there is no conversation to go on with")
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
    full = name if name in found else only(found, name, "conversation or run with an answer in one")
    leaf = connection.execute(
        select(turns.c.run_id)
        .where(turns.c.conversation_id == full)
        .order_by(turns.c.ended_at.desc(), turns.c.run_id.desc())
        .limit(1)
    ).scalar()
    return _after(connection, leaf or full)


def only(found: Sequence[str] | set[str], name: str, what: str) -> str:
    """Return the one id that was found.

    Raises:
        HistoryError: If there is none or several.
    """
    if not name.strip() or not found:
        raise HistoryError(f"{name!r} is no {what}")
    if len(found) > 1:
        listed = ", ".join(sorted(found)[:LISTED])
        raise HistoryError(
            f"{name!r} is the beginning of several ids: {listed}{', ...' if len(found) > LISTED else ''}"
        )
    return next(iter(found))


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
