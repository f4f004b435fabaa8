"""Consensus without an aggregator: every member asks a few random peers, round after round, until nobody changes.

The consensus phase of consensus learning (Magureanu and Usher, arXiv:2402.16157) with the Snowflake protocol of Team
Rocket et al. (arXiv:1906.08936). No model is asked: what a member holds is what it answered, or what it adopted.
"""

import math
import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from consensus_flows.blocks.consensus_learning import Snowflake


@dataclass(frozen=True)
class Adoption:
    """One member takes over a peer's answer; members are indices."""

    round: int
    member: int
    peer: int
    """The peer that was asked and held it."""
    author: int
    """The member that gave this answer in the first place."""
    value: str


@dataclass
class Outcome:
    """What the protocol ended with."""

    values: list[str | None]
    """For each member the value that it holds at the end; None for one that never held any."""
    authors: list[int]
    """For each member the index of the member whose answer it holds; its own where it adopted none."""
    rounds: int = 0
    settled: bool = False
    """Whether all members ended with one value, each confirmed `beta` times in a row."""
    winner: str | None = None
    """The value that most members hold at the end."""
    adoptions: list[Adoption] = field(default_factory=list)


def needed_of(asked: int, alpha: float) -> int:
    """Return how many of `asked` peers must hold a value: `alpha` of them, and always more than half.

    A value that fewer members hold, and none of them ever gives up, is adopted by nobody: no sample holds enough of it.
    """
    return max(asked // 2 + 1, math.ceil(alpha * asked - 1e-9))  # 0.6 of 5 is 3, whatever binary fractions say


def settle(values: Sequence[str | None], rules: Snowflake, seed: str, *, stubborn: Collection[int] = ()) -> Outcome:
    """Let the members come to one value.

    In each round every member that is not settled asks `k` others, drawn anew, for the value they held when the round
    began. A value that enough of them hold is adopted, or confirms the member's own; otherwise its count of
    confirmations starts again. A member without a value is asked in vain, and may adopt one.

    Two even halves that ask everybody at the same moment change places forever. As soon as they are where they were
    before, they ask one after the other, in an order drawn anew, as in the paper.

    Args:
        values: What each member answered; None where nothing could be read from its answer.
        rules: The parameters.
        seed: Decides who is asked; the same seed gives the same outcome.
        stubborn: Members that never adopt anything. They need not be settled.

    Returns:
        The outcome. Of values held by equally many, the one that more members gave at first wins, then the one whose
        first member comes first.
    """
    outcome = Outcome(list(values), list(range(len(values))))
    draw = random.Random(seed)
    confirmed = [0] * len(values)
    movable = [member for member in range(len(values)) if member not in stubborn]
    asked = min(rules.k, len(values) - 1)
    needed = needed_of(asked, rules.alpha)
    seen: set[tuple[tuple[str | None, ...], tuple[int, ...]]] = set()
    in_turns = False
    while asked > 0 and outcome.rounds < rules.max_rounds:
        restless = [member for member in movable if confirmed[member] < rules.beta]
        if not restless:
            break
        outcome.rounds += 1
        state = (tuple(outcome.values), tuple(confirmed))
        # Where only some are asked, the next sample may lead elsewhere.
        in_turns = in_turns or (asked == len(values) - 1 and state in seen)
        seen.add(state)
        held, authors = outcome.values, outcome.authors
        if in_turns:
            draw.shuffle(restless)
        else:
            held, authors = list(held), list(authors)
        for member in restless:
            peers = draw.sample([peer for peer in range(len(values)) if peer != member], asked)
            value = _majority([held[peer] for peer in peers], needed)
            if value is None:
                confirmed[member] = 0
            elif value == held[member]:
                confirmed[member] += 1
            else:
                confirmed[member] = 1
                peer = next(peer for peer in peers if held[peer] == value)
                author = authors[peer]
                outcome.values[member], outcome.authors[member] = value, author
                outcome.adoptions.append(Adoption(outcome.rounds, member, peer, author, value))
    at_the_end = {outcome.values[member] for member in movable}
    sure = asked == 0 or all(confirmed[member] >= rules.beta for member in movable)
    outcome.settled = sure and len(at_the_end) == 1 and None not in at_the_end
    outcome.winner = _most_held(outcome.values, values)
    return outcome


def _majority(held: Sequence[str | None], needed: int) -> str | None:
    for value, count in Counter(value for value in held if value is not None).items():
        if count >= needed:
            return value
    return None


def _most_held(final: Sequence[str | None], first: Sequence[str | None]) -> str | None:
    held, given = Counter(final), Counter(first)
    known = list(dict.fromkeys(value for value in first if value is not None))
    return max(known, key=lambda value: (held[value], given[value], -known.index(value)), default=None)
