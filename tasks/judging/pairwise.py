"""Ranks answers by a judge that compares them in pairs, and fuses the best, after LLM-Blender (arXiv:2306.02561).

Its PairRanker compares every ordered pair and aggregates the wins; its GenFuser writes one answer of the best. Here a
chat model takes the place of both trained models. It sees each pair in both orders, without names; where the two
orders disagree, the position has decided and not the answers, and the pair is a tie.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, get_args

from pydantic import JsonValue

from blocks.member import ModelName
from blocks.sampling import Sampling
from tasks.calls.call import Call
from tasks.calls.request import Message, Request
from tasks.counting.ballot import Comparison, Outcome
from tasks.counting.ranking import ranked_by
from tasks.judging.fence import fenced, shuffled
from tasks.judging.hearing import hear
from tasks.prompts import fill, prompt, version
from tasks.readers import UnreadableError, json_object, reader
from tasks.record import Response

_TURNED: dict[Outcome, Outcome] = {"first": "second", "second": "first", "tie": "tie"}


def _schema(name: str, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {"type": "object", "properties": {name: value}, "required": [name], "additionalProperties": False}


_COMPARED = _schema("better", {"type": "string", "enum": list(get_args(Outcome))})
_FUSED = _schema("answer", {"type": "string", "minLength": 1})


@reader("comparison")
def read_comparison(text: str, schema: dict[str, Any] | None = None) -> Outcome:  # noqa: ARG001  # a reader's form
    """Read which of two answers a judge finds better.

    Raises:
        UnreadableError: If it does not say `first`, `second` or `tie`.
    """
    value = json_object(text, ("better",))["better"]
    for outcome in get_args(Outcome):
        if isinstance(value, str) and value.strip().lower() == outcome:
            return outcome  # type: ignore[no-any-return]
    raise UnreadableError(f"better is {str(value)[:40]!r}: write first, second or tie")


@reader("fusion")
def read_fusion(text: str, schema: dict[str, Any] | None = None) -> str:  # noqa: ARG001  # a reader's form
    """Read the answer that was made of several.

    Raises:
        UnreadableError: If there is none.
    """
    value = json_object(text, ("answer",))["answer"]
    if not isinstance(value, str) or not value.strip():
        raise UnreadableError("answer is empty")
    return value.strip()


@dataclass(frozen=True)
class Bench:
    """Who compares or fuses, and what it knows of the question."""

    model: ModelName
    question: str
    system: str | None = None
    conversation: Sequence[Message] = ()
    sampling: Sampling = field(default_factory=Sampling)
    timeout: float = 120.0
    seed: str = "0"

    def request(self, name: str, schema: dict[str, JsonValue], read: str, label: str, **fields: object) -> Request:
        """Return a request of the prompt files `name` and `name`_system."""
        instructions = f"The answers had to follow these instructions:\n\n{self.system}\n\n" if self.system else ""
        text = fill(name, question=self.question, instructions=instructions, **fields)
        system = f"{name}_system"
        return Request(
            provider=self.model.provider,
            model=self.model.model,
            messages=(
                Message(role="system", content=prompt(system)),
                *self.conversation,
                Message(role="user", content=text),
            ),
            sampling=self.sampling,
            response_schema=schema,
            reader=read,
            prompt_version=version(system, name),
            label=f"{label} · {self.model}",
            timeout=self.timeout,
        )


@dataclass
class PairRanking:
    """What a pairwise judge found."""

    ranking: list[list[str]]
    """Members from best to worst, tied ones together; empty where the judge could not compare any pair."""
    comparisons: list[Comparison]
    calls: list[Response]
    """Every call that was made for it."""


def candidates(responses: Sequence[Response], judge: ModelName) -> list[Response]:
    """Return the answers that `judge` may compare: those that there are, its own left out."""
    return [one for one in responses if one.answered and (one.provider, one.model) != tuple(judge)]


async def compare(one: Response, other: Response, bench: Bench, call: Call) -> tuple[Comparison, list[Response]]:
    """Let the judge compare two answers in both orders."""
    heard = await asyncio.gather(*(_compare(pair, bench, call) for pair in ((one, other), (other, one))))
    straight, turned = (outcome for outcome, _ in heard)
    said = (straight, None if turned is None else _TURNED[turned])
    winner = None
    if said[0] is not None and said[0] == said[1] and said[0] != "tie":
        winner = one.member if said[0] == "first" else other.member
    return Comparison(pair=(one.member, other.member), said=said, winner=winner), [
        c for _, calls in heard for c in calls
    ]


async def _compare(pair: tuple[Response, Response], bench: Bench, call: Call) -> tuple[Outcome | None, list[Response]]:
    texts = dict(zip(("first", "second"), (response.text or "" for response in pair), strict=True))
    shown = fenced(texts, bench.seed)
    names = " and ".join(response.member for response in pair)
    request = bench.request("compare", _COMPARED, "comparison", f"compare {names}", answers=shown)
    return await hear(request, call, read_comparison, member=f"{bench.model} on {names}")


async def rank_pairs(responses: Sequence[Response], bench: Bench, call: Call, limit: int | None = None) -> PairRanking:
    """Rank answers by comparing them in pairs.

    Args:
        responses: The answers, in the order of the members; of two that tie, the earlier one stays ahead.
        bench: Who judges.
        call: Makes the calls; two for each pair, more where the judge cannot be read.
        limit: None to compare all pairs and count the wins, a tie as half a one. A number to sort by at most so many
            compared pairs, the best first, as LLM-Blender's bubble sort does: one pair fewer than there are answers
            finds the best, and each further pass the next one.
    """
    by_name = {response.member: response for response in responses}
    found = PairRanking([], [], [])

    async def duel(one: str, other: str) -> Comparison:
        comparison, calls = await compare(by_name[one], by_name[other], bench, call)
        found.comparisons.append(comparison)
        found.calls += calls
        return comparison

    if limit is None:
        duels = await asyncio.gather(*(compare(*pair, bench, call) for pair in combinations(responses, 2)))
        found.comparisons = [comparison for comparison, _ in duels]
        found.calls = [one for _, calls in duels for one in calls]
        found.ranking = ranked_by(win_shares(found.comparisons, list(by_name)))
    else:
        found.ranking = await bubble(list(by_name), duel, limit)
    if not any(told(comparison) for comparison in found.comparisons):
        found.ranking = []
    return found


def told(comparison: Comparison) -> bool:
    """Tell whether the judge could be read in both orders; what it said in one alone decides nothing."""
    return None not in comparison.said


def win_shares(comparisons: Sequence[Comparison], members: Sequence[str]) -> dict[str, float]:
    """Return for each member its share of the pairs that were judged, a tie as half a win.

    A share and not a sum, so that a pair which the judge failed to compare counts for neither. A member all of whose
    pairs failed is not in the result.
    """
    won: dict[str, list[float]] = {member: [] for member in members}
    for comparison in filter(told, comparisons):
        for member in comparison.pair:
            won[member].append(0.5 if comparison.winner is None else float(comparison.winner == member))
    return {member: math.fsum(points) / len(points) for member, points in won.items() if points}


async def bubble(
    members: Sequence[str], duel: Callable[[str, str], Awaitable[Comparison]], limit: int
) -> list[list[str]]:
    """Sort `members`, the best first, by at most `limit` duels; a pair is never compared twice."""
    order = list(members)
    known: dict[frozenset[str], str | None] = {}
    for settled in range(len(order) - 1):
        for at in range(len(order) - 1, settled, -1):
            above, below = order[at - 1], order[at]
            pair = frozenset((above, below))
            if pair not in known:
                if len(known) == limit:
                    return [[member] for member in order]
                # In the order of the list, so that the same pair always gives the same request.
                one, other = sorted(pair, key=list(members).index)
                known[pair] = (await duel(one, other)).winner
            if known[pair] == below:
                order[at - 1], order[at] = below, above
    return [[member] for member in order]


async def fuse(responses: Sequence[Response], bench: Bench, call: Call) -> tuple[str | None, list[Response]]:
    """Let a model write one answer out of several.

    Returns:
        The answer, or None where it gave none; and every call made for it.
    """
    labelled = shuffled(responses, f"{bench.seed}:{bench.model}")
    shown = fenced({label: response.text or "" for label, response in labelled.items()}, bench.seed)
    request = bench.request("fuse", _FUSED, "fusion", "fuse", answers=shown, count=len(labelled))
    return await hear(request, call, read_fusion)
