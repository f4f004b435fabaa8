"""The worker that `consensus up` starts."""

import pytest
from prefect.settings import PREFECT_HOME, temporary_settings

from deployments.commands.operations.up import _worker
from deployments.terminal import Stop


def test_a_worker_of_yesterday_is_not_taken_for_the_one_that_is_started(tmp_path, monkeypatch):
    """The log grows from start to start; what stands for a start in it may be an earlier one's."""
    (tmp_path / "consensus-worker.log").write_text("Worker 'ProcessWorker 1' started!\n")
    with temporary_settings({PREFECT_HOME: tmp_path}):
        monkeypatch.setenv("PREFECT_API_REQUEST_TIMEOUT", "no number")  # so that the worker ends at once
        with pytest.raises(Stop, match="the worker ended at once"):
            _worker()
