"""Deletes old runs from the history. A conversation that continues is kept from its first turn."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, delete, func, select

from consensus_flows.tasks.history.database import calls, conversations, iterations, runs, turns

if TYPE_CHECKING:
    from consensus_flows.tasks.history.database import Database

AT_ONCE = 500
"""Runs that are deleted in one transaction: whoever wants to write meanwhile waits for no more than that."""


@dataclass(frozen=True)
class Pruned:
    """What was deleted, or would be.

    Attributes:
        runs: Runs, with their iterations, calls and turns.
        calls: Calls of these runs.
        kept: Runs that are as old, of conversations that continued later.
    """

    runs: int
    calls: int
    kept: int


def count_old(connection: Connection, before: datetime) -> Pruned:
    """Return what `prune` would delete: runs that began before a moment, and their calls."""
    old = _old(before).subquery()
    return Pruned(
        runs=_number(connection, select(func.count()).select_from(old)),
        calls=_number(connection, select(func.count()).select_from(calls).where(calls.c.run_id.in_(select(old.c.id)))),
        kept=_number(
            connection,
            select(func.count())
            .select_from(runs)
            .where(runs.c.started_at < before, runs.c.id.not_in(select(old.c.id))),
        ),
    )


def prune(database: "Database", before: datetime) -> Pruned:
    """Delete runs that began before a moment, some hundreds in a transaction.

    Args:
        database: The history.
        before: The moment.
    """
    deleted_runs = deleted_calls = 0
    while True:
        number, of_calls = database.write(lambda connection: _delete_some(connection, before))
        if not number:
            break
        deleted_runs, deleted_calls = deleted_runs + number, deleted_calls + of_calls
    # Once, and not in each transaction: it reads all that is left.
    database.write(lambda connection: _delete_unused(connection, before))
    return Pruned(deleted_runs, deleted_calls, database.read(lambda connection: count_old(connection, before)).kept)


def _old(before: datetime) -> Select[Any]:
    # The turns tell, not the runs' own column: only a run with an answer is a turn.
    going_on = select(turns.c.conversation_id).where(turns.c.ended_at >= before)
    of_one_going_on = select(turns.c.run_id).where(turns.c.conversation_id.in_(going_on))
    return select(runs.c.id).where(runs.c.started_at < before, runs.c.id.not_in(of_one_going_on))


def _delete_some(connection: Connection, before: datetime) -> tuple[int, int]:
    # Latest first: a turn goes before the turn that it goes on from.
    wanted = _old(before).order_by(runs.c.started_at.desc(), runs.c.id.desc()).limit(AT_ONCE)
    found: Sequence[Any] = connection.execute(wanted).scalars().all()
    if not found:
        return 0, 0
    of_calls = connection.execute(delete(calls).where(calls.c.run_id.in_(found))).rowcount
    for table, column in ((turns, turns.c.run_id), (iterations, iterations.c.run_id), (runs, runs.c.id)):
        connection.execute(delete(table).where(column.in_(found)))
    return len(found), of_calls


def _delete_unused(connection: Connection, before: datetime) -> None:
    """Delete the conversations of which no turn is left."""
    unused = conversations.c.id.not_in(select(turns.c.conversation_id))
    referred_to = conversations.c.id.in_(select(runs.c.conversation_id).where(runs.c.conversation_id.is_not(None)))
    connection.execute(delete(conversations).where(unused, ~referred_to, conversations.c.started_at < before))


def _number(connection: Connection, query: Select[Any]) -> int:
    return int(connection.execute(query).scalar_one())
