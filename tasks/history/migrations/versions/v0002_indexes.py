"""Indexes that answer lists and statistics of millions of runs without reading their records."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the indexes, in place of those that they include."""
    op.drop_index("runs_started_at", "runs")
    op.create_index("runs_started_at", "runs", ["started_at", "id", "flow", "flow_run_id"])
    batches = sa.text("position = 0")
    op.create_index("runs_batches", "runs", ["flow_run_id", "position"], sqlite_where=batches, postgresql_where=batches)
    op.drop_index("calls_model", "calls")
    op.create_index(
        "calls_model",
        "calls",
        [
            *("provider", "model", "error_kind", "cached", "latency_s", "role"),
            *("cost_usd", "won", "agreement", "output_tokens", "run_id"),
        ],
    )


def downgrade() -> None:
    """Make those of before."""
    op.drop_index("runs_batches", "runs")
    op.drop_index("runs_started_at", "runs")
    op.create_index("runs_started_at", "runs", ["started_at"])
    op.drop_index("calls_model", "calls")
    op.create_index("calls_model", "calls", ["provider", "model"])
