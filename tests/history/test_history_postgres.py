"""The same history in PostgreSQL, where its programs are installed."""

from datetime import timedelta

import pytest

from consensus_flows.tasks.history import pruning
from consensus_flows.tasks.history.database import Database
from consensus_flows.tasks.history.reading import Filter, latest, list_runs, model_stats, named, read_run
from consensus_flows.tasks.history.writing import Conversation, close_writers, writer_of
from tests.kits.history_kit import START, entry, in_processes, record, written
from tests.kits.postgres import INSTALLED, create, postgres

RUNS, CALLS = 20, 10

pytestmark = pytest.mark.skipif(not INSTALLED, reason="PostgreSQL is not installed")


@pytest.fixture(scope="module")
def server():
    with postgres() as address:
        yield address


@pytest.fixture
def url(server, request):
    """Return the address of an empty database."""
    yield create(server, "".join(char for char in request.node.name if char.isalpha()))
    close_writers()


def test_concurrent_runs_in_processes_lose_no_row(url):
    """Each finds a database without tables, and wants to make them."""
    code = f"""
made = [entry(record(f"run-{{number}}-{{n}}", calls={CALLS})) for n in range(5)]
go()
[one.result(60) for one in [writer_of({url!r}).write(one) for one in made]]
close_writers()
"""
    in_processes(RUNS // 5, code, url)
    database = Database(url)
    found = database.read(lambda connection: list_runs(connection, Filter(), 100))
    stats = database.read(lambda connection: model_stats(connection, Filter()))
    database.close()
    assert len(found) == RUNS
    assert sum(one.calls for one in stats) == RUNS * CALLS
    assert sum(one.failures for one in stats) == RUNS


def test_all_that_is_asked_of_it(url):
    odd = "half \ud83d and zero \x00 and 日本"
    seen = Conversation()
    assert writer_of(url).write(entry(record("a", prompt=odd), in_=seen)).result(30) == "a"
    database = Database(url)
    after = database.read(latest)
    assert (after.id, after.parent) == (seen.id, "a")
    written(database, entry(record("b", calls=4), after=10, in_=after))
    assert database.read(lambda connection: named(connection, "a")).parent == "a"
    assert database.read(lambda connection: named(connection, seen.id[:8])).parent == "b"
    row, document = database.read(lambda connection: read_run(connection, "b"))
    assert row["started_at"] == "2026-01-31T08:00:10+00:00"
    assert document["conversation_id"] == seen.id
    for wanted in (Filter(model="openai/m2", since=START), Filter(status="confident", flow="consortium")):
        assert [one["id"] for one in database.read(lambda c, w=wanted: list_runs(c, w, 10))] == ["b", "a"]
    found = {one.model: one for one in database.read(lambda connection: model_stats(connection, Filter(model="m2")))}
    assert (found["openai/m2"].wins, found["openai/m2"].agreement) == (2, 1.0)
    database.close()


def test_the_old_is_deleted_and_a_conversation_that_goes_on_is_kept(url):
    """In slices of two, through an address as hosted databases give it."""
    database = Database(f"{url}?sslmode=prefer")
    going_on, ended = Conversation(), Conversation()
    written(database, *(entry(record(f"old-{n}", calls=4), after=n) for n in range(3)))
    written(database, entry(record("ended-1"), after=5, in_=ended))
    written(database, entry(record("ended-2"), after=6, in_=Conversation(ended.id, "ended-1")))
    written(database, entry(record("going-1"), after=7, in_=going_on))
    written(database, entry(record("going-2"), after=864000, in_=Conversation(going_on.id, "going-1")))
    before = START + timedelta(days=5)
    expected = pruning.Pruned(runs=5, calls=32, kept=1)
    assert database.read(lambda connection: pruning.count_old(connection, before)) == expected
    assert pruning.prune(database, before) == expected
    left = database.read(lambda connection: list_runs(connection, Filter(), 100))
    assert [one["id"] for one in left] == ["going-2", "going-1"]
    assert database.read(latest).id == going_on.id
    database.shrink()
    database.close()
