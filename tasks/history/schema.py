"""The tables of the history. Names of columns are those of the record where they mean the same."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

metadata = MetaData()


class Moment(TypeDecorator[datetime]):
    """A point in time. SQLite keeps no time zone: there it is UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return the time in UTC."""
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return the time with its zone."""
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


conversations = Table(
    "conversations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("username", Text, nullable=False),
    Column("started_at", Moment, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    # The flow run's id; of a flow run that was retried the second and further ones end in -2, -3, ... The rows of a batch
    # have ids of their own.
    Column("id", Text, primary_key=True),
    Column("flow_run_id", Text),
    Column("position", Integer, nullable=False),
    Column("flow", Text, nullable=False),
    Column("name", Text),
    Column("username", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("degraded", Boolean, nullable=False),
    Column("confidence", Float),
    Column("agreement", Float),
    Column("cost_usd", Float),
    Column("calls", Integer, nullable=False),
    Column("cached_calls", Integer, nullable=False),
    Column("duration_s", Float, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("conversation_id", Text, ForeignKey("conversations.id")),
    Column("prompt", Text, nullable=False),
    Column("answer", Text),
    Column("error", Text),
    # Last, because a list of runs does not read it.
    Column("record", Text, nullable=False),
    UniqueConstraint("flow_run_id", "position", name="runs_flow_run"),
    Index("runs_started_at", "started_at"),
)

iterations = Table(
    "iterations",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("duration_s", Float, nullable=False),
    Column("agreement", Float),
    Column("confidence", Float),
    Column("arbiter", Text),
    Column("chosen", Text),
    Column("synthesis", Text),
)

calls = Table(
    "calls",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("iteration", Integer, nullable=False),
    Column("role", Text, nullable=False),
    Column("member", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("instance", Integer, nullable=False),
    Column("error_kind", Text),
    Column("error", Text),
    Column("latency_s", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("cached", Boolean, nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("cached_input_tokens", Integer, nullable=False),
    Column("reasoning_tokens", Integer, nullable=False),
    Column("cost_usd", Float),
    Column("won", Boolean, nullable=False),
    Column("agreement", Float),
    Column("text", Text),
    Index("calls_model", "provider", "model"),
)

turns = Table(
    "turns",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("conversation_id", Text, ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False),
    Column("parent_id", Text, ForeignKey("turns.run_id", ondelete="CASCADE")),
    Column("ended_at", Moment, nullable=False),
    # Messages as JSON that were given to the run beside the turns before it.
    Column("given", Text),
    Index("turns_conversation", "conversation_id", "ended_at"),
    Index("turns_ended_at", "ended_at"),
)
