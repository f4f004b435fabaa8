"""One budget and what was spent of it: whether a call is covered, now or once the calls under way are settled."""

import time
from typing import NamedTuple

from consensus_flows.blocks.budget import Budget

PLENTY, PLENTY_TOKENS, PLENTY_USD = 1000, 1_000_000, 2.0
"""A budget is tight if less is left than so many times the worst case of a call, or less than so much: fees a call, and what a
model thinks, do not grow with the call."""


class Refusal(NamedTuple):
    """Why a budget does not cover a call, even with no other call under way."""

    message: str
    exhausted: bool
    """Whether it will cover none any more, however small."""
    by_size: bool = False
    """Whether it would cover a smaller call."""


class Account:
    """Sums against their limits; what is set aside for calls under way is in them at its worst case.

    Attributes:
        limits: The budget.
        calls: Requests sent.
        tokens: Input and output together.
        cost_usd: US dollars.
    """

    def __init__(self, limits: Budget) -> None:
        self.limits = limits
        self.calls = 0
        self.tokens = 0
        self.cost_usd = 0.0
        self._open = 0
        self._unsent = 0
        self._open_tokens = 0
        self._open_usd = 0.0
        self._started = time.monotonic()

    @property
    def end(self) -> float | None:
        """When its seconds are used up, by the monotonic clock."""
        return None if self.limits.max_seconds is None else self._started + self.limits.max_seconds

    def late(self) -> Refusal:
        """Say that its seconds are used up."""
        return Refusal(f"the budget of {self.limits.max_seconds:g} seconds is used up", exhausted=True)

    def refusal_of(self, tokens: int, cost_usd: float) -> Refusal | None:
        """Return why a call of this worst case is not covered, even with no other call under way; None if it is."""
        limits = self.limits
        if self.end is not None and time.monotonic() >= self.end:
            return self.late()
        if limits.max_calls is not None and self.calls - self._unsent + 1 > limits.max_calls:
            # A call counts once it is sent, whatever comes of it; one that is not sent yet may never be.
            return Refusal(f"the budget of {limits.max_calls} calls is used up", exhausted=True)
        settled, paid = self.tokens - self._open_tokens, self.cost_usd - self._open_usd
        if limits.max_tokens is not None and settled + tokens > limits.max_tokens:
            left = max(0, limits.max_tokens - settled)
            return Refusal(
                f"the budget of {limits.max_tokens} tokens has {left} left, and the call may take {tokens}",
                exhausted=not left,
                by_size=True,
            )
        if limits.max_cost_usd is not None and paid + cost_usd > limits.max_cost_usd:
            rest = max(0.0, limits.max_cost_usd - paid)
            return Refusal(
                f"the budget of {limits.max_cost_usd:g} USD has {rest:.6f} left, and the call may cost {cost_usd:.6f}",
                exhausted=not rest,
                by_size=True,
            )
        return None

    def is_short(self, tokens: int, cost_usd: float) -> bool:
        """Tell whether a call has to wait until others are settled."""
        limits = self.limits
        if limits.max_calls is not None and self.calls + 1 > limits.max_calls:
            return True
        return (limits.max_tokens is not None and self.tokens + tokens > limits.max_tokens) or (
            limits.max_cost_usd is not None and self.cost_usd + cost_usd > limits.max_cost_usd
        )

    def has_plenty(self, tokens: int, cost_usd: float) -> bool:
        """Tell whether a call may take very much more than its worst case and still be covered."""
        limits = self.limits
        return (
            limits.max_tokens is None or self.tokens + max(PLENTY * tokens, PLENTY_TOKENS) <= limits.max_tokens
        ) and (limits.max_cost_usd is None or self.cost_usd + max(PLENTY * cost_usd, PLENTY_USD) <= limits.max_cost_usd)

    def open(self, tokens: int, cost_usd: float) -> None:
        """Set the worst case of a call aside."""
        self.calls += 1
        self.tokens += tokens
        self.cost_usd += cost_usd
        self._open += 1
        self._unsent += 1
        self._open_tokens += tokens
        self._open_usd += cost_usd

    def sent(self) -> None:
        """Count a call that was set aside as sent, or given back."""
        self._unsent -= 1

    def close(self, reserved: tuple[int, float], spent: tuple[int, float], calls: int = 1) -> None:
        """Book what a call came to.

        Args:
            reserved: The tokens and US dollars that were set aside.
            spent: Those that it took.
            calls: 0 for a call that was not sent.
        """
        self.calls += calls - 1
        self.tokens += spent[0] - reserved[0]
        self.cost_usd += spent[1] - reserved[1]
        self._open -= 1
        self._open_tokens -= reserved[0]
        # Exactly nothing if nothing is under way: a remainder of fractions would be waited for in vain.
        self._open_usd = self._open_usd - reserved[1] if self._open else 0.0
