"""A batch with `{date}` in its output that is killed before midnight and started again after it."""

import fcntl
import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from consensus_flows.flows.batch import batch
from consensus_flows.tasks.batches import unfinished as module
from consensus_flows.tasks.batches.addresses import day_of_run
from consensus_flows.tasks.batches.summary import BatchSummary
from consensus_flows.tasks.batches.unfinished import unfinished, unfinished_shards
from consensus_flows.tasks.watch import watched_by
from tests.kits.batch_kit import ONE, batch_of, environment_of, kill_when, prompts, serve, start

pytestmark = pytest.mark.usefixtures("results")
ROWS = 12
CONFIG = {"members": ["openai/a"]}


def name(days: int = 0) -> str:
    """The output of a day, so many days ago."""
    return f"answers-{(day_of_run() - timedelta(days=days)).isoformat()}.jsonl"


class Heard:
    """The notices of a run."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    async def on_event(self, event: str, value: object) -> None:
        if event == "notice":
            self.notices.append(str(value))


async def run(folder: Path, heard: Heard | None = None) -> BatchSummary:
    with watched_by(*([heard] if heard else [])):
        return await batch(
            str(folder / "prompts.csv"), str(folder / "answers-{date}.jsonl"), flow="pump", config=CONFIG
        )


@pytest.fixture
def killed(vendors, tmp_path) -> Path:
    """A batch that was killed, by the real command, with its day set back by one as a midnight would."""
    serve(vendors, delay=0.2)
    prompts(tmp_path, ROWS)
    arguments = [tmp_path / "prompts.csv", "-o", tmp_path / "answers-{date}.jsonl", *ONE, "--concurrency", "2"]
    process = start(arguments, environment_of(tmp_path))
    today = tmp_path / f"{name()}.partial"
    assert kill_when(process, lambda: today.exists() and today.read_text().count('"row":') >= 4)
    journal = tmp_path / f"{name(1)}.partial"
    today.rename(journal)
    vendors.delay = 0
    return journal


async def test_it_is_gone_on_with(vendors, tmp_path, killed):
    before, heard = vendors.count(), Heard()
    summary = await run(tmp_path, heard)
    assert summary.output == str(tmp_path / name(1)) and summary.resumed >= 4
    assert (summary.status, summary.done) == ("finished", ROWS) and summary.sent_calls >= ROWS, "the bill is of both"
    assert vendors.count() - before == ROWS - summary.resumed
    assert not killed.exists() and not (tmp_path / name()).exists()
    (notice,) = heard.notices
    assert notice == (
        f"{tmp_path / name(1)} was at work 0 minutes ago and did not end: this run continues it in place of {tmp_path / name()}"
    )
    assert (await run(tmp_path)).output == str(tmp_path / name()), "the next one is that of the day"


def test_the_command_says_so_and_prints_where_the_answers_are(vendors, tmp_path, killed):
    arguments = [tmp_path / "prompts.csv", "-o", tmp_path / "answers-{date}.jsonl", *ONE]
    process = start(arguments, environment_of(tmp_path))
    out, said = (text.decode() for text in process.communicate(timeout=110))
    assert process.returncode == 0 and out == f"{tmp_path / name(1)}\n"
    assert "this run continues it in place of" in said


@pytest.mark.parametrize(
    "case", ["long ago", "another plan", "another input", "at work", "begun", "done", "two days ago"]
)
async def test_it_is_not_where_that_is_not_what_is_meant(vendors, tmp_path, killed, case):
    heard, left = Heard(), killed
    if case == "long ago":
        then = time.time() - module.AT_WORK_S - 60
        os.utime(killed, (then, then))
    elif case == "another plan":
        killed.write_text(killed.read_text().replace("openai/a", "openai/b"))
    elif case == "another input":
        prompts(tmp_path, ROWS, word="Other")
    elif case == "at work":
        holder = killed.open("rb")
        fcntl.flock(holder, fcntl.LOCK_EX)
    elif case == "begun":
        (tmp_path / f"{name()}.partial").write_bytes(killed.read_bytes().partition(b"\n")[0] + b"\n")
    elif case == "done":
        (tmp_path / name()).touch()
    else:
        left = killed.rename(tmp_path / f"{name(2)}.partial")
    summary = await run(tmp_path, heard)
    assert (summary.output, summary.done, summary.resumed) == (str(tmp_path / name()), ROWS, 0)
    if case == "at work":
        holder.close()
    assert left.exists(), "what is done is kept"
    wanted = (
        []
        if case in {"another plan", "at work"}
        else [f"{str(left).removesuffix('.partial')} did not end: a batch with that output"]
    )
    assert [notice.partition(" continues it")[0] for notice in heard.notices] == wanted


def test_a_run_of_a_schedule_is_that_of_its_night(vendors, tmp_path, killed, monkeypatch):
    work = batch_of(tmp_path / "prompts.csv", tmp_path / name(), config=CONFIG)
    address = str(tmp_path / "answers-{date}.jsonl")
    assert [found.resumes for found in unfinished(address, work.plan(), day_of_run())] == [True]
    monkeypatch.setattr(module.flow_run, "tags", ["night", "auto-scheduled"], raising=False)
    assert [found.resumes for found in unfinished(address, work.plan(), day_of_run())] == [False]


async def test_an_output_in_a_store(vendors, tmp_path):
    serve(vendors)
    from consensus_flows.tasks.batches.addresses import journal_path
    from consensus_flows.tasks.batches.journal import Journal

    address = "memory://midnight/answers-{date}.jsonl"
    work = batch_of(prompts(tmp_path, 2), tmp_path / "x.jsonl", config=CONFIG)
    before = f"memory://midnight/{name(1)}"
    Journal(journal_path(before), work.plan(), work.source.inspect().sha256).close()
    summary = await batch(str(tmp_path / "prompts.csv"), address, flow="pump", config=CONFIG)
    assert summary.output == before and not journal_path(before).exists()


def test_the_shards_of_the_day_before(tmp_path):
    address = str(tmp_path / "answers-{date}.jsonl")
    folder = tmp_path / f"{name(1)}.shards-abc"
    assert unfinished_shards(address, ".shards-abc", day_of_run()) is None
    folder.mkdir()
    (folder / "0001-of-0002.jsonl.done").write_text("{}")
    found = unfinished_shards(address, ".shards-abc", day_of_run())
    assert found is not None and found.output == str(tmp_path / name(1))
    assert (
        unfinished_shards(address, ".shards-other", day_of_run()) is None
        and unfinished_shards(str(tmp_path / "a.jsonl"), "", day_of_run()) is None
    )
    then = time.time() - module.AT_WORK_S - 60
    os.utime(folder / "0001-of-0002.jsonl.done", (then, then))
    assert unfinished_shards(address, ".shards-abc", day_of_run()) is None
    os.utime(folder / "0001-of-0002.jsonl.done")
    (tmp_path / name()).touch()
    assert unfinished_shards(address, ".shards-abc", day_of_run()) is None
