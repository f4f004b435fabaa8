"""What goes wrong with the history. A run is never lost for it."""

from consensus_flows.tasks.errors import ConsensusError


class HistoryError(ConsensusError):
    """The history cannot be read or written."""


class RowError(HistoryError):
    """The database refuses what is to be written, and may take something else."""
