"""The requests of a batch, each entered before it goes out: what its budget has paid, and what no call has told of."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class SentRequest:
    """A request that went out."""

    model: str
    tokens: int
    """At first its worst case, then what it took, if that is known."""
    cost_usd: float | None
    settled: bool = False
    """Whether its cost is what was paid, and not the worst case."""
    lost: bool = True
    """Whether the vendor may have billed it and nobody knows: as long as nothing else is entered."""


class Requests:
    """Sums over the requests of all runs; what was reserved and never settled counts at its worst case."""

    def __init__(self) -> None:
        self.number = 0
        self.tokens = 0
        self.cost_usd = 0.0
        self._open: dict[int, SentRequest] = {}
        """Those of calls that have not ended, by their number in the journal."""
        self._last = 0

    def next(self) -> int:
        """Return a number that no request of this batch has."""
        return self._last + 1

    def sent(self, entry: Mapping[str, Any]) -> None:
        """Count a request that goes out."""
        self._last = max(self._last, entry["sent"])
        self._open[entry["sent"]] = SentRequest(entry["model"], entry["tokens"], entry["usd"])
        self.add(1, entry["tokens"], entry["usd"])

    def settled(self, entry: Mapping[str, Any]) -> None:
        """Correct what was counted by what is known; None is not known, and stays at the worst case."""
        request = self._open.get(entry["settled"])
        if request is None:
            return
        if entry["tokens"] is not None:
            self.tokens += entry["tokens"] - request.tokens
            request.tokens = entry["tokens"]
        request.lost, request.settled = entry["lost"], entry["usd"] is not None
        if request.settled:
            self.cost_usd += entry["usd"] - (request.cost_usd or 0.0)
            request.cost_usd = entry["usd"]

    def told(self, numbers: Iterable[int]) -> None:
        """Take note that the entry of a call tells of these."""
        for number in numbers:
            self._open.pop(number, None)

    def add(self, number: int, tokens: int, cost_usd: float | None) -> None:
        """Count requests that were not entered one by one."""
        self.number += number
        self.tokens += tokens
        self.cost_usd += cost_usd or 0.0

    def interrupted(self) -> Iterator[SentRequest]:
        """Take out the requests of calls that will never end: their run was killed, or they were cancelled."""
        while self._open:
            yield self._open.pop(next(iter(self._open)))
