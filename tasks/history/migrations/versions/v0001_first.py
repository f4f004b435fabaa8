"""Runs, their iterations and calls, conversations and their turns."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "conversations",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("username", sa.Text, nullable=False),
        sa.Column("started_at", moment, nullable=False),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("flow_run_id", sa.Text),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("flow", sa.Text, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("username", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("degraded", sa.Boolean, nullable=False),
        sa.Column("confidence", sa.Float),
        sa.Column("agreement", sa.Float),
        sa.Column("cost_usd", sa.Float),
        sa.Column("calls", sa.Integer, nullable=False),
        sa.Column("cached_calls", sa.Integer, nullable=False),
        sa.Column("duration_s", sa.Float, nullable=False),
        sa.Column("started_at", moment, nullable=False),
        sa.Column("conversation_id", sa.Text, sa.ForeignKey("conversations.id")),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("answer", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("record", sa.Text, nullable=False),
        sa.UniqueConstraint("flow_run_id", "position", name="runs_flow_run"),
    )
    op.create_index("runs_started_at", "runs", ["started_at"])
    run = "runs.id"
    op.create_table(
        "iterations",
        sa.Column("run_id", sa.Text, sa.ForeignKey(run, ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("duration_s", sa.Float, nullable=False),
        sa.Column("agreement", sa.Float),
        sa.Column("confidence", sa.Float),
        sa.Column("arbiter", sa.Text),
        sa.Column("chosen", sa.Text),
        sa.Column("synthesis", sa.Text),
    )
    op.create_table(
        "calls",
        sa.Column("run_id", sa.Text, sa.ForeignKey(run, ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("iteration", sa.Integer, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("member", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("instance", sa.Integer, nullable=False),
        sa.Column("error_kind", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("latency_s", sa.Float, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("cached", sa.Boolean, nullable=False),
        sa.Column("input_tokens", sa.Integer, nullable=False),
        sa.Column("output_tokens", sa.Integer, nullable=False),
        sa.Column("cached_input_tokens", sa.Integer, nullable=False),
        sa.Column("reasoning_tokens", sa.Integer, nullable=False),
        sa.Column("cost_usd", sa.Float),
        sa.Column("won", sa.Boolean, nullable=False),
        sa.Column("agreement", sa.Float),
        sa.Column("text", sa.Text),
    )
    op.create_index("calls_model", "calls", ["provider", "model"])
    op.create_table(
        "turns",
        sa.Column("run_id", sa.Text, sa.ForeignKey(run, ondelete="CASCADE"), primary_key=True),
        sa.Column("conversation_id", sa.Text, sa.ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False),
        sa.Column("parent_id", sa.Text, sa.ForeignKey("turns.run_id", ondelete="CASCADE")),
        sa.Column("ended_at", moment, nullable=False),
        sa.Column("given", sa.Text),
    )
    op.create_index("turns_conversation", "turns", ["conversation_id", "ended_at"])
    op.create_index("turns_ended_at", "turns", ["ended_at"])


def downgrade() -> None:
    """Drop the tables."""
    for table in ("turns", "calls", "iterations", "runs", "conversations"):
        op.drop_table(table)
