"""What a person sees of a batch while it goes on."""

from rich.console import Console

from consensus_flows.deployments.batch_view import BatchCounts, BatchLines, BatchTable
from consensus_flows.tasks.batches.results import RowResult
from consensus_flows.tasks.batches.summary import Progress
from consensus_flows.tasks.record import Response


async def test_the_live_view_counts(capsys):
    view = BatchTable()
    call = {
        "member": "openai/a#1",
        "provider": "openai",
        "model": "a",
        "latency_s": 2.0,
        "attempts": 1,
        "cost_usd": 0.5,
    }
    progress = Progress(algorithm="vote", wanted=10, resumed=4)
    await view.on_event("batch_started", progress)
    await view.on_event("answered", Response(**call, text="x"))
    await view.on_event("answered", Response(**call | {"attempts": 0}, text="x"))
    for status, text in (("finished", "x"), ("failed", None), ("not_started", None)):
        row = RowResult(id="1", status=status, answer=text, degraded=status == "finished").model_dump()
        progress.add(row)
        await view.on_event("row", row)
    counts: BatchCounts = view._counts
    assert "6 of 10 rows · 1 failed, 1 degraded · 1 call sent, 1 from the cache · $0.5000" in counts.line()
    assert counts.models == {"openai/a": [1, 0, 2.0]}
    await view.on_event("batch_ended", None)
    view.close()


async def test_calls_without_a_batch_are_no_rows():
    view = BatchLines()
    call = {"member": "openai/a#1", "provider": "openai", "model": "a", "latency_s": 2.0, "attempts": 1}
    await view.on_event("answered", Response(**call, cost_usd=0.5, text="x"))
    assert view._counts.line().startswith("1 call sent, 0 from the cache · $0.5000")


SHARD = {"done": 3, "failed": 1, "degraded": 2, "sent_calls": 9, "cached_calls": 3, "cost_usd": 0.25}
SHARD |= {"known_cost_usd": 0.25, "unpriced_calls": 0, "possibly_billed": 0}


async def test_the_views_of_a_batch_in_shards(capsys):
    table, lines = BatchTable(), BatchLines()
    progress = Progress(algorithm="vote", wanted=8)
    for view in (table, lines):
        await view.on_event("batch_started", progress)
        await view.on_event("notice", "1 of 2 shards wait")
    assert "1 of 2 shards wait" in capsys.readouterr().err
    shown = Console(width=120)
    with shown.capture() as captured:
        shown.print(table._shown())
    assert "! 1 of 2 shards wait" in captured.get() and "mean s" not in captured.get()
    progress.add_shard(SHARD)
    for view in (table, lines):
        await view.on_event("shard", SHARD)
        counts: BatchCounts = view._counts
        assert "4 of 8 rows · 1 failed, 2 degraded · 9 calls sent, 3 from the cache · $0.2500" in counts.line()
    assert "4 of 8 rows" in capsys.readouterr().err, "every shard is a line"
    with shown.capture() as captured:
        shown.print(table._shown())
    assert "4/8" in captured.get() and "wait" not in captured.get()
    table.close()


async def test_lines_are_told_too_while_long_rows_go_on(capsys, monkeypatch):
    monkeypatch.setattr("consensus_flows.deployments.batch_view.EVERY_S", -1.0)
    view = BatchLines()
    await view.on_event("batch_started", Progress(algorithm="vote", wanted=8))
    await view.on_event(
        "answered", Response(member="openai/a#1", provider="openai", model="a", attempts=1, text="x", latency_s=1.0)
    )
    assert "0 of 8 rows" in capsys.readouterr().err
