"""What a vote shows: the result, the votes and the count, or what the judge found in pairs."""

from collections.abc import Iterator
from typing import Any

from consensus_flows.tasks.record import Comparison, Iteration, Record
from consensus_flows.tasks.reports.markdown import cell, percent, prose, quoted
from consensus_flows.tasks.reports.report import Artifact, answers_and_calls, calls_table, iteration_page

TITLES = {
    "vote": "Most votes",
    "learned": "Most probable",
    "fields": "Put together from the fields",
    "pairwise": "Best in pairs",
    "fuse": "Fused of the best",
}
"""What stands above an answer, by how it was found."""


def artifacts(record: Record, iteration: Iteration) -> Iterator[Artifact]:
    """Return the artifacts of an iteration; those after the first one are of the saved panel behind a cascade."""
    if iteration.number > 1:
        yield from answers_and_calls(record, iteration)
        return
    yield Artifact("vote-result", "Result", page(record, iteration))
    yield Artifact("vote-calls", "Calls", calls_table(iteration))
    if record.votes:
        yield Artifact("vote-votes", "Votes", votes_table(record))
    if record.fields:
        yield Artifact("vote-fields", "Fields", fields_table(record))
    if record.comparisons:
        yield Artifact("vote-pairs", "Compared pairs", pairs_table(record.comparisons))


def page(record: Record, iteration: Iteration) -> str:
    """Describe the result for a person."""
    sections, synthesis = [], iteration.synthesis
    if synthesis is None:
        sections.append(f"No answer.\n\n{prose(record.error or '')}")
    else:
        title = TITLES.get(synthesis.method or "", "Nearest to the others, because the judge failed")
        if synthesis.method == "cascade":
            title = f"Decided by {cell(synthesis.arbiter or '')}"
        sections += [f"## {title}", prose(synthesis.text)]
        notes = [] if synthesis.confidence is None else [f"**probability** {percent(synthesis.confidence)}"]
        notes.append(f"**agreement** {percent(iteration.agreement)}")
        notes += ["**unanimous**"] if record.unanimous else []
        notes += [f"**tie**, {TIE}"] if record.tie else []
        sections.append(" · ".join(notes))
    if record.not_asked:
        sections.append(f"Not asked, because the answer was settled: {cell(', '.join(record.not_asked))}.")
    if record.fields:
        sections += ["## Fields", quoted("\n".join(field_lines(record)))]
    if record.tally:
        sections += ["## Votes", quoted("\n".join(tally_lines(record)))]
    if synthesis is not None and synthesis.ranking:
        sections += ["## Ranking", quoted("\n".join(f"{n}. {name}" for n, name in enumerate(synthesis.ranking, 1)))]
    return iteration_page("Result", iteration, sections)


TIE = "the order of the members decided"
"""How a tie ends."""


def votes_table(record: Record) -> list[dict[str, Any]]:
    """List what each member voted for, in the order in which they were asked, and who did not have to be asked."""
    voted = [
        {
            "member": vote.member,
            "answer": "abstains" if vote.answer is None else cell(vote.answer),
            "weight": vote.weight,
        }
        for vote in record.votes
    ]
    return [*voted, *({"member": name, "answer": "not asked", "weight": ""} for name in record.not_asked)]


def pairs_table(comparisons: list[Comparison]) -> list[dict[str, Any]]:
    """List the compared pairs and what the judge said of them in both orders."""
    return [
        {
            "first": one.pair[0],
            "second": one.pair[1],
            "better in this order": one.said[0] or "nothing",
            "better in the other order": one.said[1] or "nothing",
            "winner": one.winner or ("none" if None in one.said else "tie"),
        }
        for one in comparisons
    ]


def tally_lines(record: Record) -> list[str]:
    """Say in a line each how many votes an answer has and whose they are."""
    lines = [
        f"{option.votes:g} ({percent(option.share)}) {cell(option.answer)[:80]}: {', '.join(option.members) or 'nobody'}"
        + ("" if option.probability is None else f"; probability {percent(option.probability)}")
        for option in record.tally
    ]
    abstained = [vote.member for vote in record.votes if vote.answer is None]
    return [*lines, f"no vote: {', '.join(abstained)}"] if abstained else lines


def fields_table(record: Record) -> list[dict[str, Any]]:
    """List the fields of the answer, what was voted for each, and by whom another value was given."""
    return [
        {
            "field": cell(vote.field),
            "value": cell(str(vote.options[0])),
            "agreement": percent(vote.agreement),
            "split": "tie" if vote.tie else "yes" if vote.split else "",
            "other values": cell("; ".join(f"{option}: {', '.join(option.members)}" for option in vote.options[1:])),
        }
        for vote in record.fields
    ]


def field_lines(record: Record) -> list[str]:
    """Say in a line for each field its value, how many agree, and who gave another one."""
    lines = []
    for vote in record.fields:
        others = "; ".join(f"{cell(str(option))[:80]}: {', '.join(option.members)}" for option in vote.options[1:])
        tie = ", a tie" if vote.tie else ""
        lines.append(
            f"{cell(vote.field)} = {cell(str(vote.options[0]))[:80]} ({percent(vote.agreement)}{tie}){others and f'; {others}'}"
        )
    unread = [vote.member for vote in record.votes if vote.answer is None]
    return [*lines, f"no vote: {', '.join(unread)}"] if unread else lines
