"""The page that answers: the question, the answer, who said what, who disagrees, what it cost."""

from collections.abc import Iterator

from consensus_flows.tasks.record import Iteration, Record, Response
from consensus_flows.tasks.reports.markdown import cell, percent, prose
from consensus_flows.tasks.reports.verdict import responses

EXCERPT = 80
"""Characters of a member's answer in the table; the pages of the iterations show all of it."""


def answer_page(record: Record) -> str:
    """Describe what came of a run for a person."""
    parts = ["## Question", prose(record.prompt)]
    if record.attachments:
        parts.append("\n".join(f"- `{cell(str(one))}`" for one in record.attachments))
    if record.answer is None:
        parts += ["## No answer", prose(record.error or "no member gave an answer")]
    else:
        parts += ["## Answer", prose(record.answer)]
    if record.grade is not None:
        parts += ["## Grade", prose(str(record.grade))]
    best = record.iterations[(record.best_iteration or len(record.iterations)) - 1] if record.iterations else None
    if best and best.synthesis and best.synthesis.dissent:
        parts += ["## Dissent", prose(best.synthesis.dissent)]
    if best:
        parts += ["## Members", "\n".join(_members(record, best))]
    if record.warnings:
        parts += ["## Warnings", prose("\n".join(f"- {warning}" for warning in dict.fromkeys(record.warnings)))]
    if record.flow_run_id:
        parts.append(f"`consensus run {record.flow_run_id}` prints the whole record.")
    return "\n\n".join(parts)


def _members(record: Record, best: Iteration) -> Iterator[str]:
    """Write a table of who said what, those that agree with the answer first where that is counted."""
    votes = {vote.member: vote for vote in record.votes}
    ranking = best.synthesis.ranking if best.synthesis else []
    parts = {part.member: part for part in record.parts}
    heads = [
        "member",
        *(["part"] if parts else []),
        *(["votes for"] if votes else []),
        *(["rank"] if ranking else []),
        "seconds",
        "cost USD",
        "says",
    ]
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    order = [member for option in record.tally for member in option.members] or ranking
    listed = responses(record) or best.responses
    for one in sorted(listed, key=lambda one: order.index(one.member) if one.member in order else len(order)):
        row = [f"`{cell(one.member)}`"]
        if parts:
            row.append(cell(parts[one.member].title))
        if votes:
            vote = votes.get(one.member)
            row.append(cell(vote.answer)[:EXCERPT] if vote and vote.answer is not None else "no vote")
        if ranking:
            row.append(str(ranking.index(one.member) + 1) if one.member in ranking else "-")
        row += ["cached" if one.cached else f"{one.latency_s:.1f}", _cost(one), _says(one)]
        yield f"| {' | '.join(row)} |"
    if best.agreement is not None and not votes:
        yield f"\nAgreement of their answers, measured: {percent(best.agreement)}."


def _says(response: Response) -> str:
    if response.error is not None:
        return f"**failed** ({response.error.kind})"
    text = " ".join((response.text or "").split())
    return cell(text if len(text) <= EXCERPT else f"{text[: EXCERPT - 1]}…")


def _cost(response: Response) -> str:
    return "unknown" if response.cost_usd is None else f"{response.cost_usd:.4f}"


# A notebook shows a record as its page. It is said here, since a record knows no reports.
setattr(Record, "_repr_markdown_", answer_page)  # noqa: B010
