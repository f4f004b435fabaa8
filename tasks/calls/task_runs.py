"""Whether a call is a task run on the Prefect server.

A task run costs its server some 6 ms of CPU and 15 kB of its database. What makes it visible is the events of its states:
Prefect's engine runs a task without its server. So a call that is not shown is run by the same engine, which keeps its
states to itself: it is stored, retried and cancelled like any other.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from prefect.client.schemas.objects import State, TaskRun
from prefect.context import AsyncClientContext
from prefect.task_engine import AsyncTaskRunEngine, run_task_async
from prefect.tasks import Task
from prefect.utilities.annotations import quote
from prefect.utilities.engine import emit_task_run_state_change_event

from consensus_flows.tasks.calls.pacing import throttle
from consensus_flows.tasks.calls.request import Request

TaskRuns = Literal["all", "failed", "none"]
"""Which calls are task runs."""

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


class _QuietEngine(AsyncTaskRunEngine[[Request], Any]):
    """Runs a task without telling the server of its states; with `failed`, of the last one of a task that failed.

    That one event holds the whole run: its start and end, and how often it was tried.
    """

    async def set_state(self, state: State[Any], force: bool = False) -> State[Any]:  # noqa: ARG002
        """Enter a state, as the engine does that sends its events."""
        before, run = self.state, self.task_run
        assert run is not None  # it was given
        state.state_details.task_run_id, state.state_details.flow_run_id = run.id, run.flow_run_id
        run.state, run.state_id, run.state_type, run.state_name = state, state.id, state.type, state.name
        if before.is_running():
            run.total_run_time += state.timestamp - before.timestamp
        if state.is_running():
            run.run_count += 1
        if state.is_final() and run.start_time and not run.end_time:
            run.end_time = state.timestamp  # type: ignore[assignment]  # a name of Prefect's for the same
        if _shown.get() == "failed" and (state.is_failed() or state.is_crashed()):
            emit_task_run_state_change_event(task_run=run, initial_state=before, validated_state=state)
        self._telemetry.update_state(state)
        return state


async def run_call(task: Task[[Request], Any], request: Request) -> State[Any]:
    """Run `task` for `request`, as `task(request, return_state=True)` would, and return its final state.

    Prefect is given a task run that it has made itself a moment before, and then leaves out the event of the pending
    one. The request is quoted, or Prefect would look three times through all of it for results of other tasks.
    """
    _ours.add(task.name)
    parameters = {"request": quote(request)}
    if _shown.get() != "none":
        await throttle()
    async with AsyncClientContext.get_or_create():
        run = await task.create_local_run()
        if not shows_all():
            return await _run_quietly(task, run, parameters)
        state: State[Any] = await run_task_async(task, task_run=run, parameters=parameters, return_type="state")  # type: ignore[assignment]
    return state


async def _run_quietly(task: Task[[Request], Any], run: TaskRun, parameters: dict[str, Any]) -> State[Any]:
    engine = _QuietEngine(task=task, parameters=parameters, task_run=run)
    async with engine.start():
        while engine.is_running():
            await engine.wait_until_ready()
            async with engine.run_context(), engine.transaction_context() as transaction:
                await engine.call_task_fn(transaction)
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
