"""Whether calls go as fast as a provider takes them: how much of its limit is used, and how many calls it refuses.

    python benchmarks/pace.py

The pace of `tasks/calls/pace.py` against simulated providers, by a clock that jumps from event to event, so that the figures do
not depend on how busy the machine is. Each provider is asked for two models, which share its limit, and has more to do than it
takes; a call that is refused is tried again after a backoff, as by the `ask` task.

- One takes 600 requests a minute and bursts of 60, and says so in its headers, as OpenAI and Anthropic do.
- One takes as many, and says nothing but 429 and Retry-After.
- One takes 50 requests at once, and answers 529 to more.
"""

import argparse
import asyncio
import random
import selectors
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from common import ROOT  # noqa: F401  # it makes this checkout importable

from consensus_flows.tasks.calls import pace as module
from consensus_flows.tasks.calls.failures import Verdict
from consensus_flows.tasks.calls.pace import Pace

PER_S = 10.0
BURST = 60
AT_ONCE = 50
LATENCY_S = (0.3, 1.2)
CALLERS = 200
RETRY_AFTER_S = 1.0
USED, REFUSED = 0.95, 0.01
"""Targets: so much of the limit at least, and so many refusals at most."""


class JumpingClock(asyncio.SelectorEventLoop):
    """An event loop whose time is that of its next event."""

    def __init__(self) -> None:
        super().__init__(selectors.SelectSelector())
        self._now = 0.0

    def time(self) -> float:
        """Return the time of the simulation."""
        return self._now

    def _run_once(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]
        scheduled: Any = self._scheduled  # type: ignore[attr-defined]
        if not ready and scheduled:
            self._now = max(self._now, scheduled[0].when())
        super()._run_once()  # type: ignore[misc]


@dataclass
class Provider:
    """A provider with a limit."""

    name: str
    tells: bool = False
    at_once: int | None = None
    served: int = 0
    refused: int = 0
    of_a: int = 0
    level: float = BURST
    under_way: int = 0
    busy_s: float = 0.0
    at: float = 0.0

    def admits(self, now: float) -> bool:
        """Tell whether a request is taken now."""
        self.level, self.at = min(BURST, self.level + (now - self.at) * PER_S), now
        if self.at_once is not None:
            return self.under_way < self.at_once
        if self.level < 1:
            return False
        self.level -= 1
        return True

    def headers(self) -> dict[str, str]:
        """Return what it says of its limit."""
        if not self.tells:
            return {}
        return {
            "x-ratelimit-limit-requests": f"{60 * PER_S:.0f}",
            "x-ratelimit-remaining-requests": f"{int(self.level)}",
            "x-ratelimit-reset-requests": f"{(BURST - self.level) / PER_S:.3f}s",
        }


async def run(provider: Provider, seconds: float) -> dict[str, Any]:
    """Ask a provider as fast as it goes, for so many seconds."""
    loop, pace = asyncio.get_running_loop(), Pace()

    async def ask(model: str) -> None:
        tried = 0
        while True:
            async with pace.turn(model) as turn:
                if provider.admits(loop.time()):
                    took = random.uniform(*LATENCY_S)
                    provider.under_way += 1
                    await asyncio.sleep(took)
                    provider.under_way -= 1
                    provider.busy_s += took
                    provider.served += 1
                    provider.of_a += model == "a"
                    turn.told(provider.headers())
                    turn.ended(None, 100)
                    tried = 0
                    continue
                provider.refused += 1
                tried += 1
                turn.told(provider.headers())
                if provider.at_once is None:
                    turn.ended(Verdict("rate_limit", retry=True, wait_s=RETRY_AFTER_S))
                    pace.hold(RETRY_AFTER_S)
                else:
                    turn.ended(Verdict("overloaded", retry=True))
            await asyncio.sleep(2 ** min(tried - 1, 4) * random.uniform(1, 1.5))

    callers = [asyncio.ensure_future(ask(model)) for model in ("a", "b", "b", "b") for _ in range(CALLERS // 4)]
    await asyncio.sleep(seconds)
    for one in callers:
        one.cancel()
    most = BURST + PER_S * seconds if provider.at_once is None else provider.at_once * seconds
    return {
        "provider": provider.name,
        "served": provider.served,
        "of the limit": (provider.served if provider.at_once is None else provider.busy_s) / most,
        "refused": provider.refused / max(1, provider.refused + provider.served),
        "of model a": provider.of_a / max(1, provider.served),
        "at once, in the end": round(pace.at_once),
    }


def main(seconds: float) -> None:
    """Run each, and print a table."""
    random.seed(1)
    found = []
    for provider in (
        Provider("600 a minute, in headers", tells=True),
        Provider("600 a minute, unsaid"),
        Provider("50 at once", at_once=AT_ONCE),
    ):
        loop = JumpingClock()
        vars(module)["time"] = SimpleNamespace(monotonic=loop.time)
        found.append(loop.run_until_complete(run(provider, seconds)))
        vars(module)["time"] = time
    print("| " + " | ".join(found[0]) + " |\n|" + "---|" * len(found[0]))
    for one in found:
        print(
            "| "
            + " | ".join(f"{value:.1%}" if isinstance(value, float) else str(value) for value in one.values())
            + " |"
        )
    print(f"\nTargets, where the provider says its limit: {USED:.0%} of it, and less than {REFUSED:.0%} refused")
    if found[0]["of the limit"] < USED or found[0]["refused"] >= REFUSED:
        raise SystemExit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    main(parser.parse_args().seconds)
