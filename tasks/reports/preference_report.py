"""Rankings in words: what each judge said, and what follows from all of them."""

from typing import Any

from consensus_flows.tasks.record import JudgeRanking, Scores


def groups_text(ranking: list[list[str]]) -> str:
    """Return a ranking as one line: `a > b = c`."""
    return " > ".join(" = ".join(group) for group in ranking)


def said_by(entry: JudgeRanking) -> str:
    """Return in a line what a judge said."""
    return groups_text(entry.ranking) or (f"no ranking: {entry.error}" if entry.error else "abstained")


def number_text(value: float | None, digits: int = 2) -> str:
    """Return a figure, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def scores_table(scores: Scores) -> list[dict[str, Any]]:
    """List the members, best first."""
    return [
        {
            "member": member,
            "Borda": number_text(one.borda),
            "mean rank": number_text(one.mean_rank),
            "beats": one.wins,
            "first places": one.first_places,
            "rank by itself": number_text(one.rank_by_self),
            "rank by others": number_text(one.rank_by_others),
        }
        for member, one in scores.members.items()
    ]


def scores_lines(scores: Scores) -> list[str]:
    """Say in a few lines what all rankings come to."""
    lines = [
        f"best by Borda: {scores.winner or 'nobody was ranked'}"
        + (f" (shared by {', '.join(scores.tied)})" if scores.tied else ""),
        f"Condorcet winner: {scores.condorcet_winner or 'there is none'}",
        f"Kendall's W: {number_text(scores.kendall_w)}",
        f"{scores.rankings} rankings, {scores.abstentions} abstentions",
    ]
    if scores.self_preference is not None:
        better = number_text(scores.self_preference)
        lines.append(f"self-preference: members rank themselves {better} places better than others do")
        lines.append("ranks by itself and by others are among all answers; all else leaves judges' own answers out")
    effect = scores.position_effect
    if effect is not None:
        ranks = ", ".join(number_text(rank) for rank in effect.mean_rank)
        lines.append(f"position effect: mean rank by position {ranks}; correlation {number_text(effect.correlation)}")
    return lines
