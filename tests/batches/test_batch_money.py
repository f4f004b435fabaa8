"""The money of a batch: a budget over all its runs, however they end; all of it is used; the bill hides nothing."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from consensus_flows.blocks.settings import Budget
from consensus_flows.deployments.batch_view import BatchCounts, batch_summary
from consensus_flows.flows.batching import run_batch
from consensus_flows.tasks.batches.journal import Journal
from consensus_flows.tasks.batches.summary import BatchSummary
from consensus_flows.tasks.batches.totals import Totals
from consensus_flows.tasks.calls import breaker
from consensus_flows.tasks.errors import OutputError
from consensus_flows.tasks.record import CallError, Record, Response, bill
from consensus_flows.tasks.reports.batch_report import summary_markdown
from tests.kits.batch_kit import batch_of, column, disk_full_for, environment_of, kill_when, prompts, read, serve, start
from tests.vendors import ANY, LoopbackVendors, Reply, SeenRequest, Usage, faults

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
MINI = {"members": ["openai/gpt-4o-mini"]}
LINE = {"call": "openai/a", "s": 1.0, "usd": 0.5, "requests": 2, "tokens": 30, "error": None}
PLAN: dict[str, Any] = {"flow": "pump"}


def says(usage: Any, delay: float = 0.0) -> Any:
    return lambda seen: Reply(text="x", usage=usage, delay=delay)


async def test_what_nobody_has_settled_counts_in_the_next_run_too(vendors, tmp_path):
    """A vendor that tells no usage: each answer stays booked at its worst case, in this run and in all others."""
    vendors.script(ANY, then=says("missing"))
    source, out = prompts(tmp_path, 20), tmp_path / "out.jsonl"
    for _ in range(3):
        summary = await run_batch(batch_of(source, out, concurrency=1, budget=Budget(max_tokens=20_000)))
        assert (summary.status, summary.done, vendors.count()) == ("budget", 4, 4)
    assert summary.error is not None and "20000 tokens has 3512 left" in summary.error
    assert summary.cost_usd is None and summary.possibly_billed == 0, "answered, at a price that is not known"


async def test_lost_answers_stay_booked_in_the_next_run(vendors, tmp_path, monkeypatch):
    monkeypatch.setenv("CONSENSUS_RETRIES", "1")
    monkeypatch.setattr(breaker, "ROWS", 99)  # the budget is to end it
    vendors.script(ANY, then=faults.close_before())
    source, out = prompts(tmp_path, 30), tmp_path / "out.jsonl"
    for _ in range(3):
        summary = await run_batch(batch_of(source, out, concurrency=1, config=MINI, budget=Budget(max_cost_usd=0.02)))
        assert (summary.status, vendors.count(), summary.possibly_billed) == ("budget", 8, 8)
    assert summary.cost_usd is None, "unknown, and not 0"


async def test_calls_under_way_when_a_run_is_cancelled_count(vendors, tmp_path):
    vendors.script(ANY, then=says(Usage(input=5, output=5), delay=0.5))
    source, out = prompts(tmp_path, 40), tmp_path / "out.jsonl"
    work = batch_of(source, out, concurrency=8, budget=Budget(max_calls=16))
    for sent in (8, 16, 16):
        task = asyncio.create_task(run_batch(work))
        while vendors.count() < sent and not task.done():  # noqa: ASYNC110  # the server counts in a thread of its own
            await asyncio.sleep(0.01)
        if vendors.count() < 16 or sent == 8:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    summary = await run_batch(work)
    assert (summary.status, vendors.count()) == ("budget", 16)
    assert summary.sent_calls == 16, "each that went out, also those that nobody waited for"
    assert summary.possibly_billed == 16 - summary.done and summary.models[0].errors == {
        "interrupted": 16 - summary.done
    }


def test_sigkill_gives_no_budget_back(vendors: LoopbackVendors, tmp_path: Path) -> None:
    vendors.script(ANY, then=says(Usage(input=5, output=5), delay=0.4))
    source, out = prompts(tmp_path, 40), tmp_path / "out.jsonl"
    arguments = [
        source,
        "-o",
        out,
        "--flow",
        "pump",
        "-m",
        "openai/a",
        "--concurrency",
        "4",
        "--max-calls",
        "10",
        "--json",
    ]
    environment = environment_of(tmp_path)
    for sent in (2, 6):
        assert kill_when(start(arguments, environment), lambda sent=sent: vendors.count() >= sent)
    process = start(arguments, environment)
    summary = json.loads(process.communicate(timeout=120)[0])
    assert process.returncode == 3 and summary["status"] == "budget"
    assert vendors.count() <= 10, "more than the budget was sent"
    entered = [json.loads(line) for line in Path(f"{out}.partial").read_text().splitlines()]
    assert sum("sent" in line for line in entered) == 10
    # A request may have been entered and killed before it left: never the other way round.
    assert summary["sent_calls"] == 10 and summary["possibly_billed"] >= 2
    assert summary["models"][0]["errors"] == {
        "interrupted": 10 - summary["models"][0]["calls"] + summary["possibly_billed"]
    }


async def test_a_budget_is_used_before_a_batch_ends(vendors, tmp_path):
    """Not the reservations of eight calls at once end it, but what they have really used."""
    reply = Reply(text="x", usage=Usage(input=5, output=5), delay=0.02)

    def after_the_first(seen: SeenRequest) -> Reply:
        vendors.together = 4
        return reply

    vendors.script(ANY, reply, then=after_the_first)  # the first call goes alone
    source, out = prompts(tmp_path, 60), tmp_path / "out.jsonl"
    summary = await run_batch(batch_of(source, out, concurrency=8, budget=Budget(max_tokens=20_000)))
    assert (summary.status, summary.done, vendors.count()) == ("finished", 60, 60)
    assert vendors.in_flight_peak == 4, "four worst cases of 4,122 tokens fit at once"


async def test_a_row_that_is_too_long_for_the_budget_ends_nothing_for_shorter_ones(vendors, tmp_path):
    vendors.script(ANY, then=says(Usage(input=5, output=5)))
    source, out = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    texts = ["short 0", "x" * 40_000, "short 1", "y" * 30_000, "short 2", "z" * 9000, "short 3"]
    source.write_text("".join(json.dumps({"id": f"r{n}", "prompt": text}) + "\n" for n, text in enumerate(texts)))
    summary = await run_batch(batch_of(source, out, concurrency=2, budget=Budget(max_tokens=14_000)))
    assert (summary.status, summary.done, summary.not_started, vendors.count()) == ("budget", 5, 2, 5)
    rows = read(out)
    assert [row["status"] for row in rows] == ["finished", *["not_started", "finished"] * 2, "finished", "finished"]
    assert "the call may take 44112" in rows[1]["error"]
    assert rows[3]["error"] is None, "more than half as long as one that was refused: not begun at all"
    # Given a larger budget, the same command does the rest.
    summary = await run_batch(batch_of(source, out, concurrency=2, budget=Budget(max_tokens=60_000)))
    assert (summary.status, summary.done, vendors.count()) == ("finished", 7, 7)


async def test_a_budget_that_is_used_up_begins_few_rows_in_vain(vendors, tmp_path):
    vendors.script(ANY, then=says("missing"))
    source, out = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    # Each a little shorter than the one before: all would be tried, one after the other, and cut.
    lines = [json.dumps({"id": f"r{n}", "prompt": "x" * (2000 - n)}) + "\n" for n in range(400)]
    source.write_text("".join(lines))
    summary = await run_batch(batch_of(source, out, concurrency=1, budget=Budget(max_tokens=7000)))
    assert (summary.status, summary.done, summary.not_started) == ("budget", 1, 399)
    assert sum(error is not None for error in column(out, "error")) == 1


async def test_the_bill_says_what_may_have_been_billed(vendors, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CONSENSUS_RETRIES", "1")

    def step(seen: SeenRequest) -> Reply:
        return faults.close_before() if "1?" in seen.prompt else Reply(text="x", usage=Usage(input=100, output=100))

    vendors.script(ANY, then=step)
    source, out = prompts(tmp_path, 3), tmp_path / "out.jsonl"
    summary = await run_batch(batch_of(source, out, config=MINI))
    assert summary.cost_usd == pytest.approx(2 * (100 * 0.15e-6 + 100 * 0.6e-6)) and summary.possibly_billed == 2
    assert column(out, "possibly_billed") == [0, 2, 0] and column(out, "cost_usd")[1] is None
    assert (summary.models[0].requests, summary.models[0].possibly_billed) == (4, 2)
    told = "at least $0.0001; 2 requests may have been billed"
    assert bill(summary.cost_usd, summary.possibly_billed) == told.replace("0.0001", f"{summary.cost_usd:.4f}")
    assert "at least $" in summary_markdown(summary) and "2 requests may have been billed" in summary_markdown(summary)
    batch_summary(summary, None)
    assert "2 requests may have been billed" in capsys.readouterr().err


def test_how_a_bill_is_said():
    assert bill(0.5) == "$0.5000" and bill(None) == "cost unknown"
    assert bill(0.5, 1) == "at least $0.5000; 1 request may have been billed"
    assert bill(None, 3) == "cost unknown; 3 requests may have been billed"


def test_a_record_of_lost_calls_alone_costs_nobody_knows_what():
    lost = Response(
        member="m",
        provider="openai",
        model="a",
        attempts=2,
        possibly_billed=2,
        error=CallError(kind="timeout", message="no"),
    )
    paid = Response(member="m", provider="openai", model="a", attempts=2, possibly_billed=1, cost_usd=0.5, text="x")
    counts = BatchCounts()
    for calls, cost, billed in (([lost], None, 2), ([lost, paid], 0.5, 3)):
        record = Record.model_validate(
            {"flow": "pump", "prompt": "?", "iterations": [{"number": 1, "responses": calls}]}
        )
        record.add_up()
        assert (record.cost_usd, record.possibly_billed) == (cost, billed)
    for call in (lost, paid):
        counts.note("answered", call)
    assert "at least $0.5000; 3 requests may have been billed" in counts.line()


def test_a_journal_without_requests_is_still_read(tmp_path):
    path = tmp_path / "out.partial"
    path.write_text(json.dumps({"batch": PLAN, "format": 1}) + "\n" + json.dumps(LINE) + "\n")
    journal = Journal(path, PLAN)
    assert journal.totals.spent == (2, 30, 0.5) and journal.totals.cost_usd == 0.5 and journal.totals.sent == 1
    assert journal.sent("openai/a", 100, 0.1) == 1
    journal.close()


def test_requests_are_settled_told_of_or_interrupted(tmp_path):
    path = tmp_path / "out.partial"
    journal = Journal(path, PLAN)
    numbers = [journal.sent("openai/a", 100, 0.1) for _ in range(5)]
    assert numbers == [1, 2, 3, 4, 5] and journal.totals.spent == (5, 500, pytest.approx(0.5))
    journal.settled(1, 10, 0.01, lost=False)
    journal.add_call(
        {"call": "openai/a", "s": 1, "usd": 0.01, "requests": 1, "tokens": 10, "error": None, "entries": [1]}
    )
    journal.settled(2, 20, 0.02, lost=False)  # answered, and killed before its call was entered
    journal.settled(3, None, None, lost=True)
    journal.settled(4, None, None, lost=False)
    spent = (5, 330, pytest.approx(0.33))
    assert journal.totals.spent == spent
    journal.close()
    again = Journal(path, PLAN)
    (model,) = again.totals.models()
    assert again.totals.spent == spent and again.totals.sent == 5
    assert (model.requests, model.possibly_billed, model.errors) == (5, 2, {"interrupted": 4})
    assert again.totals.cost_usd is None, "what was answered without a usage has no known price"
    assert again.sent("openai/a", 1, None) == 6, "numbers go on"
    again.close()


def test_the_bills_of_shards_are_put_together():
    one, other, old = Totals(), Totals(), Totals()
    one.add_call(LINE | {"possibly_billed": 1})
    one.add_sent({"sent": 1, "model": "openai/a", "tokens": 9, "usd": 0.1})
    one.end_interrupted()
    other.add(json.loads(json.dumps(one.dump())))
    found = one.dump()["openai/a"]
    del found["possibly_billed"]
    old.add({"openai/a": found})
    summary = BatchSummary()
    summary.add_bill(other)
    assert (summary.sent_calls, summary.cost_usd, summary.possibly_billed) == (2, 0.5, 2)
    assert (old.sent, old.possibly_billed) == (2, 0)


async def test_a_request_that_cannot_be_entered_does_not_go_out(vendors, tmp_path, monkeypatch):
    serve(vendors)

    with monkeypatch.context() as patch:
        disk_full_for(patch, "sent")
        with pytest.raises(OutputError, match="No space left"):
            await run_batch(batch_of(prompts(tmp_path, 9), tmp_path / "out.jsonl", concurrency=2))
    assert vendors.count() == 0
    with monkeypatch.context() as patch:  # the answer is paid for, and kept
        disk_full_for(patch, "settled")
        with pytest.raises(OutputError, match="No space left"):
            await run_batch(batch_of(prompts(tmp_path, 9), tmp_path / "out.jsonl", concurrency=1))
    assert vendors.count() == 1
    summary = await run_batch(batch_of(prompts(tmp_path, 9), tmp_path / "out.jsonl"))
    assert (summary.done, vendors.count(), summary.cached_calls) == (9, 9, 1)
