"""Runs a call as a task run of Prefect, with no more events and log lines than say something.

What a call costs is mostly this: each event goes through the client's queue and a web socket, is read by four services of
the server, and becomes rows of its database. Of the three that Prefect sends for a task run, the first says that the run is
pending, and the second, in the same millisecond, that it runs.
"""

import logging
from typing import Any, cast

from prefect.client.schemas.objects import State
from prefect.context import AsyncClientContext
from prefect.task_engine import run_task_async
from prefect.tasks import Task
from prefect.utilities.annotations import quote

from consensus_flows.tasks.calls.pace.backpressure import in_step
from consensus_flows.tasks.calls.request import Request

_ours: set[str] = set()


async def run_call(task: Task[[Request], Any], request: Request) -> State[Any]:
    """Run `task` for `request`, as `task(request, return_state=True)` would, and return its final state.

    Prefect is given a task run that it has made itself a moment before, and then leaves out the event of the pending
    one. The request is quoted, or Prefect would look three times through all of it for results of other tasks.
    """
    _ours.add(task.name)
    await in_step()
    async with AsyncClientContext.get_or_create():
        run = await task.create_local_run()
        state = await run_task_async(task, task_run=run, parameters={"request": quote(request)}, return_type="state")
    return cast("State[Any]", state)


class _SaidAlready(logging.Filter):
    """Drops the line "Finished in state Completed()" of a call: its state says so, and a batch has 100,000s of them."""

    def filter(self, record: logging.LogRecord) -> bool:
        return (
            record.levelno != logging.INFO
            or getattr(record, "task_name", None) not in _ours
            or not record.getMessage().startswith("Finished in state ")
        )


logging.getLogger("prefect.task_runs").addFilter(_SaidAlready())
