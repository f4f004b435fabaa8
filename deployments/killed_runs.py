"""Runs whose command was killed: nobody is left to end them in Prefect, so the next command does.

As long as a command lives it holds a lock on a file that is named after its flow run; the system lets go of it whatever ends
the process.
"""

import asyncio
import fcntl
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.runtime import flow_run
from prefect.settings import get_current_settings

MESSAGE = "The command was killed. Run it again: it resumes, and answers that were paid for come from the cache."
_NEW = ".new"


class RunningMark:
    """Says for later commands that this one is at work on a flow run."""

    def __init__(self, run_id: str) -> None:
        self._path = _folder() / run_id
        new = self._path.with_suffix(_NEW)
        self._file = new.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        new.rename(self._path)  # nobody finds it without its lock

    def remove(self) -> None:
        """Say that the run has ended."""
        self._path.unlink(missing_ok=True)
        self._file.close()


class RunKeeper:
    """A watcher that marks a run while it is under way, and deletes the one that was refused before its first call."""

    def __init__(self) -> None:
        self._mark: RunningMark | None = None
        self.refusal: Exception | None = None
        """The mistake in what was given that has ended the run."""

    async def on_event(self, event: str, value: Any) -> None:
        """Take note of the flow run."""
        if event == "refused" and flow_run.id is not None:
            self.refusal = value
            with suppress(Exception):  # the person is told what was wrong; a failed run is left then
                # Before it fails: an automation that tells of failed runs shall not tell of a typo.
                await asyncio.to_thread(delete_run, flow_run.id)
        elif self._mark is None and flow_run.id is not None:
            self._mark = RunningMark(flow_run.id)

    def close(self) -> None:
        """Say that the run has ended."""
        if self._mark is not None:
            self._mark.remove()


def end_killed_runs() -> None:
    """Mark the runs as crashed whose command is no more."""
    for path in _folder().iterdir():
        if path.suffix == _NEW:
            continue
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # its command lives
                continue
            _end(UUID(path.name))
            path.unlink(missing_ok=True)


def delete_run(run_id: str) -> None:
    """Delete a run that was refused before its first call: the person has read why, and nothing came of it."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        client.delete_flow_run(UUID(run_id))


def _end(run_id: UUID) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(run_id).state
        except ObjectNotFound:
            return
        if state is not None and state.is_final():
            return
        client.set_flow_run_state(run_id, Crashed(message=MESSAGE), force=True)
        calls = client.read_task_runs(
            flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run_id]}}),
            task_run_filter=TaskRunFilter.model_validate(
                {"state": {"type": {"any_": ["RUNNING", "PENDING", "SCHEDULED"]}}}
            ),
        )
        for call in calls:
            client.set_task_run_state(call.id, Crashed(message=MESSAGE), force=True)


def _folder() -> Path:
    folder = get_current_settings().home / "consensus-running"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
