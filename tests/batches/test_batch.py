"""A batch as a flow: how many rows at once, what a saved configuration does, what is recorded and shown, what stops it."""

import asyncio
import itertools
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter

from consensus_flows.flows.batch import batch
from consensus_flows.flows.batching import IN_A_ROW, Labelled, run_batch
from consensus_flows.tasks.batches.results import RowResult
from consensus_flows.tasks.batches.summary import BatchSummary, MemberSummary
from consensus_flows.tasks.batches.totals import ModelSummary
from consensus_flows.tasks.errors import ConfigurationError, OutputError, QuorumError
from consensus_flows.tasks.record import CallError, Response
from consensus_flows.tasks.reports.batch_before import Before
from consensus_flows.tasks.reports.batch_report import histogram, models_table, summary_markdown
from tests.kits.asking import question
from tests.kits.batch_kit import (
    ROOT,
    batch_of,
    column,
    disk_full_for,
    environment_of,
    failing_for,
    prompts,
    read,
    serve,
)
from tests.vendors import faults

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]
PUMP = {"members": ["openai/a"]}


async def answered(request, *, instance=1, member=None) -> Response:
    """Answer without a vendor."""
    text = request.messages[-1].content.upper()
    name = member or f"{request.name}#{instance}"
    return Response(member=name, provider=request.provider, model=request.model, text=text, cost_usd=0.0)


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_never_more_rows_at_once_than_wanted(vendors, tmp_path, concurrency):
    serve(vendors, delay=0.05)
    vendors.together = concurrency
    await run_batch(batch_of(prompts(tmp_path, 8), tmp_path / "out.jsonl", concurrency=concurrency))
    assert vendors.in_flight_peak == concurrency


async def test_a_second_run_sends_nothing(vendors, tmp_path):
    serve(vendors)
    source, out = prompts(tmp_path, 5), tmp_path / "out.jsonl"
    first = await run_batch(batch_of(source, out))
    second = await run_batch(batch_of(source, out))
    assert vendors.count() == 5
    assert (first.cached_calls, second.cached_calls, second.sent_calls, second.cost_usd) == (0, 5, 0, 0.0)
    assert second.resumed == 0, "the first one had ended"


async def test_an_input_that_became_shorter_leaves_no_old_rows_in_the_output(vendors, tmp_path):
    source, out = prompts(tmp_path, 8, "p.jsonl"), tmp_path / "out.jsonl"
    serve(vendors)
    vendors.script("a", then=failing_for("is 7?", faults.hang()))
    task = asyncio.create_task(run_batch(batch_of(source, out, concurrency=1)))
    journal = tmp_path / "out.jsonl.partial"
    while not (journal.exists() and '"row": 6' in journal.read_text()):
        assert not task.done()
        await asyncio.sleep(0.01)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    source.write_text("".join(source.read_text().splitlines(keepends=True)[:3]))
    summary = await run_batch(batch_of(source, out))
    assert column(out, "id") == ["r0", "r1", "r2"] and (summary.rows, summary.status) == (3, "finished")


async def test_a_row_that_changed_is_done_again_and_its_columns_are_new(tmp_path, vendors):
    source, out = prompts(tmp_path, 4, "p.jsonl"), tmp_path / "out.jsonl"
    await _until_the_disk_is_full(batch_of(source, out, concurrency=1), 2)
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    rows[0] |= {"prompt": "Something else?"}
    rows[1] |= {"gold": "new"}
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = await run_batch(batch_of(source, out), answered)
    assert summary.done == 4
    assert summary.resumed == 2, "of which none is as it was"
    assert column(out, "answer")[:2] == ["SOMETHING ELSE?", "WHAT IS 1?"] and column(out, "gold") == [0, "new", 4, 9]


async def _until_the_disk_is_full(work, rows):
    """Run a batch whose journal takes so many rows and no more."""
    from consensus_flows.tasks.batches.journal import Journal

    real, count = Journal.add, itertools.count()

    def add(self, row, result):
        if next(count) >= rows:
            raise OutputError(f"{self.path} cannot be written: No space left on device")
        real(self, row, result)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "add", add)
        with pytest.raises(OutputError, match="No space left"):
            await run_batch(work, answered)


async def test_a_full_disk_ends_the_run_with_one_sentence_and_it_is_gone_on_with(tmp_path, vendors):
    source, out = prompts(tmp_path, 6), tmp_path / "out.jsonl"
    await _until_the_disk_is_full(batch_of(source, out, concurrency=4), 3)
    assert not out.exists()
    summary = await run_batch(batch_of(source, out), answered)
    assert (summary.resumed, summary.done) == (3, 6)


async def test_a_call_that_cannot_be_entered_ends_the_run_too(tmp_path, vendors, monkeypatch):
    """Otherwise the bill would be too small, and the budget too large."""
    serve(vendors)
    disk_full_for(monkeypatch, "call")
    with pytest.raises(OutputError, match="No space left"):
        await run_batch(batch_of(prompts(tmp_path, 3), tmp_path / "out.jsonl"))


async def test_an_output_that_cannot_be_moved_into_place_keeps_all_rows(tmp_path, vendors, monkeypatch):
    source, out = prompts(tmp_path, 3), tmp_path / "out.jsonl"

    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("consensus_flows.flows.batching.write_output", refuse)
        with pytest.raises(OutputError, match=r"No space left on device. All rows are kept in .*\.partial"):
            await run_batch(batch_of(source, out), answered)
    assert (await run_batch(batch_of(source, out), answered)).resumed == 3


async def test_a_row_whose_run_breaks_is_a_failed_row(tmp_path, vendors, monkeypatch):
    from consensus_flows.flows import pump

    real = pump.run_pump

    async def broken(prompt, *arguments, **options):
        if "is 1?" in prompt:
            raise RuntimeError("Bearer sk-test-openai broke")
        return await real(prompt, *arguments, **options)

    monkeypatch.setattr(pump, "run_pump", broken)
    out = tmp_path / "out.jsonl"
    summary = await run_batch(batch_of(prompts(tmp_path, 3), out), answered)
    assert (summary.done, summary.failed) == (2, 1)
    error = column(out, "error")[1]
    assert error.startswith("RuntimeError: ") and "sk-test" not in error


async def test_a_long_id_makes_no_long_name_of_a_task_run():
    names: list[str] = []

    async def noted(request, **options):
        names.append(request.title)
        return await answered(request, **options)

    for row in ("r7", "x" * 5000):
        await Labelled(noted, row)(question(label="member"))
    assert names == ["r7 · member", f"{'x' * 79}… · member"]


async def test_failures_here_and_there_do_not_stop_it(tmp_path, vendors):
    async def flaky(request, **options):
        response = await answered(request, **options)
        if not request.messages[-1].content.endswith("0?"):
            response.text, response.error = None, CallError(kind="server", message="no")
        return response

    work = batch_of(prompts(tmp_path, 60), tmp_path / "out.jsonl", concurrency=1)
    summary = await run_batch(work, flaky)
    assert (summary.status, summary.done, summary.failed) == ("finished", 6, 54) and IN_A_ROW > 9


async def test_an_empty_batch_of_bad_rows_only(tmp_path, vendors):
    source = tmp_path / "p.csv"
    source.write_text('prompt\n" "\n')
    summary = await run_batch(batch_of(source, tmp_path / "out.jsonl", skip_bad=True), answered)
    assert (summary.rows, summary.bad) == (0, 1) and read(tmp_path / "out.jsonl") == []


async def test_the_flow_takes_a_saved_configuration_or_one_that_is_given(vendors, tmp_path):
    from consensus_flows.blocks.vote import Vote

    serve(vendors)
    await Vote(config={"members": ["openai/a", "openai/b"]}).save("batch-panel", overwrite=True)
    source, out = prompts(tmp_path, 2), tmp_path / "out.jsonl"
    try:
        summary = await batch(str(source), str(out), config="batch-panel")
        assert (summary.algorithm, summary.calls) == ("vote", 4)
        with pytest.raises(ConfigurationError, match=r"batch-panel.*pump"):
            await batch(str(source), str(out), flow="pump", config="batch-panel")
        with pytest.raises(ConfigurationError, match="config: no configuration is saved as 'nowhere'"):
            await batch(str(source), str(out), config="nowhere")
        await _saved_twice(source, out)
    finally:
        await Vote.adelete("batch-panel")


async def test_the_flow_takes_a_configuration(vendors, tmp_path):
    from consensus_flows import VoteConfig

    serve(vendors)
    config, source, out = VoteConfig(members=["openai/a:2"]), str(prompts(tmp_path, 2)), str(tmp_path / "out.jsonl")
    with pytest.raises(ConfigurationError, match="config: these are settings of vote, not of pump"):
        await batch(source, out, flow="pump", config=config)
    summary = await batch(source, out, config=config)
    assert (summary.algorithm, summary.calls) == ("vote", 4)


async def _saved_twice(source, out):
    from consensus_flows.blocks.pump import Pump

    await Pump(config=PUMP).save("batch-panel", overwrite=True)
    try:
        with pytest.raises(ConfigurationError, match="is saved for pump and for vote, say which in flow"):
            await batch(str(source), str(out), config="batch-panel")
        assert (await batch(str(source), str(out), flow="pump", config="batch-panel")).algorithm == "pump"
    finally:
        await Pump.adelete("batch-panel")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"flow": "vote", "config": {"members": []}}, "config.members: "),
        ({"flow": "vote", "config": {"members": ["openai/a"], "colour": "red"}}, "config.colour: "),
        ({"flow": "pump", "config": {"members": ["openai/a:0"]}}, "count"),
        ({"flow": "pump", "config": PUMP, "shard": 3, "shards": 2}, "shard is 3"),
        ({"flow": "pump", "config": "nowhere"}, "no configuration is saved as 'nowhere'"),
    ],
)
async def test_what_is_wrong_in_the_parameters_is_named_before_any_call(vendors, tmp_path, given, named):
    with pytest.raises(ConfigurationError) as caught:
        await batch(str(prompts(tmp_path, 2)), str(tmp_path / "out.jsonl"), **given)
    assert named in caught.value.message and vendors.count() == 0


async def test_the_flow_fails_when_no_row_has_an_answer(vendors, tmp_path):
    vendors.script("a", then=faults.unauthorized())
    with pytest.raises(
        QuorumError, match=r"none of 2 rows has an answer; the first one, r0: .*openai/a.*401.* · .*out.jsonl"
    ) as caught:
        await batch(str(prompts(tmp_path, 2)), str(tmp_path / "out.jsonl"), flow="pump", config=PUMP)
    assert caught.value.record.failed == 2 and column(tmp_path / "out.jsonl", "status") == ["failed"] * 2


async def test_what_is_left_of_it_in_the_history_and_in_the_ui(vendors, tmp_path, monkeypatch):
    from tests.kits.history_kit import rows as rows_of

    history = tmp_path / "history.db"
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{history}")
    events: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(
        "consensus_flows.tasks.reports.batch_report.emit_event",
        lambda event, **given: events.append((event, given["payload"])),
    )
    serve(vendors)
    vendors.script("a", then=failing_for("is 1?", faults.unauthorized()))
    summary = await batch(str(prompts(tmp_path, 3)), str(tmp_path / "out.jsonl"), flow="pump", config=PUMP)
    found = rows_of(history, "select prompt, status, flow_run_id from runs where position > 0 order by prompt")
    assert [(prompt, status) for prompt, status, _ in found] == [
        ("What is 0?", "finished"),
        ("What is 1?", "failed"),
        ("What is 2?", "finished"),
    ]
    assert {run for _, _, run in found} == {summary.flow_run_id}
    assert [(name, payload["done"], payload["failed"]) for name, payload in events] == [("consensus.batch.ended", 2, 1)]
    mine = FlowRunFilter.model_validate({"id": {"any_": [summary.flow_run_id]}})
    async with get_client() as client:
        artifacts = {
            one.key: one
            for one in await client.read_artifacts(
                artifact_filter=ArtifactFilter.model_validate({"flow_run_id": {"any_": [summary.flow_run_id]}})
            )
        }
        for _ in range(100):
            names = {run.name for run in await client.read_task_runs(flow_run_filter=mine)}
            if len(names) == 3:
                break
            await asyncio.sleep(0.1)
        run = (await client.read_flow_runs(flow_run_filter=mine))[0]
    artifacts.pop(None, None)  # the result, which Prefect makes an artifact without a key
    assert set(artifacts) == {"batch-progress", "batch-summary", "batch-models", "batch-agreement"}
    assert float(str(artifacts["batch-progress"].data)) == 100.0
    assert "| Failed | 1 |" in str(artifacts["batch-summary"].data) and "r1: " in str(artifacts["batch-summary"].data)
    assert {name.split(" · ")[0] for name in names} == {"ask r0", "ask r1", "ask r2"}
    assert run.name == "pump · prompts.csv"


def test_the_summary_for_a_person():
    summary = BatchSummary(
        algorithm="vote", input="in|put.csv", output="out.jsonl", rows=3, done=2, failed=1, bad=1, status="stopped"
    )
    summary.error, summary.bad_rows = "25 rows <b>in</b> a row", ["in.csv line 3: ![x](http://evil/x.png)"]
    summary.models = [ModelSummary(model="openai/a", calls=4, failed=1, p50_s=0.5, p95_s=1.25, errors={"auth": 1})]
    text = summary_markdown(summary)
    assert "| Failed | 1 |" in text and "| Cost | unknown |" in text and "## Why it ended early" in text
    assert "| Status | stopped |" in text
    assert "| openai/a | 4 | 0 | 1 | 0.50 | 1.25 | unknown | 0 | 1 auth |" in text
    assert "\n```" in text and "in|put" not in text
    summary.failures, summary.failed = ["r1: HTTP 401"], 3
    assert "## Rows without an answer\n\n```text\nr1: HTTP 401\n... and 2 more\n```" in summary_markdown(summary)
    assert models_table(summary) == [
        {
            "model": "openai/a",
            "calls sent": 4,
            "from the cache": 0,
            "failed": 1,
            "p50 s": "0.50",
            "p95 s": "1.25",
            "cost USD": "unknown",
            "possibly billed": 0,
            "errors": "1 auth",
        }
    ]


def test_the_distribution_of_agreement_shows_rows_without_a_member_apart():
    summary = BatchSummary(agreement=[0, 0, 0, 0, 1, 0, 2, 0, 0, 8], agreement_degraded=[0] * 9 + [4])
    rows = histogram(summary).splitlines()
    assert rows[2] == f"| 90 to 100 % | 8 | 4 | {'█' * 15}{'░' * 15} |"
    assert f"| 40 to 50 % | 1 | 0 | {'█' * 4} |" in rows and "| 0 to 10 % | 0 | 0 | · |" in rows
    assert len(histogram(BatchSummary()).splitlines()) == 12


def test_the_page_of_a_batch_says_what_to_look_at_who_won_and_what_changed():
    summary, before = BatchSummary(algorithm="vote", output="out.jsonl"), BatchSummary(algorithm="vote", rows=2, done=2)
    said = {
        "a": {"answer": "1", "error": None},
        "b": {"answer": "2", "error": None},
        "c": {"answer": None, "error": {}},
    }
    row = RowResult(id="r1", answer="1", status="finished", agreement=0.5, share=0.5, degraded=True, run_id="R-1")
    summary.add(row.model_dump() | {"answers": said})
    summary.add(row.model_dump() | {"id": "r2", "tie": True, "answers": said})
    assert summary.members["a"] == MemberSummary(rows=2, answered=2, read=2, wins=2)
    assert (summary.members["b"].wins, summary.members["c"].answered) == (0, 0)
    assert [(one.id, one.reasons[0]) for one in summary.review] == [("r2", "tie"), ("r1", "low_agreement")]
    text = summary_markdown(summary, Before(UUID(int=1), before))
    assert "**Degraded** · 2 rows, 2 degraded, 1 tied" in text
    assert "| r1 | 1 | low agreement, a call failed or a stand-in answered | `R-1` |" in text
    assert "| a | 2 of 2 | 2 of 2 | 100 % |" in text
    assert f"[the run before](/runs/flow-run/{UUID(int=1)})" in text
    assert "| To review | 2 | 0 |" in text


async def test_a_batch_is_compared_with_the_run_before(tmp_path, vendors, results):
    serve(vendors)
    given = {"flow": "pump", "config": {"members": ["openai/a"]}}
    for _ in range(2):
        (tmp_path / "out.jsonl").unlink(missing_ok=True)
        summary = await batch(str(prompts(tmp_path, 2)), str(tmp_path / "out.jsonl"), **given)
    assert summary.cached_calls == 2
    async with get_client() as client:
        mine = FlowRunFilter.model_validate({"id": {"any_": [summary.flow_run_id]}})
        page = next(one for one in await client.read_artifacts(flow_run_filter=mine) if one.key == "batch-summary")
    assert "[the run before](/runs/flow-run/" in str(page.data)
    assert "| openai/a | 0 | 2 |" in str(page.data)


MEMORY = """
import asyncio, json, re, sys
from pathlib import Path
from tests.kits.asking import question
from tests.kits.batch_kit import batch_of
from consensus_flows.tasks.record import Response

async def call(request, *, instance=1, member=None):
    return Response(member="openai/a#1", provider="openai", model="a", text=request.messages[-1].content[:100], cost_usd=0.0)

async def main():
    from consensus_flows.flows.batching import run_batch
    for output in sys.argv[3:]:
        summary = await run_batch(batch_of(Path(sys.argv[1]), Path(sys.argv[2]) / output, concurrency=32), call)
        assert summary.done == summary.rows, summary
    peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    print(json.dumps({"rows": summary.rows, "peak_kb": peak, "seconds": summary.duration_s}))

asyncio.run(main())
"""


def large(path: Path, rows: int) -> Path:
    with path.open("w") as file:
        for number in range(rows):
            file.write(json.dumps({"id": f"r{number}", "prompt": f"{number} " + "x" * 960}) + "\n")
    return path


@pytest.mark.usefixtures("results", "vendors")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read in /proc")
@pytest.mark.parametrize(
    ("rows", "outputs", "most_kb"),
    [
        (2_000, ["out.jsonl"], 300_000),
        pytest.param(100_000, ["out.jsonl", "out.csv"], 500_000, marks=[pytest.mark.chaos, pytest.mark.timeout(1500)]),
    ],
)
def test_memory_stays_within_bounds(tmp_path, rows, outputs, most_kb):
    source = large(tmp_path / "in.jsonl", rows)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(source), str(tmp_path), *outputs],
        env=environment_of(tmp_path),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(json.dumps({"batch memory": found}))
    assert found["rows"] == rows and found["peak_kb"] < most_kb
    assert sum(1 for _ in (tmp_path / outputs[-1]).open()) >= rows


IMPORTED = """
import asyncio, sys
from consensus_flows import batch
from consensus_flows.tasks.watch import watched_by

class Watch:
    async def on_event(self, event, value):
        if event == "batch_started":
            print(*(name in sys.modules for name in ("openai", "anthropic", "google.genai", "genai_prices.data")))

async def main():
    with watched_by(Watch()):
        await batch([{"prompt": "Why?"}], flow="pump", config={"members": ["openai/a", "anthropic/b", "google/c"]}, probe=False)

asyncio.run(main())
"""


def test_the_time_of_the_first_row_is_not_that_of_imports(prefect_server, vendors, tmp_path):
    serve(vendors)
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTED], env=environment_of(tmp_path), capture_output=True, text=True, check=False
    )
    assert ran.stdout.split() == ["True"] * 4, ran.stderr
