"""What a record or a response warns of, as data: tests compare kinds, not sentences."""

from consensus_flows.tasks.record import Record, Response


def kinds(of: Record | Response) -> list[tuple[str, str | None, int | None]]:
    """For each warning its kind, whose call or answer it is about, and the iteration."""
    return [(warning.kind, warning.member, warning.iteration) for warning in of.warnings]
