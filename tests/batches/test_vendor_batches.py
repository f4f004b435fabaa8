"""Batches through the vendors' batch APIs: waves over all rows, at half the price; nothing is executed twice, and nothing is lost."""

from pathlib import Path
from typing import Any

import pytest

from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.batching import Batch, run_batch
from consensus_flows.tasks.batches.source import Source
from tests.kits.batch_kit import column, prompts, read, serve
from tests.vendors import ANY, LoopbackVendors, Reply, Usage

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
THREE = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "google/gemini-2.5-flash"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSENSUS_BATCH_POLL_S", "0.05")


def vote_of(source: Path, output: Path, **options: Any) -> Batch:
    config = VoteConfig.model_validate({"members": THREE, "extract": "text"} | options.pop("config", {}))
    options = {"vendor_batch": True} | options
    return Batch(source=Source(str(source)), output=str(output), algorithm="vote", config=config, **options)


async def test_three_vendors_answer_by_batches_at_half_the_price(vendors: LoopbackVendors, tmp_path: Path) -> None:
    vendors.script(ANY, then=Reply(text="yes", usage=Usage(input=1000, output=100)))
    source, out = prompts(tmp_path, 20), tmp_path / "out.jsonl"
    summary = await run_batch(vote_of(source, out))
    assert (summary.status, summary.done, summary.failed) == ("finished", 20, 0)
    assert column(out, "answer") == ["yes"] * 20
    assert vendors.count() == 60
    assert sum(vendors.jobs.executions.values()) == 57, "but for the first call of each model"
    at_once = await run_batch(vote_of(source, tmp_path / "again.jsonl", vendor_batch=False, config={"fresh": True}))
    assert summary.cost_usd is not None and at_once.cost_usd is not None
    assert summary.cost_usd == pytest.approx(at_once.cost_usd * (57 * 0.5 + 3) / 60)
    assert all(model.batch_calls == 19 for model in summary.models)
