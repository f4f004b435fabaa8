"""The history: no row is lost, a broken history loses no answer, and what is in it can be read again."""

import asyncio
import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial

import pytest
from sqlalchemy import event

from consensus_flows.flows.consortium import consortium
from consensus_flows.tasks.errors import HistoryError, QuorumError
from consensus_flows.tasks.history.address import FILE, known_address
from consensus_flows.tasks.history.database import Database, metadata, newest_revision
from consensus_flows.tasks.history.reading import Filter, list_batches, list_runs, model_stats, nearest_rank, read_run
from consensus_flows.tasks.history.writing import (
    BATCH,
    PART,
    BatchEntry,
    Conversation,
    agreement_with_answer,
    call_rows,
    close_writers,
    continuing,
    run_row,
    save,
    save_batch,
    won,
    writer_of,
)
from consensus_flows.tasks.record import Record
from consensus_flows.tasks.recording import record_runs
from consensus_flows.tasks.watch import emit, watched_by
from tests.kits.consortium_kit import config, judged
from tests.kits.history_kit import ROOT, entry, failed, in_processes, record, response, rows, written
from tests.kits.kinds import kinds
from tests.vendors import Reply, faults

RUNS, CALLS = 20, 10


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    """A history of the test's own."""
    path = tmp_path / "history.db"
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{path}")
    yield path
    close_writers()


@pytest.fixture
def database(file):
    made = Database(file)
    yield made
    made.close()


def nothing_lost(file):
    assert rows(file, "SELECT count(*) FROM runs") == [(RUNS,)]
    assert rows(file, "SELECT count(*), sum(error_kind IS NOT NULL) FROM calls") == [(RUNS * CALLS, RUNS)]
    per_run = rows(file, "SELECT count(*), min(position), max(position) FROM calls GROUP BY run_id")
    assert per_run == [(CALLS, 1, CALLS)] * RUNS
    assert rows(file, "SELECT count(*) FROM iterations") == [(RUNS,)]
    assert rows(file, "PRAGMA integrity_check") == [("ok",)]


def test_concurrent_runs_in_processes_lose_no_row(file):
    """Each makes its own connection to a file that none of them has made yet."""
    code = f"""
made = [entry(record(f"run-{{number}}-{{n}}", calls={CALLS})) for n in range(2)]
go()
done = [writer_of(url_of_test).write(one) for one in made]
[one.result(60) for one in done]
close_writers()
""".replace("url_of_test", repr(f"sqlite:///{file}"))
    in_processes(RUNS // 2, code, f"sqlite:///{file}")
    nothing_lost(file)


def test_concurrent_runs_in_threads_lose_no_row(file):
    """Half of them through the writer of the process, half each through a connection of its own."""
    gate = threading.Barrier(RUNS)

    def run(number):
        one = entry(record(f"run-{number}", calls=CALLS))
        gate.wait()
        if number % 2:
            return writer_of(file).write(one).result(60)
        database = Database(file)
        try:
            return database.write(lambda connection: save(connection, one))
        finally:
            database.close()

    with ThreadPoolExecutor(RUNS) as pool:
        assert sorted(pool.map(run, range(RUNS))) == sorted(f"run-{number}" for number in range(RUNS))
    close_writers()
    nothing_lost(file)


async def test_concurrent_flows_lose_no_row(file, results, vendors):
    vendors.script("arbiter", then=judged(90))
    vendors.script("two", then=faults.unauthorized())
    records = await asyncio.gather(*(consortium(f"Question {number}?", config(quorum=2)) for number in range(6)))
    assert rows(file, "SELECT count(*) FROM runs") == [(6,)]
    assert rows(file, "SELECT role, count(*) FROM calls GROUP BY role") == [("judge", 6), ("member", 18)]
    assert rows(file, "SELECT member, error_kind, count(*) FROM calls WHERE error IS NOT NULL") == [
        ("openai/two#1", "auth", 6)
    ]
    stored = dict(rows(file, "SELECT id, record FROM runs"))
    for one in records:
        assert json.loads(stored[one.flow_run_id]) == one.model_dump(mode="json")
    assert not any(warning.kind == "not_recorded" for one in records for warning in one.warnings)


def test_a_batch_that_another_one_continues_was_killed(file, database):
    def batch(run_id, status="running", output="/a.jsonl", flow=BATCH):
        return BatchEntry(flow, run_id, status, "/in.csv", output, {}, datetime.now(UTC))

    made = [
        batch("killed"),
        batch("other", output="/b.jsonl"),
        batch("part", flow=PART),
        batch("stopped", "interrupted"),
    ]
    made += [batch("next"), batch("next", "finished")]
    for one in made:
        database.write(partial(save_batch, entry=one))
    found = dict(rows(file, "SELECT id, status FROM runs"))
    stay = {"other": "running", "part": "running", "stopped": "interrupted", "next": "finished"}
    assert found == {"killed": "killed"} | stay


def test_a_new_file_is_private_and_has_all_tables(file, database):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    written(database, entry())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert rows(file, "PRAGMA journal_mode") == [("wal",)]
    assert database.read(lambda connection: compare_metadata(MigrationContext.configure(connection), metadata)) == []
    assert rows(file, "SELECT version_num FROM alembic_version") == [(newest_revision(),)]


def test_the_newest_migration_is_the_one_that_is_looked_for():
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    settings = Config()
    settings.set_main_option("script_location", str(ROOT / "tasks/history/migrations"))
    assert ScriptDirectory.from_config(settings).get_heads() == [newest_revision()]


def test_a_history_of_a_newer_version_is_left_alone(file, database):
    written(database, entry())
    database.close()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(HistoryError, match="another version"):
        Database(file).write(lambda connection: save(connection, entry(record("run-2"))))
    assert rows(file, "SELECT count(*) FROM runs") == [(1,)]


def test_by_default_it_is_in_the_home_folder_of_prefect(monkeypatch):
    from prefect.settings import get_current_settings

    monkeypatch.delenv("CONSENSUS_HISTORY_URL")
    assert known_address() == get_current_settings().home / FILE
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", "off")
    assert known_address() is None


def test_sqlalchemy_is_imported_only_by_the_thread_that_writes(file):
    """It costs a quarter of a second, which a run spends waiting for the models anyway."""
    code = f"""
import sys, threading, consensus_flows.deployments.cli, consensus_flows.deployments.commands.algorithms.chat, consensus_flows.flows.consortium
import pathlib, tests.kits.history_kit as kit
from consensus_flows.tasks.history.writing import close_writers, writer_of
print("sqlalchemy" in sys.modules)
class Finder:
    def find_spec(name, path=None, target=None):
        if name == "sqlalchemy":
            print(threading.current_thread().name)
sys.meta_path.insert(0, Finder)
writer_of(pathlib.Path({str(file)!r})).write(kit.entry(kit.record("run-2"))).result(30)
close_writers()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "history"]
    assert rows(file, "SELECT count(*) FROM runs") == [(1,)]


def broken_histories(file):
    """Ways in which a history cannot be written, as what the environment says."""
    Database(file).write(lambda connection: save(connection, entry()))
    yield f"sqlite:///file:{file}?mode=ro&uri=true"
    garbage = file.with_name("garbage.db")
    garbage.write_bytes(b"this is no database " * 100)
    yield f"sqlite:///{garbage}"
    yield f"sqlite:///{garbage}/in/a/file.db"
    yield "postgresql://me:secret-password@127.0.0.1:1/nowhere"
    yield "no url"
    if os.getuid() != 0:  # root writes everywhere
        file.chmod(0o400)
        yield f"sqlite:///{file}"


async def test_a_broken_history_is_a_warning_and_never_a_lost_answer(file, results, vendors, monkeypatch):
    vendors.script("arbiter", then=judged(90, "the answer"))
    for url in broken_histories(file):
        monkeypatch.setenv("CONSENSUS_HISTORY_URL", url)
        found = await consortium("What?", config())
        assert found.answer == "the answer" and found.conversation_id is None
        (warning,) = [one for one in found.warnings if one.kind == "not_recorded"]
        assert "secret-password" not in warning.message
    assert rows(file, "SELECT count(*) FROM runs") == [(1,)]


async def test_a_history_that_is_held_by_another_program_is_waited_for(file, database, results, vendors, monkeypatch):
    written(database, entry())
    vendors.script("arbiter", then=judged(90))
    holder = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    threading.Timer(1.0, holder.execute, ["COMMIT"]).start()
    assert kinds(await consortium("Long enough?", config())) == []
    monkeypatch.setattr("consensus_flows.tasks.history.database.BUSY_S", 0.2)
    close_writers()
    holder.execute("BEGIN IMMEDIATE")
    found = await consortium("Too long?", config())
    holder.execute("COMMIT")
    holder.close()
    assert found.answer is not None and "locked" in found.warnings[-1].message


async def test_a_failed_run_is_written_with_every_cause(file, results, vendors):
    for model in ("one", "two", "three"):
        vendors.script(model, then=faults.unauthorized())
    with pytest.raises(QuorumError):
        await consortium("What?", config())
    ((status, error, document),) = rows(file, "SELECT status, error, record FROM runs")
    assert status == "failed" and "openai/two" in error and json.loads(document)["error"] == error
    assert rows(file, "SELECT count(*) FROM calls WHERE error_kind = 'auth'") == [(3,)]


class AfterAnswers:
    """Tells when so many calls have ended."""

    def __init__(self, number):
        self.reached = asyncio.Event()
        self._left = number

    async def on_event(self, event, value):
        self._left -= event == "answered"
        if self._left == 0:
            self.reached.set()


async def test_a_run_that_is_interrupted_is_written_with_the_calls_it_paid_for(file, results, vendors):
    vendors.script("three", then=Reply(text="late", delay=20))
    enough = AfterAnswers(2)
    with watched_by(enough):
        running = asyncio.ensure_future(consortium("What?", config()))
    await enough.reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    ((status, error, calls),) = rows(file, "SELECT status, error, calls FROM runs")
    assert (status, error, calls) == ("failed", "the run was interrupted: CancelledError", 2)
    members = rows(file, "SELECT member FROM calls WHERE error_kind IS NULL ORDER BY member")
    assert members == [("openai/one#1",), ("openai/two#1",)]


async def test_several_records_of_one_flow_run_are_kept_apart(file):
    async def run(prompt):
        made = record("flow-run-1", prompt=prompt)
        await emit("started", made)
        await asyncio.sleep(0)
        await emit("ended", made)

    with continuing(Conversation()):
        # A flow inside another one is recorded once, by the outer one.
        async with record_runs(in_conversation=False), record_runs():
            await asyncio.gather(*(run(f"question {number}") for number in range(3)))
    ids = rows(file, "SELECT id FROM runs ORDER BY position")
    assert ids == [("flow-run-1",), ("flow-run-1-2",), ("flow-run-1-3",)]
    assert rows(file, "SELECT count(*) FROM turns") == [(0,)]
    found = await asyncio.to_thread(lambda: Database(file).read(lambda c: read_run(c, "flow-run-1")))
    assert found[0]["id"] == "flow-run-1", "the id of the first is the beginning of the others'"


async def test_one_run_that_no_database_takes_does_not_take_others_along(file, monkeypatch):
    writer = writer_of(file)
    bad = record("bad")
    bad.iterations.append(bad.iterations[0])  # two iterations of the same number
    done = [writer.write(entry(one)) for one in (record("good-1"), bad, record("good-2"))]
    assert [done[0].result(30), done[2].result(30)] == ["good-1", "good-2"]
    with pytest.raises(HistoryError, match="UNIQUE"):
        done[1].result(30)


async def test_nothing_is_written_when_the_history_is_off(file, monkeypatch):
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", "off")
    async with record_runs():
        await emit("ended", Record(flow="x", prompt="What?"))
    assert not file.exists()


def test_texts_that_databases_refuse_are_written_all_the_same(file, database):
    odd = "half \ud83d and zero \x00 and 日本"
    written(database, entry(record(prompt=odd, answer=odd)))
    ((prompt, document),) = rows(file, "SELECT prompt, record FROM runs")
    assert prompt == "half ? and zero \ufffd and 日本"
    assert json.loads(document)["answer"] == "half ? and zero \x00 and 日本"


def test_who_won_and_who_agreed():
    made = record(calls=4)
    (iteration,) = made.iterations
    lost, chosen, other = iteration.responses
    assert [won(made, iteration, one) for one in (lost, chosen, other)] == [False, True, False]
    assert agreement_with_answer(made, iteration, chosen) == 1.0
    assert agreement_with_answer(made, iteration, other) == 0.5
    assert agreement_with_answer(made, iteration, lost) is None, "a failed member agrees with nobody"
    iteration.synthesis.votes = {"2": [chosen.member], "3": [other.member]}
    iteration.synthesis.value = "2"
    assert [agreement_with_answer(made, iteration, one) for one in (chosen, other)] == [1.0, 0.0], (
        "the same value, not like words"
    )
    abstained = response(9)
    assert agreement_with_answer(made, iteration, abstained) is None
    iteration.synthesis = None
    assert agreement_with_answer(made, iteration, chosen) is None, "a list of answers is no answer to agree with"
    assert not won(made, iteration, chosen)


def test_rows_hold_what_the_record_holds():
    one = entry(record(calls=4))
    row = run_row(one, "id", 1)
    assert (row["status"], row["calls"], row["cost_usd"], row["answer"]) == ("confident", 4, 0.003, "answer 2")
    first, second, _, judge = call_rows(one, "id")
    assert (first["error_kind"], first["text"], first["role"]) == ("quota", None, "member")
    assert (second["input_tokens"], second["output_tokens"], second["won"]) == (10, 5, True)
    assert (judge["role"], judge["member"], judge["won"], judge["agreement"]) == (
        "judge",
        "openai/judge#1",
        False,
        None,
    )


def test_filters(database):
    other = record("b", flow="mixture-of-agents", status="finished")
    other.iterations[0].responses[1].provider = "openrouter"
    other.iterations[0].responses[1].model = "deepseek/deepseek-r1:free"
    written(database, entry(record("a")), entry(other, after=3600), entry(record("c", status="failed"), after=7200))

    def ids(limit=10, **wanted):
        return "".join(row["id"] for row in database.read(lambda c: list_runs(c, Filter(**wanted), limit)))

    assert ids() == "cba"
    assert ids(limit=2) == "cb"
    assert ids(flow="consortium") == "ca"
    assert ids(flow="mixture-of-agents") == "b"
    assert ids(status="failed") == "c"
    assert ids(since=entry(after=3600).started_at) == "cb"
    assert ids(model="openrouter/deepseek/deepseek-r1:free") == ids(model="deepseek/deepseek-r1:free") == "b"
    assert ids(model="openai/m2") == ids(model="m2") == "ca"
    assert ids(model="m2%") == ids(model="M2") == ""


def test_stats_of_a_model_with_a_call_that_nobody_knows_the_cost_of(database):
    lost = record("a", calls=4)
    lost.iterations[0].responses[0].cost_usd = None
    lost.iterations[0].responses[1].error, lost.iterations[0].responses[1].cost_usd = failed(2, "timeout").error, None
    written(database, entry(lost), entry(record("b", calls=4)))
    found = {one.model: one for one in database.read(lambda c: model_stats(c, Filter()))}
    assert (found["openai/m1"].cost_usd, found["openai/m2"].cost_usd) == (None, 0.001), "what is known, if anything is"


def test_stats_of_each_model(database):
    slow = record("b", calls=4)
    slow.iterations[0].responses[1] = response(2, latency_s=4.0, text="answer 2")
    slow.iterations[0].responses[2] = response(3, cached=True, latency_s=99.0, cost_usd=None)
    written(database, entry(record("a", calls=4)), entry(slow))
    found = {one.model: one for one in database.read(lambda c: model_stats(c, Filter()))}
    two = found["openai/m2"]
    assert (two.runs, two.calls, two.failures, two.wins, two.agreement) == (2, 2, 0, 2, 1.0)
    assert (two.p50_s, two.p95_s, two.cost_usd) == (0.5, 4.0, 0.002)
    assert (found["openai/m1"].failures, found["openai/m1"].p50_s) == (2, None)
    assert (found["openai/m3"].cached, found["openai/m3"].p95_s, found["openai/m3"].cost_usd) == (1, 0.5, None)
    assert found["openai/judge"].agreement is None
    assert [one.model for one in database.read(lambda c: model_stats(c, Filter(model="m2")))] == ["openai/m2"]


@pytest.mark.parametrize(("number", "share", "rank"), [(1, 0.95, 1), (4, 0.5, 2), (100, 0.95, 95), (3, 0.01, 1)])
def test_percentile_is_the_nearest_rank(number, share, rank):
    assert nearest_rank(number, share) == rank


def test_lists_and_statistics_of_millions_read_indexes_alone(database, file):
    """A record takes kilobytes, and a batch leaves as many records as it has rows."""
    written(database, entry())
    asked: list[str] = []

    def plan_of(work):
        def explained(connection):
            def note(conn, cursor, statement, parameters, *rest):
                if statement.lstrip().upper().startswith(("SELECT", "UPDATE")):
                    cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
                    asked.extend(step[3] for step in cursor.fetchall())

            event.listen(connection, "before_cursor_execute", note)
            work(connection)

        asked.clear()
        database.read(explained)
        return asked

    steps = plan_of(lambda connection: model_stats(connection, Filter()))
    assert len(steps) > 3 and all("COVERING INDEX calls_model" in one for one in steps if "calls" in one.split()[1])
    assert any("latency" not in one and "provider=? AND model=? AND error_kind=? AND cached=?" in one for one in steps)
    assert not any("TEMP B-TREE FOR ORDER BY" in one for one in steps)
    steps = plan_of(lambda connection: list_runs(connection, Filter(rows=False), 20))
    assert "SCAN runs USING INDEX runs_started_at" in steps
    assert any("COVERING INDEX runs_batches" in one for one in steps)
    assert not any("TEMP B-TREE" in one for one in steps)
    steps = plan_of(lambda connection: list_batches(connection, 20))
    assert steps == ["SCAN runs USING INDEX runs_started_at"], "which has the flow, so that no other row is read"


def test_an_abbreviation_must_fit_one_run(database):
    written(database, entry(record("aa1")), entry(record("aa2")), entry(record("b%")))
    assert database.read(lambda c: read_run(c, "b"))[0]["id"] == "b%"
    for name, message in (("aa", "aa1, aa2"), ("zz", "no run"), ("", "no run"), ("%", "no run")):
        with pytest.raises(HistoryError, match=message):
            database.read(lambda c, name=name: read_run(c, name))
