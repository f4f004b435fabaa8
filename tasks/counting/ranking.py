"""Rankings of several judges put together: mean rank, Borda, Condorcet, Kendall's W. Pure counting, no model is asked.

A ranking is a sequence of groups from best to worst; candidates in one group are tied. It may leave candidates out, as
a judge does with its own answer. What is left out was not judged: it is neither last nor tied. An empty ranking is an
abstention, and one that ranks a single candidate compares nothing; neither counts anywhere.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

Ranking = Sequence[Sequence[str]]
"""Groups of tied candidates, from best to worst."""


def places(ranking: Ranking) -> dict[str, float]:
    """Return the place of each candidate that `ranking` ranks, from 1; tied ones share the mean of their places."""
    found: dict[str, float] = {}
    for group in ranking:
        mean = len(found) + (len(group) + 1) / 2
        found |= dict.fromkeys(group, mean)
    return found


def mean_rank(rankings: Sequence[Ranking], candidates: Sequence[str]) -> dict[str, float]:
    """Return the mean place of each candidate over the rankings that rank it; 1 is best.

    Where rankings differ in length, places of the shorter ones are stretched over those of the longest, first to first
    and last to last, so that being last of two is not better than being third of five. A candidate that no ranking
    compares with another has no mean rank and is not in the result.

    Raises:
        ValueError: If a ranking names what is no candidate, or one twice.
    """
    placed = _placed(rankings, candidates)
    longest = max(map(len, placed), default=0)
    stretched = _each(placed, candidates, lambda place, count: 1 + (place - 1) * (longest - 1) / (count - 1))
    return {candidate: math.fsum(values) / len(values) for candidate, values in stretched.items()}


def borda(rankings: Sequence[Ranking], candidates: Sequence[str]) -> dict[str, float]:
    """Return the Borda count of each candidate: in each ranking a point for every candidate below it, half for a tied one.

    Rankings of unequal length count alike: points of the shorter ones are stretched to those of the longest. A
    candidate that fewer rankings rank than the one ranked most often has its sum raised in proportion, as if those
    that left it out had given it the mean of the others: being left out neither helps nor harms. Where all rankings are
    complete, or each judge leaves out its own answer alone, nothing is stretched and these are the plain sums. A
    candidate that no ranking compares with another is not in the result.

    Raises:
        ValueError: If a ranking names what is no candidate, or one twice.
    """
    placed = _placed(rankings, candidates)
    longest = max(map(len, placed), default=0)
    most = max((sum(candidate in one for one in placed) for candidate in candidates), default=0)
    points = _each(placed, candidates, lambda place, count: (count - place) * (longest - 1) / (count - 1))
    return {candidate: math.fsum(values) * most / len(values) for candidate, values in points.items()}


def pairwise_wins(rankings: Sequence[Ranking], candidates: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return for each candidate and each other one how many rankings put the first above the second.

    A ranking that ties the two, or leaves one of them out, counts for neither.

    Raises:
        ValueError: If a ranking names what is no candidate, or one twice.
    """
    placed = _placed(rankings, candidates)
    return {
        one: {
            other: sum(one in ranked and other in ranked and ranked[one] < ranked[other] for ranked in placed)
            for other in candidates
            if other != one
        }
        for one in candidates
    }


def condorcet_winner(rankings: Sequence[Ranking], candidates: Sequence[str]) -> str | None:
    """Return the candidate that beats every other one, each compared over the rankings that rank both, or None.

    To beat is to be above the other in more rankings than below it. Of a pair that no ranking compares, neither beats.

    Raises:
        ValueError: If a ranking names what is no candidate, or one twice.
    """
    wins = pairwise_wins(rankings, candidates)
    return next(
        (one for one in wins if wins[one] and all(wins[one][other] > wins[other][one] for other in wins[one])), None
    )


def kendall_w(rankings: Sequence[Ranking], candidates: Sequence[str]) -> float | None:
    """Return Kendall's coefficient of concordance, corrected for ties: 1 where all rankings are alike, 0 for no accord.

    With complete rankings this is `12 S / (m² (n³ - n) - m Σ (t³ - t))` (Kendall 1945), S being the squared deviations
    of the rank sums. Candidates that no ranking names are left aside. With rankings that leave candidates out, S is
    compared to what it would be if every judge had handed out its own places, ties included, in one common order, that
    of the rank sums. Where every pair is compared by equally many judges, as when each leaves out its own answer, and
    nothing is tied, this is the coefficient for balanced incomplete rankings (Durbin 1951; Kendall and Gibbons 1990, §7).

    Returns:
        The coefficient, or None where it is not defined: no pair was compared by two judges, or all is tied.

    Raises:
        ValueError: If a ranking names what is no candidate, or one twice.
    """
    placed = _placed(rankings, candidates)
    if not any(
        sum(one in ranked and other in ranked for ranked in placed) > 1 for one, other in combinations(candidates, 2)
    ):
        return None
    deviations = [_deviations(ranked) for ranked in placed]
    named = [candidate for candidate in candidates if any(candidate in one for one in deviations)]
    sums = _sums(deviations, named)
    if all(len(one) == len(named) for one in deviations):
        most = len(deviations) * math.fsum(value**2 for one in deviations for value in one.values())
    else:
        order = sorted(named, key=lambda candidate: sums[candidate])
        aligned = [dict(zip((c for c in order if c in one), sorted(one.values()), strict=True)) for one in deviations]
        most = _squares(_sums(aligned, named).values())
    return _squares(sums.values()) / most if most > 0 else None


def ranked_by(scores: Mapping[str, float]) -> list[list[str]]:
    """Return the ranking that `scores` give, the highest first, equal ones tied; tied ones keep the order given."""
    return [[name for name in scores if scores[name] == score] for score in sorted(set(scores.values()), reverse=True)]


def _placed(rankings: Sequence[Ranking], candidates: Sequence[str]) -> list[dict[str, float]]:
    """Return the places of every ranking that compares at least two candidates."""
    known = set(candidates)
    placed = []
    for ranking in rankings:
        names = [name for group in ranking for name in group]
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"a ranking names {unknown[0]!r}, which is not a candidate")
        if len(set(names)) < len(names):
            raise ValueError(f"a ranking names a candidate twice: {', '.join(names)}")
        if len(names) > 1:
            placed.append(places(ranking))
    return placed


def _each(
    placed: Sequence[Mapping[str, float]], candidates: Sequence[str], value: Callable[[float, int], float]
) -> dict[str, list[float]]:
    """Return for each candidate that is ranked `value(place, length of the ranking)` of every ranking that ranks it."""
    found = {c: [value(one[c], len(one)) for one in placed if c in one] for c in candidates}
    return {candidate: values for candidate, values in found.items() if values}


def _deviations(ranked: Mapping[str, float]) -> dict[str, float]:
    middle = (len(ranked) + 1) / 2
    return {candidate: place - middle for candidate, place in ranked.items()}


def _sums(values: Sequence[Mapping[str, float]], candidates: Sequence[str]) -> dict[str, float]:
    return {candidate: math.fsum(one[candidate] for one in values if candidate in one) for candidate in candidates}


def _squares(values: Iterable[float]) -> float:
    return math.fsum(value**2 for value in values)
