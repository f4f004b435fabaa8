"""Ranks answers by a judge that compares them in pairs, and fuses the best, after LLM-Blender (arXiv:2306.02561).

Its PairRanker compares every ordered pair and aggregates the wins; its GenFuser writes one answer of the best. Here a
chat model takes the place of both trained models. It sees each pair in both orders, without names; where the two
orders disagree, the position has decided and not the answers, and the pair is a tie.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations

from consensus_flows.blocks.member import ModelName
from consensus_flows.tasks.calls.call import Call
from consensus_flows.tasks.counting.ranking import ranked_by
from consensus_flows.tasks.judging.judge import Asked, JudgeRequest, ask_for_answer, ask_judge, in_json
from consensus_flows.tasks.judging.judgements import Fusion, FusionNotes, PairVerdict
from consensus_flows.tasks.prompting.fence import fenced, shuffled
from consensus_flows.tasks.prompts import prompt
from consensus_flows.tasks.record import Comparison, Outcome, Response

_TURNED: dict[Outcome, Outcome] = {"first": "second", "second": "first", "tie": "tie"}


@dataclass
class PairRanking:
    """What a pairwise judge found."""

    ranking: list[list[str]]
    """Members from best to worst, tied ones together; those that the judge could not compare with any other are left out."""
    comparisons: list[Comparison]
    calls: list[Response]
    """Every call that was made for it."""


def candidates(responses: Sequence[Response], judge: ModelName) -> list[Response]:
    """Return the answers that `judge` may compare: those that there are, its own left out."""
    return [one for one in responses if one.answered and (one.provider, one.model) != tuple(judge)]


async def compare(
    one: Response, other: Response, asked: JudgeRequest, judge: ModelName, call: Call
) -> tuple[Comparison, list[Response]]:
    """Let the judge compare two answers in both orders."""

    async def better(*pair: Response) -> Asked[PairVerdict]:
        shown = fenced({"first": pair[0].text or "", "second": pair[1].text or ""}, asked.seed)
        names = " and ".join(response.member for response in pair)
        request = asked.request(judge, "compare", PairVerdict, f"compare {names} · {judge}", answers=shown)
        return await ask_judge(request, call, PairVerdict.read, member=f"{judge} on {names}")

    (straight, calls), (turned, more) = await asyncio.gather(better(one, other), better(other, one))
    said = (straight and straight.better, turned and _TURNED[turned.better])
    winner = None
    if said[0] is not None and said[0] == said[1] and said[0] != "tie":
        winner = one.member if said[0] == "first" else other.member
    return Comparison(pair=(one.member, other.member), said=said, winner=winner), [*calls, *more]


async def rank_pairs(
    responses: Sequence[Response], asked: JudgeRequest, judge: ModelName, call: Call, limit: int | None = None
) -> PairRanking:
    """Rank answers by comparing them in pairs.

    Args:
        responses: The answers, in the order of the members; of two that tie, the earlier one stays ahead.
        asked: What the judge knows of the question.
        judge: Who judges.
        call: Makes the calls; two for each pair, more where the judge cannot be read.
        limit: None to compare all pairs and count the wins, a tie as half a one. A number to sort by at most so many
            compared pairs, the best first, as LLM-Blender's bubble sort does: one pair fewer than there are answers
            finds the best, and each further pass the next one.

    Returns:
        The ranking, in which a member is only if the judge could compare it with another one.
    """
    by_name = {response.member: response for response in responses}
    found = PairRanking([], [], [])

    async def duel(one: str, other: str) -> Comparison:
        comparison, calls = await compare(by_name[one], by_name[other], asked, judge, call)
        found.comparisons.append(comparison)
        found.calls += calls
        return comparison

    if limit is None:
        duels = await asyncio.gather(*(compare(*pair, asked, judge, call) for pair in combinations(responses, 2)))
        found.comparisons = [comparison for comparison, _ in duels]
        found.calls = [one for _, calls in duels for one in calls]
        found.ranking = ranked_by(win_shares(found.comparisons, list(by_name)))
    else:
        found.ranking = await bubble(list(by_name), duel, limit)
    if not any(judged(comparison) for comparison in found.comparisons):
        found.ranking = []
    return found


def judged(comparison: Comparison) -> bool:
    """Tell whether the judge could be read in both orders; what it said in one alone decides nothing."""
    return None not in comparison.said


def win_shares(comparisons: Sequence[Comparison], members: Sequence[str]) -> dict[str, float]:
    """Return for each member its share of the pairs that were judged, a tie as half a win.

    A share and not a sum, so that a pair which the judge failed to compare counts for neither. A member all of whose
    pairs failed is not in the result.
    """
    won: dict[str, list[float]] = {member: [] for member in members}
    for comparison in filter(judged, comparisons):
        for member in comparison.pair:
            won[member].append(0.5 if comparison.winner is None else float(comparison.winner == member))
    return {member: math.fsum(points) / len(points) for member, points in won.items() if points}


async def bubble(
    members: Sequence[str], duel: Callable[[str, str], Awaitable[Comparison]], limit: int
) -> list[list[str]]:
    """Sort `members`, the best first, by at most `limit` duels; a pair is never compared twice.

    A duel that could not be judged is won by nobody: of the two, the one of the better standing advances, and the other
    meets the best of the rest in its place. A member that was in no judged duel is not in the result.
    """
    order, found = list(members), _Duels(list(members), duel, limit)
    with suppress(_LimitError):
        for settled in range(len(order) - 1):
            aside = []
            for at in range(len(order) - 1, settled, -1):
                above, below = order[at - 1], order[at]
                if await found.better(below, above):
                    order[at - 1], order[at] = below, above
                if not found.compared(above, below):
                    aside.append(order[at])
            for member in aside:
                if not found.met(member, order[settled]) and await found.better(member, order[settled]):
                    order.remove(member)
                    order.insert(settled, member)
    return [[member] for member in order if found.standing(member)[0]]


class _LimitError(Exception):
    """All duels that there may be have been fought."""


class _Duels:
    """The duels of a sorting, each fought at most once, and no more than there may be."""

    def __init__(self, members: list[str], duel: Callable[[str, str], Awaitable[Comparison]], limit: int) -> None:
        self._members = members
        self._duel = duel
        self._limit = limit
        self._fought: dict[frozenset[str], Comparison] = {}

    async def better(self, one: str, other: str) -> bool:
        """Tell whether `one` is to stand above `other`."""
        pair = frozenset((one, other))
        if pair not in self._fought:
            if len(self._fought) >= self._limit:
                raise _LimitError
            # In the order of the list, so that the same pair always gives the same request.
            self._fought[pair] = await self._duel(*sorted(pair, key=self._members.index))
        if judged(self._fought[pair]):
            return self._fought[pair].winner == one
        return self.standing(one) > self.standing(other)

    def met(self, one: str, other: str) -> bool:
        """Tell whether the two were to be compared already."""
        return frozenset((one, other)) in self._fought

    def compared(self, one: str, other: str) -> bool:
        """Tell whether the judge could compare the two."""
        return self.met(one, other) and judged(self._fought[frozenset((one, other))])

    def standing(self, member: str) -> tuple[bool, float, int]:
        """Return whether `member` was in a judged duel, its share of wins in these, and how few could not be judged."""
        own = [one for pair, one in self._fought.items() if member in pair]
        share = win_shares(own, self._members).get(member)
        return share is not None, share or 0.0, -sum(not judged(one) for one in own)


async def fuse(responses: Sequence[Response], asked: JudgeRequest, model: ModelName, call: Call) -> Asked[str]:
    """Let a model write one answer out of several."""
    labelled = shuffled(responses, f"{asked.seed}:{model}")
    answers = {label: response.text or "" for label, response in labelled.items()}
    whole = in_json(list(answers.values()))
    judgement: type[FusionNotes] = Fusion if whole else FusionNotes
    request = asked.request(
        model,
        "fuse",
        judgement,
        f"fuse · {model}",
        answers=fenced(answers, asked.seed),
        count=len(labelled),
        result=prompt("fuse_answer" if whole else "answer_later"),
        answer_in="answer" if whole and asked.final else None,
    )
    found, calls = await ask_judge(request, call, judgement.read)
    if found is None or whole:
        return (found.answer if found else None), calls
    text, more = await ask_for_answer(request, calls[-1].text or "", call, final=asked.final)
    return text, [*calls, *more]
