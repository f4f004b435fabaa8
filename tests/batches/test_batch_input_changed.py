"""An input that somebody writes to while its rows are worked on: nothing is lost in silence, nothing done is lost."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consensus_flows.blocks.settings import Budget
from consensus_flows.flows.batch import batch
from consensus_flows.flows.batching import run_batch
from consensus_flows.tasks.batches.source import Source
from consensus_flows.tasks.calls.request import Request
from consensus_flows.tasks.errors import QuorumError
from consensus_flows.tasks.record import Response
from tests.kits.batch_kit import ONE, answer, batch_of, column, environment_of, prompts, serve, start
from tests.vendors import ANY, Reply, SeenRequest

pytestmark = pytest.mark.usefixtures("results")
ROWS = 240
"""A hundred are looked at before the first call, and some 64 kB beyond."""


class Answering:
    """Answers without a vendor, and lets somebody do something to the input when so many calls have been made."""

    def __init__(self, calls: int = 0, change: Callable[[], object] = lambda: None) -> None:
        self.count = 0
        self._calls, self._change = calls, change

    async def __call__(self, request: Request, *, instance: int = 1, member: str | None = None, **_: Any) -> Response:
        self.count += 1
        if self.count == self._calls:
            self._change()
        name = member or f"{request.name}#{instance}"
        return Response(member=name, provider=request.provider, model=request.model, text="yes", cost_usd=0.0)


def left(out: Path) -> bool:
    """Whether the journal is there."""
    return out.with_name(f"{out.name}.partial").exists()


def truncated(path: Path) -> None:
    """What a job does that writes the file anew in place, and is not done."""
    os.truncate(path, path.stat().st_size * 3 // 4 + 700)


def grown(path: Path) -> None:
    with path.open("a") as file:
        file.write(json.dumps({"id": "new", "prompt": "What is new?", "gold": 0}) + "\n")


def other_column(path: Path) -> None:
    """The prompts stay as they are, and what is known of the last row does not."""
    path.write_text(path.read_text().replace(f'"gold": {(ROWS - 1) ** 2}}}', f'"gold": {(ROWS - 1) ** 2 + 1}}}'))


def no_text(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 30)
        file.write(b"\xff")


@pytest.mark.parametrize("change", [truncated, grown, other_column, no_text])
async def test_the_batch_is_not_finished_and_the_next_run_goes_on(vendors, tmp_path, change):
    source, out = prompts(tmp_path, ROWS, "p.jsonl", word="x" * 1500), tmp_path / "out.jsonl"
    whole, first, second = source.read_bytes(), Answering(5, lambda: change(source)), Answering()
    summary = await run_batch(batch_of(source, out, concurrency=2), first)
    assert summary.status == "stopped"
    assert f"{source} has changed while the batch was running" in str(summary.error)
    assert left(out)
    assert first.count == summary.done == len(column(out, "id"))
    source.write_bytes(whole)
    again = await run_batch(batch_of(source, out, concurrency=2), second)
    assert (again.status, again.rows, again.done) == ("finished", ROWS, ROWS)
    assert column(out, "gold") == [n * n for n in range(ROWS)]
    assert first.count + second.count <= ROWS + 1 and not left(out)


async def test_how_many_rows_there_were_is_said(vendors, tmp_path):
    source = prompts(tmp_path, ROWS, "p.jsonl", word="x" * 1500)
    call = Answering(5, lambda: truncated(source))
    summary = await run_batch(batch_of(source, tmp_path / "out.jsonl", concurrency=2), call)
    assert f"it has {summary.rows} rows instead of {ROWS}, and 1 bad ones instead of 0" in str(summary.error)


async def test_an_input_that_can_no_longer_be_read_ends_nothing_that_is_under_way(vendors, tmp_path):
    source, out = tmp_path / "p.json", tmp_path / "out.jsonl"
    source.write_text(json.dumps([{"id": f"r{n}", "prompt": f"{'x' * 4000} {n}"} for n in range(ROWS)]))
    whole, first, second = source.read_bytes(), Answering(5, lambda: truncated(source)), Answering()
    summary = await run_batch(batch_of(source, out, concurrency=2), first)
    assert summary.status == "stopped" and "broken JSON at item" in str(summary.error)
    assert summary.done == first.count > 5
    source.write_bytes(whole)
    assert (await run_batch(batch_of(source, out), second)).done == ROWS == first.count + second.count


async def test_a_file_that_another_takes_the_place_of_is_found_too(vendors, tmp_path, monkeypatch):
    """The first reading has the old file, the second one the new."""
    source, out = prompts(tmp_path, 4, "p.jsonl"), tmp_path / "out.jsonl"
    real = Source.inspect

    def inspect(self: Source, held: Any = None) -> Any:
        found = real(self, held)
        (tmp_path / "new.jsonl").write_text('{"id": "n0", "prompt": "New?"}\n')
        (tmp_path / "new.jsonl").replace(source)
        return found

    serve(vendors)
    with monkeypatch.context() as patch:
        patch.setattr(Source, "inspect", inspect)
        with pytest.raises(QuorumError, match="it has 1 row instead of 4"):
            await batch(str(source), str(out), flow="pump", config={"members": ["openai/a"]})
    assert (await run_batch(batch_of(source, out))).resumed == 1


async def test_a_budget_that_ends_first_keeps_the_journal_too(vendors, tmp_path):
    def step(seen: SeenRequest) -> Reply:
        if vendors.count() == 5:
            truncated(source)
        return answer(seen)

    source, out = prompts(tmp_path, ROWS, "p.jsonl", word="x" * 1500), tmp_path / "out.jsonl"
    vendors.script(ANY, then=step)
    summary = await run_batch(batch_of(source, out, concurrency=1, budget=Budget(max_calls=8)))
    assert summary.status == "budget" and left(out)


def test_the_command_says_it_and_ends_with_1(vendors, tmp_path):
    source, out = prompts(tmp_path, ROWS, "p.jsonl", word="x" * 1500), tmp_path / "out.jsonl"

    def step(seen: SeenRequest) -> Reply:
        if vendors.count() == 5:
            truncated(source)
        return answer(seen)

    vendors.script(ANY, then=step)
    process = start([source, "-o", out, *ONE, "--concurrency", "2"], environment_of(tmp_path))
    _, said = process.communicate(timeout=110)
    assert process.returncode == 1, said
    assert b"has changed while the batch was running" in said and left(out)
