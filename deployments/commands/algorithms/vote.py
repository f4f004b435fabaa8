"""What `consensus vote` shows."""

from consensus_flows.deployments.terminal import put, say
from consensus_flows.deployments.view import summary
from consensus_flows.tasks.record import Record
from consensus_flows.tasks.reports.vote_report import TIE, field_lines, tally_lines


def show(record: Record, ui_url: str) -> None:
    """Print the answer on stdout and the votes on stderr."""
    if record.answer is not None:
        put(record.answer)
    made = record.iterations[0].synthesis if record.iterations else None
    if made is not None and made.method == "cascade":
        say(f"Decided by {made.arbiter}, because those asked first do not agree")
    if record.fields:
        say("Fields:")
        for line in field_lines(record):
            say(f"  {line}")
    if record.tally:
        say("\nVotes:")
        for line in tally_lines(record):
            say(f"  {line}")
        if record.tie:
            say(f"  a tie: {TIE}")
    summary(record, ui_url)
