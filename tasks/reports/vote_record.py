"""Enters a counted vote into the record of a run."""

from collections.abc import Mapping, Sequence

from consensus_flows.tasks.counting.extraction.extract import Reading
from consensus_flows.tasks.counting.vote import Tally
from consensus_flows.tasks.record import CallError, Iteration, Option, Record, Synthesis, Vote


def write_votes(
    record: Record,
    iteration: Iteration,
    *,
    readings: Sequence[Reading | None],
    unheard: Mapping[str, CallError],
    tally: Tally,
    weights: Sequence[float],
    extraction: str,
) -> None:
    """Write down who voted for what, and the result.

    Args:
        record: The run.
        iteration: Its round; `responses` are in the order of `readings`.
        readings: What each member voted for.
        unheard: Why members that have answered could not be heard, by their names.
        tally: Those votes counted.
        weights: What each member's vote counts.
        extraction: How the answers were read.
    """
    # An answer is shown as the first member that gave it wrote it.
    written = {reading.value: reading.text for reading in reversed(readings) if reading}
    for response, reading, weight in zip(iteration.responses, readings, weights, strict=False):
        answer = None if reading is None else written[reading.value]
        error = unheard.get(response.member)
        heard = response.answered and error is None
        record.votes.append(Vote(member=response.member, answer=answer, weight=weight, heard=heard))
        if error is not None:
            record.degraded = True
            record.warnings.append(f"{response.member} was not heard: its answer could not be read ({error.kind})")
        elif reading is None and response.answered:
            record.warnings.append(f"{response.member} abstains: no answer could be read ({extraction})")
    record.tally = [
        Option(
            answer=written[count.value],  # type: ignore[index]
            votes=count.votes,
            share=round(count.votes / tally.cast, 4),
            members=[iteration.responses[index].member for index in count.voters],
        )
        for count in tally.counts
    ]
    if tally.winner is None:
        return
    winner, first = record.tally[0], iteration.responses[tally.winner.voters[0]]
    record.tie, record.unanimous = tally.tie, tally.unanimous
    record.margin = round(tally.margin or 0.0, 4)
    record.full_text = first.text
    if sum(map(len, (count.voters for count in tally.counts))) > 1:  # one voice agrees with nobody
        iteration.agreement, iteration.agreement_measure = round(tally.share or 0.0, 4), "votes"
    iteration.synthesis = Synthesis(
        text=winner.answer,
        chosen=first.member,
        method="vote",
        value=winner.answer,
        votes={option.answer: option.members for option in record.tally},
    )


def nothing_read(iteration: Iteration, extraction: str) -> str:
    """Say why there is no answer although members have answered."""
    calls = [*iteration.responses, *iteration.judgements]
    causes = [f"{call.member}: {call.error.message}" for call in calls if call.error is not None]
    return "; ".join([f"no answer could be read ({extraction}) in what the members wrote", *causes])
