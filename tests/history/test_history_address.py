"""Where the history is: the environment, then a block of the server, then a file; asked once, and never told to anybody."""

import asyncio
import json
import logging
import os
import sqlite3
import time
from pathlib import Path

import pytest
from prefect.settings import get_current_settings

from consensus_flows.blocks import HistoryDatabase
from consensus_flows.blocks.history import HISTORY_BLOCK
from consensus_flows.flows.consortium import consortium
from consensus_flows.tasks import recording
from consensus_flows.tasks.batches.frames import kept
from consensus_flows.tasks.errors import HistoryError
from consensus_flows.tasks.history import address
from consensus_flows.tasks.history.database import Database, shown
from consensus_flows.tasks.history.writing import close_writers
from tests.kits.command_kit import commands
from tests.kits.consortium_kit import config, judged
from tests.kits.history_kit import entry, record, rows, written

PASSWORD = "p@ss/word-of-nobody"
URL = "postgresql://me:p%40ss%2Fword-of-nobody@127.0.0.1:1/runs?sslmode=prefer&options=hidden-too"


@pytest.fixture(autouse=True)
def unset(monkeypatch, results):
    """Nothing is given and nothing was asked; the block that a test saves goes with it."""
    monkeypatch.delenv("CONSENSUS_HISTORY_URL", raising=False)
    address.saved.clear()
    yield
    close_writers()
    address.saved.clear()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "by-block.db"


@pytest.fixture
async def block(file):
    await HistoryDatabase(url=f"sqlite:///{file}").save(HISTORY_BLOCK, overwrite=True)
    yield file
    await HistoryDatabase.adelete(HISTORY_BLOCK)


@pytest.fixture
def asked(monkeypatch):
    """How often the server was asked."""
    times = []
    read = address._read_block

    async def counted():
        times.append(1)
        return await read()

    monkeypatch.setattr(address, "_read_block", counted)
    return times


async def test_the_block_names_the_database_and_is_read_once(block, asked, vendors):
    vendors.script("arbiter", then=judged(90))
    made = await asyncio.gather(*(consortium(f"Question {number}?", config()) for number in range(4)))
    await consortium("One more?", config())
    assert len(asked) == 1
    assert rows(block, "SELECT count(*) FROM runs") == [(5,)]
    assert not any(warning.kind == "not_recorded" for one in made for warning in one.warnings)
    assert address.source() == f"block {HISTORY_BLOCK}"


async def test_the_environment_comes_before_the_block(block, asked, monkeypatch, tmp_path):
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{tmp_path}/given.db")
    assert await address.find_address() == f"sqlite:///{tmp_path}/given.db"
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", "off")
    assert await address.find_address() is None
    assert not asked


async def test_without_a_block_it_is_the_file_and_the_server_is_asked_once(asked):
    for _ in range(3):
        assert await address.find_address() == get_current_settings().home / address.FILE
    assert len(asked) == 1
    assert address.source() == "default"


async def test_a_server_that_does_not_say_is_a_warning_and_no_other_history(vendors, monkeypatch):
    async def refused(*_, **__):
        raise ConnectionError(f"could not read {URL}")

    monkeypatch.setattr("prefect.client.orchestration.PrefectClient.read_block_document_by_name", refused)
    vendors.script("arbiter", then=judged(90))
    made = await consortium("What?", config())
    assert made.answer is not None
    (warning,) = [one.message for one in made.warnings if one.kind == "not_recorded"]
    assert "could not be asked" in warning and "ConnectionError" in warning and "word-of-nobody" not in warning
    assert not address.saved  # the next run asks again


async def test_a_server_that_never_answers_holds_no_run_up(vendors, monkeypatch):
    async def silent(*_, **__):
        await asyncio.sleep(3600)

    monkeypatch.setattr("prefect.client.orchestration.PrefectClient.read_block_document_by_name", silent)
    monkeypatch.setattr(recording, "WAIT_S", 0.5)
    vendors.script("arbiter", then=judged(90))
    async with asyncio.timeout(30):
        made = await consortium("What?", config())
    assert made.answer is not None
    (warning,) = [one.message for one in made.warnings if one.kind == "not_recorded"]
    assert "it took longer than" in warning


async def test_a_password_is_never_told(vendors, caplog):
    """Nobody listens at the address, so the driver complains."""
    url = URL.partition("&")[0]
    await HistoryDatabase(url=url).save(HISTORY_BLOCK, overwrite=True)
    vendors.script("arbiter", then=judged(90))
    try:
        with caplog.at_level(logging.DEBUG):
            made = await consortium("What?", config())
            assert made.answer is not None
            (warning,) = [one.message for one in made.warnings if one.kind == "not_recorded"]
            assert "127.0.0.1:1/runs" in warning
            assert "me:***@" in shown(await address.find_address())
            told = caplog.text + json.dumps(made.model_dump(mode="json")) + repr(HistoryDatabase(url=URL))
            told += shown(URL)
        from prefect.client.orchestration import get_client

        async with get_client() as client:
            kept = await client.read_block_document_by_name(
                HISTORY_BLOCK, HistoryDatabase.get_block_type_slug(), include_secrets=False
            )
        told += json.dumps(kept.data)
    finally:
        await HistoryDatabase.adelete(HISTORY_BLOCK)
    for secret in ("word-of-nobody", "hidden-too"):
        assert secret not in told


@pytest.mark.parametrize(
    "said",
    [
        f"password {PASSWORD} was refused",
        "dsn postgresql://me:p%40ss%2Fword-of-nobody@127.0.0.1/runs",
        "options=hidden-too",
    ],
)
def test_what_a_driver_quotes_is_redacted(said, monkeypatch):
    database = Database(URL)

    def fail(*_, **__):
        raise OSError(said)

    monkeypatch.setattr(database, "_transact", fail)
    with pytest.raises(HistoryError) as caught:
        database.open()
    database.close()
    assert "word-of-nobody" not in str(caught.value) and "hidden-too" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "runs.db", "me:hush@host/name", "://hush@x"])
def test_an_address_that_is_none_is_refused_without_being_quoted(url):
    with pytest.raises(ValueError, match="not a database URL") as caught:
        HistoryDatabase(url=url)
    assert "hush" not in str(caught.value)


@pytest.fixture
def consensus(monkeypatch, capsys, prefect_server):
    return commands(monkeypatch, capsys)


def test_commands_set_use_and_remove_it(consensus, file, monkeypatch):
    monkeypatch.setenv("MY_DATABASE", f"sqlite:///{file}\n")
    done = consensus("history", "set", "--from-env", "MY_DATABASE")
    assert done.code == 0 and f"sqlite:///{file}" in done.err
    database = Database(file)
    written(database, entry(record("run-1")))
    database.close()
    for forget in (False, True):
        if forget:
            address.saved.clear()  # as in another process
        listed = consensus("runs", "--json")
        assert [one["id"] for one in json.loads(listed.out)] == ["run-1"]
    assert f"1 run in sqlite:///{file} (block consensus-history)" in consensus("check", "--offline").out
    assert consensus("run", "run-1", "--json").code == 0
    assert consensus("history", "remove").code == 0
    assert consensus("history", "remove").code == 2
    assert "(default)" in consensus("check", "--offline").out
    assert file.exists()


def test_a_database_that_cannot_be_used_is_not_saved(consensus):
    plain = URL.partition("&")[0]
    for url, said in (
        (plain, "127.0.0.1:1"),
        (URL, "knows no setting 'options'"),
        ("nonsense://me:hush@x/y", "not a valid database URL"),
        ("", "no address"),
    ):
        done = consensus("history", "set", stdin=url + "\n")
        assert done.code == 2 and said in done.err
        assert "hush" not in done.err and "word-of-nobody" not in done.err
    assert consensus("history", "remove").code == 2


def test_prune_deletes_the_old_and_keeps_conversations_that_go_on(consensus, file, monkeypatch):
    from consensus_flows.tasks.history.reading import latest

    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{file}")
    from consensus_flows.tasks.history.writing import Conversation

    database = Database(file)
    going_on, ended = Conversation(), Conversation()
    written(database, entry(record("old-1"), after=0), entry(record("old-2", calls=4), after=1))
    written(database, entry(record("ended-1"), after=2, in_=ended))
    written(database, entry(record("ended-2"), after=3, in_=Conversation(ended.id, "ended-1")))
    written(database, entry(record("going-1"), after=4, in_=going_on))
    now = 100 * 365 * 86400
    written(database, entry(record("going-2"), after=now, in_=Conversation(going_on.id, "going-1")))
    size = file.stat().st_size + Path(f"{file}-wal").stat().st_size
    tried = consensus("history", "prune", "--older-than", "30d", "--dry-run")
    assert "would delete 4 runs and 34 calls; 1 as old are kept" in tried.out
    assert rows(file, "SELECT count(*) FROM runs") == [(6,)]
    done = consensus("history", "prune", "--older-than", "30d")
    assert "deleted 4 runs and 34 calls; 1 as old are kept" in done.out, done
    assert rows(file, "SELECT id FROM runs ORDER BY id") == [("going-1",), ("going-2",)]
    assert rows(file, "SELECT run_id FROM turns ORDER BY 1") == [("going-1",), ("going-2",)]
    assert rows(file, "SELECT id FROM conversations") == [(going_on.id,)]
    assert rows(file, "SELECT DISTINCT run_id FROM calls ORDER BY 1") == [("going-1",), ("going-2",)]
    assert rows(file, "SELECT DISTINCT run_id FROM iterations ORDER BY 1") == [("going-1",), ("going-2",)]
    assert rows(file, "PRAGMA foreign_key_check") == []
    assert len(database.read(latest).messages) == 4
    # Nothing of a deleted run is left in the file, and a second time there is nothing to do.
    database.close()
    assert b"old-1" not in file.read_bytes() and file.stat().st_size < size
    assert "deleted 0 runs" in consensus("history", "prune", "--older-than", "30d").out


def test_prune_works_in_slices(file, monkeypatch):
    from datetime import UTC, datetime

    from consensus_flows.tasks.history import pruning

    monkeypatch.setattr(pruning, "AT_ONCE", 3)
    database = Database(file)
    written(database, *(entry(record(f"run-{n}", calls=2), after=n) for n in range(10)))
    assert pruning.prune(database, datetime.now(UTC)) == pruning.Pruned(10, 20, 0)
    database.close()


def test_a_turn_whose_parent_was_deleted_meanwhile_is_written(file):
    from consensus_flows.tasks.history.writing import Conversation

    database = Database(file)
    written(database, entry(record("late"), in_=Conversation("gone", "deleted-run")))
    assert rows(file, "SELECT run_id, parent_id FROM turns") == [("late", None)]
    database.close()


@pytest.mark.parametrize("given", ["90", "yesterday", "2026-01-31", "-3d", "9999999999w"])
def test_an_age_that_is_none_is_refused(consensus, given, tmp_path):
    for command in (["history", "prune"], ["cache", "prune"]):
        done = consensus(*command, f"--older-than={given}")
        assert done.code == 2 and "--older-than" in done.err


def test_runs_until(consensus, file, monkeypatch):
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{file}")
    database = Database(file)
    written(database, entry(record("first")), entry(record("second"), after=86400))
    database.close()
    listed = consensus("runs", "--until", "2026-02-01T06:00", "--json")
    assert [one["id"] for one in json.loads(listed.out)] == ["first"]
    (one,) = json.loads(consensus("stats", "--until", "2026-02-01T06:00", "--model", "m2", "--json").out)
    assert one["runs"] == 1
    done = consensus("runs", "--since", "2026-02-02", "--until", "2026-02-01")
    assert done.code == 2 and "is not before" in done.err
    assert "--until 'soon'" in consensus("runs", "--until", "soon").err


def test_old_answers_are_deleted_and_nothing_else(consensus, results):
    folder = Path(results)
    old = time.time() - 40 * 86400
    for name in ("answer-old", "answer-older.rejected", "answer-new", "0f0f0f-a-flow"):
        (folder / name).write_text("x" * 1000)
        if "new" not in name:
            os.utime(folder / name, (old, old))
    assert "would delete 2 answers, 0.0 MB" in consensus("cache", "prune", "--older-than", "30d", "--dry-run").out
    assert len(list(folder.iterdir())) == 4
    assert "deleted 2 answers" in consensus("store", "prune", "--older-than", "30d").out
    assert sorted(path.name for path in folder.iterdir()) == ["0f0f0f-a-flow", "answer-new"]
    (folder / "0f").mkdir()
    for name in ("answer-0fold", "0f-a-flow"):
        (folder / "0f" / name).write_text("x" * 1000)
        os.utime(folder / "0f" / name, (old, old))
    assert "deleted 1 answer" in consensus("cache", "prune", "--older-than", "30d").out
    assert [path.name for path in (folder / "0f").iterdir()] == ["0f-a-flow"]


def test_old_inputs_that_were_piped_are_deleted(consensus):
    old = time.time() - 40 * 86400
    again, gone, new = (Path(kept(text, ".csv")) for text in (b"again", b"gone", b"new"))
    for path in (again, gone):
        os.utime(path, (old, old))
    assert kept(b"again", ".csv") == str(again)
    assert f"deleted 1 file, 0.0 MB, in {gone.parent}" in consensus("cache", "prune", "--older-than", "30d").out
    assert (again.exists(), gone.exists(), new.exists()) == (True, False, True), "an input of a late run stays"


def test_a_reader_and_a_program_like_datasette_see_rows_while_a_run_writes(file):
    """In WAL a reader that opens the file read-only sees what was committed, and hinders no writer."""
    database = Database(file)
    written(database, entry(record("run-1")))
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as reader:
        assert reader.execute("SELECT count(*) FROM runs").fetchone() == (1,)
        written(database, entry(record("run-2"), after=1))
        assert reader.execute("SELECT count(*) FROM runs").fetchone() == (2,)
    database.close()
