"""Which calls Prefect shows as task runs, and how many events each of them sends.

A task run costs the Prefect server about 6 ms of CPU and 15 kB of its database. The cost is in the events of its states: each
goes through this process's queue and a web socket, is read by four services, and becomes rows. To run a task, Prefect's engine
needs no server. So a short call sends one event, and a call that is not shown sends none. The same engine runs both, and they
are stored, retried and canceled like any other call.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Literal

from prefect.client.schemas.objects import State
from prefect.context import AsyncClientContext
from prefect.task_engine import AsyncTaskRunEngine
from prefect.tasks import Task
from prefect.utilities.annotations import quote
from prefect.utilities.engine import emit_task_run_state_change_event

from consensus_flows.tasks.calls.pacing import throttle
from consensus_flows.tasks.calls.request import Request

TaskRuns = Literal["all", "failed", "none"]
"""Which calls are task runs."""

LASTS_S = 1.0
"""Seconds until the server is told that a call is running. The server writes only once a second what it is told."""
MOST_TOLD = 20
"""Running calls reported in that time, at most. With more in progress, each is reported later."""

_shown: ContextVar[TaskRuns] = ContextVar("shown", default="all")
_ours: set[str] = set()
"""Names of the tasks that make calls."""


@contextmanager
def showing(task_runs: TaskRuns) -> Iterator[None]:
    """Let these calls of those in the block be task runs."""
    token = _shown.set(task_runs)
    try:
        yield
    finally:
        _shown.reset(token)


def shows_all() -> bool:
    """Tell whether every call is a task run."""
    return _shown.get() == "all"


class CallEngine(AsyncTaskRunEngine[[Request], Any]):
    """Prefect's engine, which tells the server no more of a call's states than somebody may want to see.

    With `none` it tells nothing, with `failed` the last state of a task that failed, and with `all` that a call runs, when
    it lasts, and how it ended. The event of the end holds the whole run: its start and end, and how often it was tried.
    """

    under_way: ClassVar[int] = 0
    """Calls that are being made in this process."""
    _telling: asyncio.TimerHandle | None = None
    """What will tell that the call runs, when it lasts."""
    _runs: tuple[State[Any], State[Any]]
    """The state before it ran, and that of running."""

    async def set_state(self, state: State[Any], force: bool = False) -> State[Any]:  # noqa: ARG002
        """Enter a state, as the engine does that sends an event of each."""
        before, run, shown = self.state, self.task_run, _shown.get()
        assert run is not None  # it was given
        if self._telling is not None:
            self._telling.cancel()
            if not state.is_completed():
                self._tell(*self._runs)
            self._telling = None
        state.state_details.task_run_id, state.state_details.flow_run_id = run.id, run.flow_run_id
        run.state, run.state_id, run.state_type, run.state_name = state, state.id, state.type, state.name
        if before.is_running():
            run.total_run_time += state.timestamp - before.timestamp
        if state.is_running():
            run.run_count += 1
        if state.is_final() and run.start_time and not run.end_time:
            run.end_time = state.timestamp  # type: ignore[assignment]  # a name of Prefect's for the same
        if shown == "all" and state.is_running() and run.run_count == 1:
            seconds = LASTS_S * max(1.0, self.under_way / MOST_TOLD)
            self._runs = before, state
            self._telling = asyncio.get_running_loop().call_later(seconds, self._tell, before, state)
        elif shown == "all" or (shown == "failed" and (state.is_failed() or state.is_crashed())):
            self._tell(before, state)
        self._telemetry.update_state(state)
        return state

    def _tell(self, before: State[Any], state: State[Any]) -> None:
        assert self.task_run is not None
        self._telling = None
        self._last_event = emit_task_run_state_change_event(self.task_run, before, state, self._last_event)


async def run_call(task: Task[[Request], Any], request: Request) -> State[Any]:
    """Run `task` for `request`, as `task(request, return_state=True)` would, and return its final state.

    Prefect is given a task run that it has made itself a moment before, and then leaves out the event of the pending
    one. The request is quoted, or Prefect would look three times through all of it for results of other tasks.
    """
    _ours.add(task.name)
    if _shown.get() != "none":
        await throttle()
    async with AsyncClientContext.get_or_create():
        run = await task.create_local_run()
        engine = CallEngine(task=task, task_run=run, parameters={"request": quote(request)})
        CallEngine.under_way += 1
        try:
            # As in Prefect's `run_task_async`, without the assets that a call does not have.
            async with engine.start():
                while engine.is_running():
                    await engine.wait_until_ready()
                    async with engine.run_context(), engine.transaction_context() as transaction:
                        await engine.call_task_fn(transaction)
        finally:
            CallEngine.under_way -= 1
    return engine.state


class _Unsaid(logging.Filter):
    """Drops the line "Finished in state Completed()" of a call: its state says so, and a batch has 100,000s of them.

    What is logged of calls that are no task runs does not go to the server either.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "task_name", None) not in _ours:
            return True
        if _shown.get() == "none":
            record.send_to_api = False
        return record.levelno != logging.INFO or not record.getMessage().startswith("Finished in state ")


logging.getLogger("prefect.task_runs").addFilter(_Unsaid())
