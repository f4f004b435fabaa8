"""The task run of a call: made by Prefect's engine, which tells the server less of a call that is short."""

import asyncio
import logging
from typing import Any, ClassVar

from prefect.client.schemas.objects import State
from prefect.context import AsyncClientContext, FlowRunContext
from prefect.states import Running
from prefect.task_engine import AsyncTaskRunEngine
from prefect.tasks import Task
from prefect.utilities.annotations import quote
from prefect.utilities.engine import emit_task_run_state_change_event

from consensus_flows.tasks.calls.pacing import throttle
from consensus_flows.tasks.calls.request import Request

LASTS_S = 1.0
"""Seconds after which the server is told that a call is running; it writes down only once a second what it was told."""
MOST_TOLD = 20
"""Calls that it is told of in such a time: of each of hundreds that are under way at once, it is told later."""

_ours: set[str] = set()
"""Names of the tasks that make calls."""


class CallEngine(AsyncTaskRunEngine[[Request], Any]):
    """Prefect's engine, but a call that soon ends well is one event instead of two: its end holds its start.

    An event costs half of what a task run does: it goes through this process's queue and a web socket, is read by four
    services of the server, and becomes rows of its database.
    """

    under_way: ClassVar[int] = 0
    """Calls that are being made in this process."""
    _untold: asyncio.TimerHandle | None = None
    """What will tell the server that the call is running."""
    _before: State[Any]

    async def begin_run(self) -> None:
        """Enter the state running, and tell the server of it when it lasts."""
        run, self._before, state = self.task_run, self.state, Running()
        assert run is not None
        state.state_details.task_run_id, state.state_details.flow_run_id = run.id, run.flow_run_id
        run.state, run.state_id, run.state_type, run.state_name = state, state.id, state.type, state.name
        run.start_time = state.timestamp
        run.run_count += 1
        context = FlowRunContext.get()
        if context is not None and context.flow_run is not None:
            run.flow_run_run_count = context.flow_run.run_count
        seconds = LASTS_S * max(1.0, self.under_way / MOST_TOLD)
        self._untold = asyncio.get_running_loop().call_later(seconds, self._tell)

    async def set_state(self, state: State[Any], force: bool = False) -> State[Any]:
        """Enter a state and tell the server of it; unless the call has ended well, also that it was running before."""
        if self._untold is not None:
            self._untold.cancel()
            if state.is_completed():
                self._untold = None
            else:
                self._tell()
        return await super().set_state(state, force)

    def _tell(self) -> None:
        assert self.task_run is not None
        self._untold = None
        self._last_event = emit_task_run_state_change_event(self.task_run, self._before, self.state)


async def run_call(task: Task[[Request], Any], request: Request) -> State[Any]:
    """Run `task` for `request`, as `task(request, return_state=True)` would, and return its final state.

    Prefect is given a task run that it has made itself a moment before, and then leaves out the event of the pending
    one. The request is quoted, or Prefect would look three times through all of it for results of other tasks.
    """
    _ours.add(task.name)
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


class _FinishedLines(logging.Filter):
    """Drops the line "Finished in state Completed()" of a call: its state says so, and a batch has 100,000s of them."""

    def filter(self, record: logging.LogRecord) -> bool:
        return (
            record.levelno != logging.INFO
            or getattr(record, "task_name", None) not in _ours
            or not record.getMessage().startswith("Finished in state ")
        )


logging.getLogger("prefect.task_runs").addFilter(_FinishedLines())
