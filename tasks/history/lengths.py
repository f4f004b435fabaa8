"""How long models' answers were, for an estimate of what others will cost."""

from sqlalchemy import Connection, func, select

from consensus_flows.tasks.history.schema import calls

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
