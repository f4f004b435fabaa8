"""Finds conversations in the history."""

import json
from collections.abc import Sequence

from sqlalchemy import Connection, select

from consensus_flows.tasks.calls.request import Message
from consensus_flows.tasks.history.conversation import Conversation
from consensus_flows.tasks.history.errors import HistoryError
from consensus_flows.tasks.history.rows import username
from consensus_flows.tasks.history.schema import conversations, runs, turns

LISTED = 5
"""Ids that are named when an abbreviation fits several."""


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
