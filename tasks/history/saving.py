"""Writes a run into the history, whichever database it is in."""

import json
from typing import Any, Protocol
from uuid import uuid4

from consensus_flows.tasks.history.rows import Entry, Row, Turn, call_rows, iteration_rows, run_row, username


class Transaction(Protocol):
    """A transaction that writes."""

    def value(self, query: str, **given: Any) -> Any:
        """Return the first value that a query finds; parameters are written `:name`."""

    def insert(self, table: str, rows: list[Row]) -> None:
        """Write rows, which all have the same columns."""


def save(transaction: Transaction, entry: Entry) -> str:
    """Write a run with all that belongs to it.

    Returns:
        The id under which it can be read again.
    """
    record = entry.record
    turn = entry.turn if record.answer is not None else None
    record.conversation_id = turn.conversation_id if turn else None
    if turn and not transaction.value("SELECT id FROM conversations WHERE id = :id", id=turn.conversation_id):
        begun = {"id": turn.conversation_id, "username": username(), "started_at": entry.started_at}
        transaction.insert("conversations", [begun])
    position = _position(transaction, record.flow_run_id)
    run_id = record.flow_run_id or str(uuid4())
    run_id = run_id if position == 1 else f"{run_id}-{position}"
    transaction.insert("runs", [run_row(entry, run_id, position)])
    transaction.insert("iterations", iteration_rows(record, run_id))
    transaction.insert("calls", call_rows(entry, run_id))
    if turn:
        given = json.dumps([message.model_dump() for message in turn.given]) if turn.given else None
        row = {"run_id": run_id, "conversation_id": turn.conversation_id, "parent_id": _parent(transaction, turn)}
        transaction.insert("turns", [row | {"ended_at": entry.ended_at, "given": given}])
    return run_id


def _parent(transaction: Transaction, turn: Turn) -> str | None:
    """Return the turn before this one, unless it was deleted while the run went on."""
    found: str | None = transaction.value("SELECT run_id FROM turns WHERE run_id = :id", id=turn.parent_id)
    return found


def _position(transaction: Transaction, flow_run_id: str | None) -> int:
    """Return the how manieth record of its flow run this is: a list of questions makes many, a retried run two."""
    if flow_run_id is None:
        return 1
    found = transaction.value("SELECT max(position) FROM runs WHERE flow_run_id = :id", id=flow_run_id)
    return int(found or 0) + 1
