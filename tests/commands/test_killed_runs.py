"""Which runs a command leaves: one that was killed is marked as crashed, one that was refused is gone."""

import fcntl
import subprocess
import sys
from functools import partial

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.states import Completed, Running

from consensus_flows.deployments.commands import batches
from consensus_flows.deployments.killed_runs import MESSAGE, RunKeeper, RunningMark, end_killed_runs
from consensus_flows.deployments.last_word import LastWord
from consensus_flows.deployments.terminal import Exit
from consensus_flows.flows.consortium import consortium
from consensus_flows.tasks.batches.addresses import journal_path
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.record import Record
from consensus_flows.tasks.reports.verdict import concluded, of_run
from consensus_flows.tasks.watch import watched_by
from tests.kits.consortium_kit import config

HOLD = """
import os, sys
from consensus_flows.deployments.killed_runs import RunningMark
marks = [RunningMark(run) for run in sys.argv[1:]]
os._exit(9)
"""


@pytest.mark.usefixtures("prefect_server")
def test_only_a_run_whose_command_is_gone_is_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))

    @flow
    def batch() -> None: ...

    @task
    def ask() -> None: ...

    with temporary_settings({PREFECT_HOME: tmp_path}), get_client(sync_client=True) as client:
        killed, alive, ended = (client.create_flow_run(batch, state=Running()).id for _ in range(3))
        call = client.create_task_run(ask, flow_run_id=killed, dynamic_key="1", state=Running()).id
        done = client.create_flow_run(batch, state=Completed()).id
        subprocess.run([sys.executable, "-c", HOLD, str(killed), str(done)], check=False)
        mark = RunningMark(str(alive))
        RunningMark(str(ended)).remove()
        end_killed_runs()
        run = client.read_flow_run(killed)
        assert (run.state_name, run.state.message) == ("Crashed", MESSAGE)
        assert client.read_task_run(call).state_name == "Crashed"
        assert client.read_flow_run(done).state_name == "Completed", "it had ended before its command was killed"
        assert client.read_flow_run(alive).state_name == client.read_flow_run(ended).state_name == "Running"
        mark.remove()
        assert list((tmp_path / "consensus-running").iterdir()) == []


@pytest.mark.usefixtures("results")
async def test_a_run_is_marked_from_its_beginning(tmp_path):
    """A batch reads its input and looks for its models before it begins; who is killed then shall not stay running."""
    marked = []

    @partial(flow, name="marked")
    @concluded(of_run)
    async def marked_flow() -> Record:
        marked.extend(path.name for path in (tmp_path / "consensus-running").iterdir())
        return Record(flow="vote", prompt="?", answer="x", flow_run_id=flow_run.id)

    keeper = RunKeeper()
    with temporary_settings({PREFECT_HOME: tmp_path}), watched_by(keeper):
        record = await marked_flow()
        keeper.close()
        assert marked == [record.flow_run_id] and not [*(tmp_path / "consensus-running").iterdir()]


@pytest.mark.usefixtures("results")
def test_a_mistake_at_the_command_line_leaves_no_failed_run():
    last = LastWord(PREFECT_API_URL.value(), "recorded", lambda _: Exit.ANSWER)
    failed = []
    mistaken = consortium.with_options(name="mistaken", on_failure=[lambda *given: failed.append(given)])

    async def ask() -> None:
        with watched_by(last):
            await mistaken(" ", config())

    with pytest.raises(ConfigurationError, match="prompt"):
        last.run(ask())
    with get_client(sync_client=True) as client:
        wanted = FlowFilter.model_validate({"name": {"any_": ["mistaken"]}})
        assert client.read_flows(flow_filter=wanted), "there was a run"
        assert client.read_flow_runs(flow_filter=wanted) == []
    assert failed == [], "an alarm would have been raised for a typo"


@pytest.mark.parametrize("output", ["/folder/answers.jsonl", "memory://bucket/answers.jsonl"])
def test_a_batch_whose_journal_nobody_holds_was_killed(output, tmp_path):
    output = output.replace("/folder", str(tmp_path))
    one = {"status": "running", "answer": output}
    with temporary_settings({PREFECT_HOME: tmp_path}):
        assert batches.state_of(one) == "running", "it has no journal here: it may be at work elsewhere"
        journal = journal_path(output)
        journal.parent.mkdir(exist_ok=True)
        with journal.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert batches.state_of(one) == "running"
        assert batches.state_of(one) == "killed"
        assert batches.state_of(one | {"status": "finished"}) == "finished"
