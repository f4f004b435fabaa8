"""A batch that is killed at any moment and started again pays for nothing twice, but for what was under way."""

import json
import random
import time
from pathlib import Path

import pytest

from tests.kits.batch_kit import THREE, environment_of, kill_when, prompts, read, same, serve, start
from tests.vendors import LoopbackVendors, Reply, Usage
from tests.vendors.script import CLIENT_GONE

ROWS, MEMBERS, CONCURRENCY = 24, 3, 4
CALLS = ROWS * MEMBERS


@pytest.fixture
def environment(results, vendors, tmp_path) -> dict[str, str]:
    return environment_of(tmp_path)


def stored(environment: dict[str, str]) -> int:
    """Answers in the store that are whole."""
    folder = Path(environment["PREFECT_RESULTS_LOCAL_STORAGE_PATH"])
    return sum(path.read_bytes().endswith(b"}") for path in folder.rglob("answer-*")) if folder.is_dir() else 0


def settled(vendors: LoopbackVendors) -> int:
    """How many requests have been begun, once the server knows which clients are gone."""
    deadline = time.monotonic() + 10
    while vendors.in_flight and time.monotonic() < deadline:
        time.sleep(0.01)
    assert vendors.in_flight == 0
    return vendors.count()


def finished(journal: Path) -> set[str]:
    """The prompts of the rows that a killed run has entered."""
    if not journal.exists():
        return set()
    lines = [json.loads(line) for line in journal.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    return {line["own"]["prompt"] for line in lines if "row" in line}


def ended(journal: Path) -> int:
    """How many calls a killed run has entered as answered: each was stored before."""
    lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
    calls = [json.loads(line) for line in lines if line.startswith(b'{"call": ') and line.endswith(b"\n")]
    return sum(call["error"] is None for call in calls)


def killed_and_resumed(
    vendors: LoopbackVendors, environment: dict[str, str], folder: Path, moments: list[int], word: str
) -> None:
    """Kill a batch each time it has sent so many requests, then let it end, and look at what was paid."""
    serve(vendors, delay=0.1)
    source, out = prompts(folder, ROWS, f"{word}.csv", word=word), folder / f"{word}.jsonl"
    journal = Path(f"{out}.partial")
    arguments = [source, "-o", out, *THREE, "--concurrency", CONCURRENCY, "--json"]
    begun, kept = vendors.count(), stored(environment)
    in_flight, done = 0, set[str]()
    for number, moment in enumerate(moments, 1):
        before = len(vendors.seen)
        process = start(arguments, environment)
        if not kill_when(process, lambda m=moment: vendors.count() - begun >= m):
            break  # it had ended before
        sent = settled(vendors)
        # Begun and not answered, or answered in the moment of the kill and not yet in the store.
        in_flight = (sent - begun) - (stored(environment) - kept)
        assert stored(environment) - kept >= ended(journal) >= moment - number * CONCURRENCY * MEMBERS
        asked = {seen.prompt for seen in vendors.seen[before:]}
        assert not asked & done, "a finished row is not asked again"
        done = finished(journal)
        if journal.exists():
            with journal.open("ab") as file:
                file.write(b'{"row": 7, "digest": "')
    last_from = len(vendors.seen)
    process = start(arguments, environment)
    printed, err = process.communicate(timeout=110)
    assert process.returncode == 0, err.decode()
    summary = json.loads(printed)
    assert not {seen.prompt for seen in vendors.seen[last_from:]} & done
    sent = vendors.count() - begun
    unanswered = sum(seen.status == CLIENT_GONE for seen in vendors.seen[-sent:])
    print(json.dumps({"kills": moments, "requests": sent, "clean": CALLS, "lost": in_flight, "unanswered": unanswered}))
    assert CALLS <= sent <= CALLS + in_flight
    assert in_flight <= len(moments) * CONCURRENCY * MEMBERS
    rows = read(out)
    assert [row["answer"] for row in rows] and [row["id"] for row in rows] == [f"r{n}" for n in range(ROWS)]
    assert (summary["rows"], summary["done"], summary["resumed"]) == (ROWS, ROWS, len(done))
    # A request is entered before it goes out, so that one or the other was killed in between.
    assert sent <= summary["sent_calls"] <= sent + len(moments) * CONCURRENCY * MEMBERS, "the bill is of all runs"
    assert summary["sent_calls"] - CALLS <= summary["possibly_billed"] + in_flight
    assert not journal.exists()
    undisturbed = folder / f"{word}-again.jsonl"
    process = start([source, "-o", undisturbed, *THREE, "--json"], environment)
    printed, err = process.communicate(timeout=110)
    assert process.returncode == 0, err.decode()
    assert same(read(undisturbed)) == same(rows) and vendors.count() - begun == sent, "nothing is sent again"


@pytest.mark.timeout(300)
def test_killed_three_times_on_the_way(environment, vendors, tmp_path):
    moments = sorted(random.Random(4).sample(range(4, CALLS - 4), 3))
    killed_and_resumed(vendors, environment, tmp_path, moments, "thrice")


@pytest.mark.chaos
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", range(5))
def test_killed_at_twenty_random_moments(environment, vendors, tmp_path, seed):
    """Four in each of five batches."""
    moments = sorted(random.Random(100 + seed).sample(range(1, CALLS), 4))
    killed_and_resumed(vendors, environment, tmp_path, moments, f"seed-{seed}")


@pytest.mark.timeout(240)
def test_the_bill_in_dollars_is_of_both_runs(environment, vendors, tmp_path):
    vendors.script("gpt-4o-mini", then=Reply(text="so", delay=0.1, usage=Usage(input=1000, output=1000)))
    source, out = prompts(tmp_path, 8), tmp_path / "out.jsonl"
    arguments = [source, "-o", out, "--flow", "pump", "-m", "openai/gpt-4o-mini", "--concurrency", 1, "--json"]
    journal = Path(f"{out}.partial")
    process = start(arguments, environment)
    assert kill_when(process, lambda: journal.exists() and b'"row": 3' in journal.read_bytes())
    first = settled(vendors)
    process = start(arguments, environment)
    printed, err = process.communicate(timeout=110)
    assert process.returncode == 0, err.decode()
    summary = json.loads(printed)
    each = (1000 * 0.15 + 1000 * 0.6) / 1e6
    assert 4 <= first < 8 and vendors.count() <= summary["sent_calls"] in {8, 9}
    assert summary["cost_usd"] == pytest.approx((summary["sent_calls"] - summary["possibly_billed"]) * each)
    assert sum(row["cost_usd"] > 0 for row in read(out)) >= 7
