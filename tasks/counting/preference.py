"""What members' rankings of each other say: who is best, who prefers itself, whether the order shown matters.

Pure functions over what the judges said. The counting itself is in `consensus_flows.tasks.counting.ranking`.
"""

import math
import statistics
from collections.abc import Sequence

from consensus_flows.tasks.counting.ranking import (
    Ranking,
    borda,
    condorcet_winner,
    kendall_w,
    mean_rank,
    pairwise_wins,
    places,
)
from consensus_flows.tasks.record import JudgeRanking, MemberScore, PositionEffect, Scores

_DIGITS = 4


def model_of(member: str) -> str:
    """Return `provider/model` of a member's name `provider/model#instance`."""
    return member.rpartition("#")[0] or member


def comparing(entries: Sequence[JudgeRanking]) -> list[JudgeRanking]:
    """Return the entries that compare at least two answers; the others are abstentions or say nothing."""
    return [entry for entry in entries if sum(map(len, entry.ranking)) > 1]


def without_own(entry: JudgeRanking) -> list[list[str]]:
    """Return the ranking without the judge's own answer: nobody votes for itself."""
    groups = ([member for member in group if member != entry.judge] for group in entry.ranking)
    return [group for group in groups if group]


def score(entries: Sequence[JudgeRanking], members: Sequence[str]) -> Scores:
    """Put rankings together. A judge's rank of its own answer, where it was shown it, is left out of the counts.

    The winner is the member of the highest Borda count; of several, in this order: the Condorcet winner, the one with
    more first places, the one named first.

    Args:
        entries: What the judges said; abstentions count nowhere.
        members: All members, in the order in which they were named.
    """
    voted = comparing(entries)
    rankings = [ranking for entry in voted if sum(map(len, ranking := without_own(entry))) > 1]
    points = {member: round(value, _DIGITS) for member, value in borda(rankings, members).items()}
    ranks = mean_rank(rankings, members)
    wins = pairwise_wins(rankings, members)
    scores = Scores(
        condorcet_winner=condorcet_winner(rankings, [member for member in members if member in points]),
        # Of all that they saw: how far judges agree elects nobody.
        kendall_w=_rounded(kendall_w([entry.ranking for entry in voted], members)),
        rankings=len(voted),
        abstentions=len(entries) - len(voted),
        position_effect=position_effect(voted) if len({entry.round for entry in voted}) > 1 else None,
    )
    found = {
        member: MemberScore(
            mean_rank=_rounded(ranks.get(member)),
            borda=points.get(member),
            wins=sum(wins[member][other] > wins[other][member] for other in wins[member]),
            first_places=sum(member in ranking[0] for ranking in rankings),
            ranked=sum(any(member in group for group in ranking) for ranking in rankings),
        )
        for member in members
    }
    for member, one in found.items():
        _compare_self(member, one, voted)

    def merit(member: str) -> tuple[float, bool, int]:
        one = found[member]
        return -math.inf if one.borda is None else one.borda, member == scores.condorcet_winner, one.first_places

    scores.members = dict(sorted(found.items(), key=lambda item: merit(item[0]), reverse=True))
    if points:
        scores.winner = next(iter(scores.members))
        best = [member for member in scores.members if points.get(member) == points[scores.winner]]
        scores.tied = best if len(best) > 1 else []
    known = [one.self_preference for one in found.values() if one.self_preference is not None]
    scores.self_preference = _rounded(statistics.fmean(known)) if known else None
    return scores


def _compare_self(member: str, one: MemberScore, voted: Sequence[JudgeRanking]) -> None:
    """Set apart how judges of the member's own model rank it: they may know their own style.

    Places say something of judges only where they are places among the same answers: a judge that is not shown its own
    sees others than its neighbour does. So judges are compared within one round and one set of answers, which judges of
    both kinds have ranked, and the differences are averaged over these.
    """
    groups: dict[tuple[int, frozenset[str]], list[JudgeRanking]] = {}
    for entry in voted:
        seen = frozenset(name for group in entry.ranking for name in group)
        if member in seen:
            groups.setdefault((entry.round, seen), []).append(entry)
    longest = max((len(seen) for _, seen in groups), default=0)
    found: list[tuple[float, float]] = []
    for (_, seen), entries in groups.items():
        by: tuple[list[float], list[float]] = ([], [])
        for entry in entries:
            place = 1 + (places(entry.ranking)[member] - 1) * (longest - 1) / (len(seen) - 1)
            by[model_of(entry.judge) == model_of(member)].append(place)
        others, own = by
        if own and others:
            found.append((statistics.fmean(own), statistics.fmean(others)))
    if found:
        one.rank_by_self = _rounded(statistics.fmean(own for own, _ in found))
        one.rank_by_others = _rounded(statistics.fmean(others for _, others in found))
        one.self_preference = _rounded(statistics.fmean(others - own for own, others in found))
    else:
        chosen = [entry.ranking for entry in voted if model_of(entry.judge) != model_of(member)]
        everyone = dict.fromkeys(name for ranking in chosen for group in ranking for name in group)
        one.rank_by_others = _rounded(mean_rank(chosen, list(everyone)).get(member))


def position_effect(entries: Sequence[JudgeRanking]) -> PositionEffect | None:
    """Compare the places of answers with the positions in which they were shown.

    Returns:
        None if no ranking compares anything. With few rankings position and merit are mixed up: it takes many shuffles.
    """
    voted = comparing(entries)
    if not voted:
        return None
    longest = max(len(entry.order) for entry in voted)
    by_position = [_by_position(entry) for entry in voted]
    ranks = mean_rank(by_position, [str(number) for number in range(1, longest + 1)])
    pairs = [
        ((int(position) - 1) / (len(entry.order) - 1), (place - 1) / (len(entry.order) - 1))
        for entry, ranking in zip(voted, by_position, strict=True)
        for position, place in places(ranking).items()
    ]
    try:
        correlation = statistics.correlation(*zip(*pairs, strict=True))
    except statistics.StatisticsError:  # all is tied
        correlation = None
    return PositionEffect(
        mean_rank=[_rounded(ranks.get(str(number))) for number in range(1, longest + 1)],
        correlation=_rounded(correlation),
    )


def best_round(entries: Sequence[JudgeRanking], member: str) -> int | None:
    """Return the round in which `member` was ranked best; of equals the first, None if it never was."""
    best: tuple[float, int] | None = None
    for number in sorted({entry.round for entry in entries}):
        rankings = [without_own(entry) for entry in entries if entry.round == number]
        names = list(dict.fromkeys(name for ranking in rankings for group in ranking for name in group))
        rank = mean_rank(rankings, names).get(member)
        if rank is not None:
            # As a share, because a round in which members failed has fewer places.
            share = (rank - 1) / (max(sum(map(len, ranking)) for ranking in rankings) - 1)
            best = min(best or (share, number), (share, number))
    return best[1] if best else None


def _by_position(entry: JudgeRanking) -> Ranking:
    """Return a ranking of the positions instead of the members that were shown there."""
    return [[str(entry.order.index(member) + 1) for member in group] for group in entry.ranking]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
