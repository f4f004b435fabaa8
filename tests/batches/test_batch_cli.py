"""`consensus batch`: what it prints and writes, exit codes, bad input before the first call, budgets, the estimate."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from prefect.exceptions import TerminationSignal

from consensus_flows.flows.algorithms import BUILT_IN
from tests.chaos.kill_points import CONFIGURATIONS
from tests.kits import processes
from tests.kits.batch_kit import ONE, THREE, column, environment_of, failing_for, prompts, read, same, serve, start
from tests.kits.command_kit import Command, commands
from tests.vendors import LoopbackVendors, Reply, SeenRequest, Usage, faults

COLUMNS = [
    "id",
    "answer",
    "status",
    "degraded",
    "confidence",
    "agreement",
    "cost_usd",
    "calls",
    "cached_calls",
    "error",
]
SUMMARY = ["rows", "done", "failed", "degraded", "calls", "cached_calls", "cost_usd", "duration_s", "calls_per_s"]


@pytest.fixture
def consensus(results: str, vendors: LoopbackVendors, monkeypatch, capsys) -> Command:
    return commands(monkeypatch, capsys)


def test_rows_in_the_order_of_the_input_with_their_own_columns(consensus, vendors, tmp_path):
    serve(vendors)
    # The first row is answered last.
    vendors.script("a", then=failing_for("is 0?", Reply(text="slow", delay=0.5)))
    source, out = prompts(tmp_path, 6), tmp_path / "out.jsonl"
    ran = consensus("batch", source, "-o", out, *ONE, "--json")
    assert ran.code == 0, ran.err
    rows = read(out)
    assert [row["id"] for row in rows] == [f"r{n}" for n in range(6)]
    assert list(rows[0])[: len(COLUMNS)] == COLUMNS
    assert [row["gold"] for row in rows] == [str(n * n) for n in range(6)] and rows[0]["prompt"] == "What is 0?"
    assert [row["answer"] for row in rows] == ["slow", *(f"a says: WHAT IS {n}?" for n in range(1, 6))]
    assert {row["status"] for row in rows} == {"finished"} and not any(row["error"] for row in rows)
    summary = json.loads(ran.out)
    assert set(SUMMARY) <= set(summary)
    assert (summary["rows"], summary["done"], summary["failed"], summary["calls"]) == (6, 6, 0, 6)
    assert summary["calls_per_s"] > 0 and summary["sent_calls"] == 6
    assert summary["models"][0]["model"] == "openai/a" and summary["models"][0]["p95_s"] >= 0.5
    assert not list(tmp_path.glob("*.partial"))


def test_a_batch_gives_way_to_other_processes(results, vendors, tmp_path):
    """Its priority is lower from before its first call; a question beside it would take three times as long otherwise."""
    seen: list[int] = []

    def asked(_: SeenRequest) -> Reply:
        seen.append(os.getpriority(os.PRIO_PROCESS, running.pid))
        return Reply(text="yes")

    vendors.script("a", then=asked)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    running = start([prompts(tmp_path, 2), "-o", tmp_path / "out.jsonl", *ONE], environment_of(tmp_path))
    _, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    assert seen and set(seen) == {max(10, own)}


@pytest.mark.parametrize("flow", [one.name for one in BUILT_IN])
def test_every_flow(consensus, vendors, tmp_path, flow):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIGURATIONS[flow]))
    source, out = prompts(tmp_path, 2, word=f"Using {flow}:"), tmp_path / "out.csv"
    ran = consensus("batch", source, "-o", out, "--flow", flow, "--config", config, "--json")
    assert ran.code == 0, ran.err
    rows, summary = read(out), json.loads(ran.out)
    assert [row["id"] for row in rows] == ["r0", "r1"] and all(row["answer"] for row in rows)
    assert (summary["algorithm"], summary["done"], summary["calls"]) == (flow, 2, vendors.count())
    assert sum(int(row["calls"]) for row in rows) == vendors.count()
    again = consensus("batch", source, "-o", out, "--flow", flow, "--config", config, "--json")
    assert json.loads(again.out)["cached_calls"] == summary["calls"] == vendors.count()
    assert same(read(out)) == same(rows)


def test_a_saved_configuration_and_options_over_it(consensus, vendors, tmp_path):
    serve(vendors)
    assert consensus("save", "night", *THREE).code == 0
    source, out = prompts(tmp_path, 2), tmp_path / "out.jsonl"
    try:
        assert consensus("batch", source, "-o", out, "--name", "night").code == 0
        assert vendors.count() == 6
        assert consensus("batch", source, "-o", out, "--name=night", "--json").code == 0
        assert consensus("batch", source, "-o", out, "--flow", "vote", "--name", "night", "-m", "openai/a").code == 0
        assert column(out, "calls") == [1, 1] and vendors.count() == 6
        wrong = consensus("batch", source, "-o", out, "--flow", "pump", "--name", "night")
        assert wrong.code == 2 and "saved for vote" in wrong.err
    finally:
        consensus("remove", "night")


def test_a_person_is_told_on_stderr_and_stdout_is_the_output(consensus, vendors, tmp_path):
    serve(vendors)
    vendors.script("a", then=failing_for("1?", faults.unauthorized()))
    out = tmp_path / "out.jsonl"
    ran = consensus("batch", prompts(tmp_path, 3), "-o", out, *ONE)
    assert ran.code == 1, "a row has no answer"
    assert ran.out == f"{out}\n"
    assert "3 rows: 2 answered (0 degraded), 1 failed" in ran.err
    assert "openai/a: 3 calls sent" in ran.err and "1 auth" in ran.err and "/runs/flow-run/" in ran.err
    assert "1 row without an answer:\n    r1: " in ran.err and "HTTP 401" in ran.err, "and why"
    assert "3 calls sent in 3 requests, 0 from the cache" in ran.err


def test_a_row_that_fails_disturbs_no_other(consensus, vendors, tmp_path):
    serve(vendors)
    vendors.script("a", then=failing_for("is 2?", faults.unauthorized()))
    out = tmp_path / "out.jsonl"
    ran = consensus("batch", prompts(tmp_path, 5), "-o", out, *ONE, "--json", "--concurrency", "1")
    rows, summary = read(out), json.loads(ran.out)
    assert [row["status"] for row in rows] == ["finished"] * 2 + ["failed"] + ["finished"] * 2
    assert rows[2]["answer"] is None and "openai/a" in rows[2]["error"] and "401" in rows[2]["error"]
    assert (ran.code, summary["done"], summary["failed"], summary["status"]) == (1, 4, 1, "finished")
    assert len(summary["failures"]) == 1 and summary["failures"][0] == f"r2: {rows[2]['error']}"


def test_a_failed_member_makes_a_row_degraded(consensus, vendors, tmp_path):
    serve(vendors)
    vendors.script("b", then=failing_for("is 1?", faults.unauthorized()))
    out = tmp_path / "out.jsonl"
    ran = consensus("batch", prompts(tmp_path, 3), "-o", out, *THREE, "--json")
    assert ran.code == 0 and json.loads(ran.out)["degraded"] == 1
    assert column(out, "degraded") == [False, True, False]
    assert "anthropic/b#1: auth" in read(out)[1]["warnings"]


BAD = 'id,prompt\nr0,What?\nr1,\nr2,"Why?"\nr0,Who?\n'


def test_bad_rows_are_told_with_their_lines_before_the_first_call(consensus, vendors, tmp_path):
    source, out = tmp_path / "prompts.csv", tmp_path / "out.jsonl"
    source.write_text(BAD)
    ran = consensus("batch", source, "-o", out, *ONE)
    assert ran.code == 2 and ran.out == "" and vendors.count() == 0
    assert "2 of 4 rows are invalid" in ran.err
    assert "prompts.csv line 3" in ran.err and "prompts.csv line 5" in ran.err and "--skip-bad" in ran.err
    assert not out.exists() and not list(tmp_path.glob("*.partial"))


def test_what_to_do_about_another_encoding(consensus, tmp_path):
    source = tmp_path / "prompts.txt"
    source.write_bytes(b"Caf\xe9?\n")
    ran = consensus("batch", source, "-o", tmp_path / "out.jsonl", *ONE)
    assert ran.code == 2 and "line 1: wrong encoding" in ran.err and "Text is read as UTF-8" in ran.err


def test_skip_bad_goes_on_and_lists_them(consensus, vendors, tmp_path):
    serve(vendors)
    source, out = tmp_path / "prompts.csv", tmp_path / "out.jsonl"
    source.write_text(BAD)
    ran = consensus("batch", source, "-o", out, *ONE, "--skip-bad")
    assert ran.code == 0 and vendors.count() == 2 and column(out, "id") == ["r0", "r2"]
    assert "prompts.csv line 3" in ran.err and "prompts.csv line 5" in ran.err
    summary = json.loads(consensus("batch", source, "-o", out, *ONE, "--skip-bad", "--json").out)
    assert (summary["rows"], summary["bad"]) == (2, 2) and "line 3" in summary["bad_rows"][0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--flow", "pump"], "member"),
        (["--flow", "nonsense"], "nonsense"),
        ([*ONE, "--prompt-column", "nowhere"], "--prompt-column"),
        ([*ONE, "--prompt-template", "Say {nothing}"], "--prompt-template"),
        ([*ONE, "--id-column", "nowhere"], "--id-column"),
        ([*ONE, "--concurrency", "0"], "--concurrency"),
        ([*ONE, "--shards", "0"], "--shards"),
        ([*ONE, "--max-calls", "0"], "--max-calls"),
        ([*ONE, "--max-cost", "-1"], "--max-cost"),
        ([*ONE, "--deadline", "0"], "--deadline"),
        ([*ONE, "--temperature", "9"], "--temperature"),
        (["--flow", "pump", "-m", "openai/no-such-model-anywhere", "--max-cost", "1"], "price"),
        (["--flow", "pump", "-m", "nowhere/a"], "nowhere"),
        ([*ONE, "--embedding-model", "nowhere/e"], "nowhere"),
        (["--name", "never-saved"], "never-saved"),
    ],
)
def test_bad_input_is_exit_2_names_the_field_and_calls_nobody(consensus, vendors, tmp_path, arguments, named):
    ran = consensus("batch", prompts(tmp_path, 2), "-o", tmp_path / "out.jsonl", *arguments)
    assert ran.code == 2, ran
    assert named in ran.err and ran.out == "" and "Traceback" not in ran.err
    assert vendors.count() == 0 and not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("output", "named"),
    [
        ("nowhere/out.jsonl", "no such folder"),
        ("out.xlsx", "unsupported extension"),
        (".", "is a folder"),
        ("prompts.csv", "is the input"),
        ("out-{data}.csv", "{data} is not a placeholder"),
    ],
)
def test_an_output_that_cannot_be_is_found_before_the_first_call(consensus, vendors, tmp_path, output, named):
    source = prompts(tmp_path, 2)
    before = source.read_bytes()
    for more in ([], ["--dry-run"]):
        ran = consensus("batch", source, "-o", tmp_path / output, *ONE, *more)
        assert ran.code == 2 and "output" in ran.err and named in ran.err
    assert vendors.count() == 0 and source.read_bytes() == before


def test_missing_input(consensus, vendors, tmp_path):
    ran = consensus("batch", tmp_path / "nothing.csv", "-o", tmp_path / "out.jsonl", *ONE)
    assert ran.code == 2 and "no such file" in ran.err and vendors.count() == 0


def test_max_calls_ends_it_and_a_larger_one_pays_only_the_rest(consensus, vendors, tmp_path):
    serve(vendors)
    source, out = prompts(tmp_path, 10), tmp_path / "out.jsonl"
    ran = consensus("batch", source, "-o", out, *THREE, "--max-calls", "11", "--concurrency", "2", "--json")
    summary = json.loads(ran.out)
    assert ran.code == 3 and summary["status"] == "budget" and "11 calls" in summary["error"]
    assert vendors.count() <= 11
    rows = read(out)
    assert [row["id"] for row in rows] == [f"r{n}" for n in range(10)], "all rows are listed"
    finished = [row for row in rows if row["status"] == "tie"]
    assert all(row["calls"] == 3 and row["answer"] and not row["degraded"] for row in finished) and finished
    assert {row["status"] for row in rows} == {"tie", "not_started"}
    assert summary["done"] == len(finished) and summary["not_started"] == 10 - len(finished)
    # The budget is that of the batch, and not of each of its runs.
    sent = vendors.count()
    again = consensus("batch", source, "-o", out, *THREE, "--max-calls", "11", "--json")
    assert again.code == 3 and vendors.count() == sent <= 11
    last = consensus("batch", source, "-o", out, *THREE, "--max-calls", "30", "--json")
    assert last.code == 0 and vendors.count() == 30
    assert json.loads(last.out)["sent_calls"] == 30 and set(column(out, "status")) == {"tie"}


def test_a_budget_that_suffices_to_the_call_ends_nothing(consensus, vendors, tmp_path):
    serve(vendors)
    ran = consensus("batch", prompts(tmp_path, 4), "-o", tmp_path / "out.jsonl", *THREE, "--max-calls", "12", "--json")
    assert ran.code == 0 and json.loads(ran.out)["status"] == "finished" and vendors.count() == 12


@pytest.mark.parametrize(
    "limit", [["--max-tokens", "5000"], ["--max-cost", "0.004"], ["--deadline", "0.4"]], ids=lambda limit: limit[0]
)
def test_other_budgets(consensus, vendors, tmp_path, limit):
    usage = Usage(input=400, output=600)
    vendors.script("gpt-4o-mini", then=Reply(text="so", usage=usage, delay=0.15))
    panel = ["--flow", "pump", "-m", "openai/gpt-4o-mini", "--max-output-tokens", "600"]
    source, out = prompts(tmp_path, 12), tmp_path / "out.jsonl"
    ran = consensus("batch", source, "-o", out, *panel, *limit, "--concurrency", "1", "--json")
    summary = json.loads(ran.out)
    assert ran.code == 3, (summary, ran.err)
    cut = (
        vendors.count() - summary["done"]
    )  # a deadline cuts the call under way; other budgets are checked before a call
    assert 1 <= summary["done"] < 12 and cut in ({0, 1} if "deadline" in limit[0] else {0})
    assert column(out, "status") == ["finished"] * summary["done"] + ["not_started"] * summary["not_started"]
    if "tokens" in limit[0]:
        assert summary["done"] * 1000 <= 5000
    if "cost" in limit[0]:
        assert 0 < summary["cost_usd"] <= 0.004
    last = consensus("batch", source, "-o", out, *panel, "--json")
    assert last.code == 0 and vendors.count() == 12 + cut
    paid = json.loads(last.out)["cost_usd"]
    assert paid == pytest.approx(12 * (400 * 0.15 + 600 * 0.6) / 1e6), "the bill is of both runs"


def test_the_budget_of_a_configuration_stays_that_of_a_row(consensus, vendors, tmp_path):
    serve(vendors)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"members": ["openai/a", "openai/b"], "quorum": 1, "budget": {"max_calls": 1}}))
    out = tmp_path / "out.jsonl"
    ran = consensus("batch", prompts(tmp_path, 4), "-o", out, "--flow", "pump", "--config", config, "--json")
    assert vendors.count() == 4 and column(out, "status") == ["budget"] * 4 and ran.code == 0
    assert json.loads(ran.out)["status"] == "finished" and json.loads(ran.out)["done"] == 4


def test_a_dry_run_sends_nothing_and_prints_calls_and_cost_by_model(consensus, vendors, tmp_path, monkeypatch):
    # Else the answers are as long as those of the tests before it.
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{tmp_path}/history.db")
    panel = ["--flow", "vote", "-m", "openai/gpt-4o-mini:2", "-m", "openai/unheard-of"]
    source, out = prompts(tmp_path, 10), tmp_path / "out.jsonl"
    ran = consensus("batch", source, "-o", out, *panel, "--dry-run")
    assert ran.code == 0 and vendors.count() == 0 and not out.exists() and not list(tmp_path.glob("*.partial"))
    line = next(line for line in ran.out.splitlines() if "openai/gpt-4o-mini" in line)
    assert " 20 " in line and "$" in line
    assert "10 rows: 30 calls, $0.0060 + 10 calls of unknown price" in ran.out
    found = json.loads(consensus("batch", source, "-o", out, *panel, "--dry-run", "--json").out)
    assert [(one["model"], one["calls_most"]) for one in found["models"]] == [
        ("openai/gpt-4o-mini", 20),
        ("openai/unheard-of", 10),
    ]
    assert found["models"][0]["cost_usd_most"] > 0 and found["cost_usd_most"] is None


def test_row_after_row_without_an_answer_stops_it(consensus, vendors, tmp_path):
    source, out = prompts(tmp_path, 40), tmp_path / "out.jsonl"
    vendors.script("a", then=faults.unauthorized())
    ran = consensus("batch", source, "-o", out, *ONE, "--json")
    summary = json.loads(ran.out)
    assert (ran.code, summary["status"]) == (1, "stopped") and "25 rows in a row" in summary["error"]
    assert vendors.count() < 25 + 8 and summary["not_started"] == 40 == summary["rows"]
    assert "401" in read(out)[0]["error"]
    serve(vendors)
    vendors.script("a", then=failing_for("nothing", faults.hang()))
    sent = vendors.count()
    again = consensus("batch", source, "-o", out, *ONE, "--json")
    assert again.code == 0 and json.loads(again.out)["done"] == 40, "also those that were under way when it was stopped"
    assert vendors.count() == sent + 40


def test_rows_that_fail_of_what_is_in_them_stop_nothing(consensus, vendors, tmp_path):
    serve(vendors)
    vendors.script("a", then=failing_for("Secret", faults.refusal()))
    source = prompts(tmp_path, 30, word="Secret")
    with source.open("a") as file:
        file.write("last,And this?,0\n")
    ran = consensus("batch", source, "-o", tmp_path / "out.jsonl", *ONE, "--json")
    summary = json.loads(ran.out)
    assert (summary["status"], summary["done"], summary["failed"]) == ("finished", 1, 30), summary
    assert ran.code == 1


def test_help_and_no_flow():
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return processes.run(
            [sys.executable, "-m", "consensus_flows.deployments.cli", "batch", *arguments], text=True, timeout=60
        )

    shown = run("--help")
    wanted = ("--output", "--shards", "--name", "INPUT", "--flow CHOICE", "whole batch")
    assert shown.returncode == 0 and all(text in shown.stdout for text in wanted), shown.stdout
    shown = run("--flow", "vote", "--help")
    assert "consensus batch --flow vote --output" in shown.stdout and "--stop-when" in shown.stdout
    wrong = run("prompts.csv", "-m", "openai/a")
    assert wrong.returncode == 2 and "--output" in wrong.stderr


def test_an_interruption_before_it_begins_is_told_too(consensus, monkeypatch, tmp_path):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("consensus_flows.deployments.commands.algorithms.batch.connect", interrupted)
    ran = consensus("batch", prompts(tmp_path, 2), "-o", tmp_path / "out.jsonl", *ONE)
    assert ran.code == 130 and "consensus: interrupted" in ran.err


def test_a_termination_that_prefect_raises_is_told_in_a_sentence(consensus, monkeypatch, tmp_path):
    async def ended(*arguments: object, **options: object) -> None:
        raise TerminationSignal(signal=signal.SIGTERM)

    monkeypatch.setattr("consensus_flows.deployments.commands.algorithms.batch.batch", ended)
    ran = consensus("batch", prompts(tmp_path, 2), "-o", tmp_path / "out.jsonl", *ONE)
    assert ran.code == 143 and "the same command continues" in ran.err


def test_an_interruption_is_told_in_a_sentence(results, vendors, tmp_path):
    serve(vendors, delay=0.2)
    source, out = prompts(tmp_path, 40), tmp_path / "out.jsonl"
    journal = tmp_path / "out.jsonl.partial"
    process = start([source, "-o", out, *ONE, "--concurrency", "2"], environment_of(tmp_path))
    for _ in range(600):
        if journal.exists() and journal.read_text().count('"row":') >= 2:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130, said
    assert "Traceback" not in said and "the same command continues" in said and journal.exists() and not out.exists()
