"""What the budget does to the end of a run: one rule for all flows."""

from collections.abc import Iterable

from consensus_flows.tasks.record import Iteration, Record, Response


def out_of_budget(calls: Iterable[Response]) -> bool:
    """Tell whether one of the calls was not made because the budget did not cover it."""
    return any(call.error is not None and call.error.kind == "budget" for call in calls)


def cut_by_budget(iteration: Iteration) -> bool:
    """Tell whether the budget refused a call of this round: of a member, a judge, or for a measure."""
    return out_of_budget((*iteration.responses, *iteration.embeddings, *iteration.judgements))


def end_by_budget(record: Record) -> None:
    """Say of a run that the budget ended it, where it refused any call.

    A failed run has failed all the same, and an arbiter that was confident was so without the call that is missing.
    Whatever else has come to an end might have ended differently.
    """
    if record.status not in {"failed", "confident"} and out_of_budget(record.calls_made()):
        record.status = "budget"
