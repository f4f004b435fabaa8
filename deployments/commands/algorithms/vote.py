"""What `consensus vote` shows."""

from consensus_flows.deployments.terminal import put, say
from consensus_flows.deployments.view import summary
from consensus_flows.flows.vote import tally_lines
from consensus_flows.tasks.record import Record


def show(record: Record, ui_url: str) -> None:
    """Print the answer on stdout and the votes on stderr."""
    if record.answer is not None:
        put(record.answer)
    summary(record, ui_url)
    if record.tally:
        say("Votes:")
        for line in tally_lines(record):
            say(f"  {line}")
        if record.tie:
            say("  a tie: the answer whose first voter is listed first was taken")
