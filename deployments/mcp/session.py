"""What all tools of an MCP server share: the Prefect server, the budget, and the work under way."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from consensus_flows.blocks.panel import RunConfig
from consensus_flows.blocks.settings import Budget
from consensus_flows.deployments.killed_runs import RunKeeper
from consensus_flows.deployments.mcp.results import Spent
from consensus_flows.deployments.server import ServerInfo, connect
from consensus_flows.flows.algorithms import Algorithm
from consensus_flows.tasks.batches.estimate import Estimate, estimate
from consensus_flows.tasks.batches.planning import span
from consensus_flows.tasks.batches.rows import files_of
from consensus_flows.tasks.calls.budget import BudgetTracker, within
from consensus_flows.tasks.calls.providers import close_clients
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.record import Attachment
from consensus_flows.tasks.watch import Watcher, watched_by

T = TypeVar("T")
CANCEL_S = 5.0
"""Seconds that work under way has to end when the client leaves."""


class Session:
    """One run of the server.

    Args:
        limits: What all tools together may spend.
    """

    def __init__(self, limits: Budget) -> None:
        self._budget = BudgetTracker(limits)
        self._working: set[asyncio.Task[Any]] = set()
        self._connecting = asyncio.Lock()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Serve in the block."""
        # A first start of the Prefect server takes longer than clients wait for an answer to their first message.
        self._start(self.connect())
        try:
            yield
        finally:
            await self.close()

    async def close(self) -> None:
        """Cancel what is under way, and let it write down what it has paid for; every such answer is cached."""
        for task in self._working:
            task.cancel()
        if self._working:
            await asyncio.wait(self._working, timeout=CANCEL_S)
        await close_clients()

    async def connect(self) -> ServerInfo:
        """Find or start the Prefect server: it may have been stopped since the last tool was called."""
        async with self._connecting:
            return await asyncio.to_thread(connect)

    @property
    def under_way(self) -> int:
        """How many runs and batches there are."""
        return len(self._working)

    def spent(self) -> Spent:
        """Return what all tools have spent, and what is left."""
        budget, limits = self._budget, self._budget.limits
        calls_left = None if limits.max_calls is None else max(0, limits.max_calls - budget.calls)
        usd_left = None if limits.max_cost_usd is None else max(0.0, round(limits.max_cost_usd - budget.cost_usd, 6))
        return Spent(
            calls=budget.calls,
            cost_usd=round(budget.cost_usd, 6),
            max_calls=limits.max_calls,
            calls_left=calls_left,
            max_cost_usd=limits.max_cost_usd,
            cost_usd_left=usd_left,
        )

    async def check(self, one: Algorithm, config: RunConfig, prompt: str, files: Sequence[Attachment] = ()) -> None:
        """Refuse a run that takes more than is left, before its first call.

        Args:
            one: The algorithm.
            config: Its settings.
            prompt: The question.
            files: What it is about.

        Raises:
            ConfigurationError: Saying what it takes and what is left.
        """
        limits = self._budget.limits
        if limits.max_calls is not None or limits.max_cost_usd is not None:
            found = await estimate(config, one.plan(config), 1, len(prompt.encode()), files_of(*files))
            self.check_estimate(found, "this run")

    def check_estimate(self, found: Estimate, what: str) -> None:
        """Refuse what takes more than is left.

        Args:
            found: What it takes.
            what: What it is.

        Raises:
            ConfigurationError: Saying what it takes and what is left.
        """
        left = self.spent()
        if left.calls_left is not None and found.calls_least > left.calls_left:
            raise ConfigurationError(
                f"{what} takes {span(found.calls_least, found.calls_most)} calls, and {left.calls_left} of {left.max_calls} "
                f"are left to this server; nothing was called. Ask fewer models, or start the server with a larger --max-calls",
                field="budget",
            )
        if left.cost_usd_left is not None and found.known_cost_usd_least > left.cost_usd_left:
            raise ConfigurationError(
                f"{what} is expected to cost at least ${found.known_cost_usd_least:.4f}, and ${left.cost_usd_left:.4f} of "
                f"${left.max_cost_usd:g} are left to this server; nothing was called. Ask cheaper models, or start the server "
                "with a larger --max-cost",
                field="budget",
            )

    def start(self, work: Callable[[], Awaitable[T]], *watchers: Watcher) -> "asyncio.Task[T]":
        """Start a flow within the budget of the session.

        In a task of its own, because a client that cancels a request must not keep a run from writing down what it has paid for.

        Args:
            work: Starts the flow.
            watchers: Who looks on.
        """

        async def kept() -> T:
            keeper = RunKeeper()
            try:
                with within(self._budget), watched_by(keeper, *watchers):
                    return await work()
            except Exception:
                if keeper.refusal is not None:  # its run is deleted, which is an error of its own
                    raise keeper.refusal from None
                raise
            finally:
                await asyncio.shield(asyncio.to_thread(keeper.close))

        return self._start(kept())

    async def run(self, work: Callable[[], Awaitable[T]], *watchers: Watcher) -> T:
        """Run a flow within the budget of the session; it is canceled with the request."""
        task = self.start(work, *watchers)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            raise

    def _start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._working.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits is told; asyncio would report it where nobody does
