"""What a run may still spend. The worst case of a call is reserved before it is sent; nested and concurrent calls share."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from blocks.budget import Budget
from tasks.calls.money.pricing import price
from tasks.calls.providers import Endpoint
from tasks.calls.request import Request, Usage
from tasks.errors import BudgetError

ASSUMED_OUTPUT_TOKENS = 4096
"""Reserved for the answer of a call without a limit of its own."""
CHARACTERS_PER_TOKEN = 2.0
"""A low estimate, so that the input's size in tokens is not underestimated."""


@dataclass
class Reservation:
    """The worst case of one call."""

    tokens: int
    cost_usd: float


class Purse:
    """The budget of one run and what was spent of it."""

    def __init__(self, limits: Budget, parent: "Purse | None" = None) -> None:
        self.limits = limits
        self.parent = parent
        self.calls = 0
        self.tokens = 0
        self.cost_usd = 0.0
        self.refusal: str | None = None
        """Why the last call was refused that these very limits did not cover; None as long as they cover all."""
        self._started = time.monotonic()

    async def reserve(self, request: Request, endpoint: Endpoint) -> Reservation:
        """Set aside the worst case of `request`.

        Raises:
            BudgetError: If the budget does not cover it, or its price is not known and the budget is in US dollars.
        """
        characters = sum(len(message.content) for message in request.messages) + len(str(request.response_schema or ""))
        entry = int(characters / CHARACTERS_PER_TOKEN) + 16
        output = request.sampling.max_output_tokens or ASSUMED_OUTPUT_TOKENS
        cost = 0.0
        if self._counts_money() and endpoint.credentials is not None:
            worst = await price(endpoint, request.model, Usage(input_tokens=entry, output_tokens=output))
            if worst is None:
                message = f"max_cost_usd: the price of {request.name} is not known, so no call of it can be covered"
                for purse in self._chain():
                    purse.refusal = message if purse.limits.max_cost_usd is not None else purse.refusal
                raise BudgetError(message)
            cost = worst
        reservation = Reservation(entry + output, cost)
        self._take(reservation)
        return reservation

    def settle(self, reservation: Reservation, usage: Usage | None, cost_usd: float | None) -> None:
        """Book what a call really used; what is not known stays booked at its worst case."""
        spent = reservation.tokens if usage is None else usage.input_tokens + usage.output_tokens
        paid = reservation.cost_usd if cost_usd is None else cost_usd
        for purse in self._chain():
            purse.tokens += spent - reservation.tokens
            purse.cost_usd += paid - reservation.cost_usd

    def _take(self, wanted: Reservation) -> None:
        for purse in self._chain():
            try:
                purse.check(wanted)
            except BudgetError as error:
                purse.refusal = error.message
                raise
        for purse in self._chain():
            purse.calls += 1
            purse.tokens += wanted.tokens
            purse.cost_usd += wanted.cost_usd

    def check(self, wanted: Reservation) -> None:
        """Check that this purse alone covers `wanted`.

        Raises:
            BudgetError: If it does not.
        """
        limits = self.limits
        if limits.max_calls is not None and self.calls + 1 > limits.max_calls:
            raise BudgetError(f"the budget of {limits.max_calls} calls is used up")
        if limits.max_tokens is not None and self.tokens + wanted.tokens > limits.max_tokens:
            raise BudgetError(
                f"the budget of {limits.max_tokens} tokens has {max(0, limits.max_tokens - self.tokens)} left, "
                f"and the call may take {wanted.tokens}"
            )
        if limits.max_cost_usd is not None and self.cost_usd + wanted.cost_usd > limits.max_cost_usd:
            raise BudgetError(
                f"the budget of {limits.max_cost_usd:g} USD has {max(0.0, limits.max_cost_usd - self.cost_usd):.6f} left, "
                f"and the call may cost {wanted.cost_usd:.6f}"
            )
        if limits.max_seconds is not None and time.monotonic() - self._started > limits.max_seconds:
            raise BudgetError(f"the budget of {limits.max_seconds:g} seconds is used up")

    def _counts_money(self) -> bool:
        return any(purse.limits.max_cost_usd is not None for purse in self._chain())

    def _chain(self) -> Iterator["Purse"]:
        purse: Purse | None = self
        while purse is not None:
            yield purse
            purse = purse.parent


_current: ContextVar[Purse | None] = ContextVar("purse", default=None)


def current_purse() -> Purse | None:
    """Return the purse of the run that this code is part of."""
    return _current.get()


@contextmanager
def spending(limits: Budget) -> Iterator[Purse]:
    """Give the calls made in the block a budget, inside that of the run around it."""
    purse = Purse(limits, _current.get())
    token = _current.set(purse)
    try:
        yield purse
    finally:
        _current.reset(token)
