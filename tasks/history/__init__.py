"""The history of runs: every run with its iterations, calls and conversation, in a database.

One driver, SQLAlchemy, for SQLite and PostgreSQL. `address`, `conversations` and `writing` do without importing it, because
it costs a quarter of a second: a run imports it in the thread that writes, while the models answer.
"""

from consensus_flows.tasks.errors import ConsensusError


class HistoryError(ConsensusError):
    """The history cannot be read or written. A run never fails because of it."""


class RowError(HistoryError):
    """The database refuses this row, and may accept another."""
