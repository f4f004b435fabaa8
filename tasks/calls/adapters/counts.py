"""The tokens that a vendor says it has counted. The SDKs check no types, and a wrong count would upset every budget."""

from dataclasses import replace
from math import isfinite
from typing import Any

from consensus_flows.tasks.calls.adapters import Reply
from consensus_flows.tasks.record import Usage

MOST_TOKENS = 20_000_000
"""Of one call. What is above is no count: the largest contexts have some ten million."""
MOST_USD = 1000.0
"""For one call. What is above is no cost: the dearest models take some hundred for the longest input and output."""


def field_of(whole: Any, *names: str) -> Any:
    """Return a field of a field of an SDK's object, or None where anything on the way is missing."""
    for name in names:
        whole = getattr(whole, name, None)
    return whole


def usage_of(
    input_tokens: Any, output_tokens: Any, *, cached: Any = None, written: Any = None, reasoning: Any = None
) -> Usage | None:
    """Return the tokens of a call, or None where one of them is no number of tokens: the usage is unknown then.

    Args:
        input_tokens: All of the input, the cached one included.
        output_tokens: All of the output, reasoning included.
        cached: Input that was read from a cache; None for none.
        written: Input that was written into one; None for none.
        reasoning: Output that was reasoning; None for none.
    """
    counts = [_count(value) for value in (input_tokens, output_tokens, cached or 0, written or 0, reasoning or 0)]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts) or known[2] + known[3] > known[0]:
        return None
    return Usage(
        input_tokens=known[0],
        output_tokens=known[1],
        cached_input_tokens=known[2],
        cache_write_tokens=known[3],
        reasoning_tokens=known[4],
    )


def total(*values: Any) -> int | None:
    """Return the sum of counts that a vendor tells apart, None for none of that kind; None if one is no count."""
    counts = [_count(value or 0) for value in values]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def charged(cost: Any) -> float | None:
    """Return what a server says a call cost, in US dollars; None where that is no amount."""
    amount = isinstance(cost, int | float) and not isinstance(cost, bool) and isfinite(cost) and 0 <= cost <= MOST_USD
    return float(cost) if amount else None


def doubted(response: Any, reply: Reply) -> Reply:
    """Return `reply`, marked if the server said that the call cost what it cannot have cost."""
    told = field_of(response, "usage", "cost")
    return replace(reply, doubts=("cost",)) if told is not None and reply.cost_usd is None else reply


def _count(value: Any) -> int | None:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return int(value) if whole and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS else None
