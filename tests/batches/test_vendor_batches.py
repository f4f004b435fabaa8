"""Batches through the vendors' batch APIs: waves over all rows, at half the price; nothing is executed twice, and nothing is lost."""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from pydantic import SecretStr

from consensus_flows.blocks.consortium import ConsortiumConfig
from consensus_flows.blocks.credentials import OpenAICredentials
from consensus_flows.blocks.settings import Budget
from consensus_flows.blocks.vote import VoteConfig
from consensus_flows.flows.algorithms import algorithm
from consensus_flows.flows.batching import Batch, run_batch
from consensus_flows.tasks.batches.estimate import estimate
from consensus_flows.tasks.batches.source import Source
from consensus_flows.tasks.calls import waves
from consensus_flows.tasks.calls.budget import line_of, spending
from consensus_flows.tasks.calls.providers import endpoint_of
from consensus_flows.tasks.calls.request import Message, Request
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.watch import watched_by
from tests.kits.batch_kit import ROOT, column, environment_of, kill_when, prompts, start
from tests.vendors import ANY, LoopbackVendors, Reply, Usage, faults
from tests.vendors.batch_jobs import JobFault

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
    async with get_client() as client:
        shown = await client.request("POST", "/artifacts/filter", json={"artifacts": {"type": {"any_": ["progress"]}}})
    progress = [one["data"] for one in shown.json() for job in vendors.jobs.jobs if f"({job.id})" in one["description"]]
    assert progress == [100.0] * 3


async def test_no_wait_submits_and_ends_and_the_next_run_collects(vendors: LoopbackVendors, tmp_path: Path) -> None:
    vendors.script(ANY, then=Reply(text="yes"))
    vendors.jobs.hold = True
    source, out = prompts(tmp_path, 10), tmp_path / "out.jsonl"
    for _ in range(2):
        summary = await run_batch(vote_of(source, out, wait=False))
        # The calls by which the models were tried may be all of one row.
        assert (summary.status, summary.done + summary.not_started) == ("waiting", 10)
        assert summary.done <= 1
    assert [len(job.lines) for job in vendors.jobs.jobs] == [9, 9, 9], "submitted once"
    with pytest.raises(ConfigurationError, match="27 lines of this batch are at the vendors"):
        await run_batch(vote_of(source, out, vendor_batch=False))
    assert vendors.count() == 3 + 3 * 4, "nothing is asked for twice: four lines of nine are done"
    vendors.jobs.finish()
    summary = await run_batch(vote_of(source, out, wait=False))
    assert (summary.status, summary.done, summary.cached_calls) == ("finished", 10, 3)
    assert set(vendors.jobs.executions.values()) == {1}
    assert summary.sent_calls == 30
    assert summary.possibly_billed == 0


async def test_waves_of_a_consortium_of_two_iterations(vendors: LoopbackVendors, tmp_path: Path) -> None:
    """Members of all rows, arbiters of all rows, and both again: four waves, whoever is in them."""
    answers = iter(range(10_000))

    def judged(seen: Any) -> Reply:
        if seen.schema is None:
            return Reply(text=f"answer {next(answers)}")
        return Reply()

    vendors.script(ANY, then=judged)
    config = ConsortiumConfig.model_validate(
        {"members": ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"], "arbiter": "google/gemini-2.5-flash"}
        | {"max_iterations": 2, "min_iterations": 2}
    )
    source, out = prompts(tmp_path, 6), tmp_path / "out.jsonl"
    summary = await run_batch(
        Batch(Source(str(source)), str(out), algorithm="consortium", config=config, vendor_batch=True)
    )
    assert (summary.status, summary.done) == ("finished", 6)
    made = [(job.vendor, len(job.lines)) for job in vendors.jobs.jobs]
    assert [sorted(made[:2]), made[2:3], sorted(made[3:5]), made[5:]] == [
        [("anthropic", 5), ("openai", 5)],
        [("google", 5)],
        [("anthropic", 6), ("openai", 6)],
        [("google", 6)],
    ]


@pytest.mark.parametrize(
    "fault",
    [
        JobFault(expires=True),
        JobFault(lost=2),
        JobFault(doubled=3),
        JobFault(unknown=2),
        JobFault(late=3),
        JobFault(fails="invalid_request"),
    ],
    ids=str,
)
@pytest.mark.parametrize("vendor", THREE)
async def test_every_line_is_ticked_off(vendors: LoopbackVendors, tmp_path: Path, vendor: str, fault: JobFault) -> None:
    vendors.script(ANY, then=Reply(text="yes", usage=Usage(input=100, output=10)))
    vendors.jobs.faults.append(fault)
    # Google's expired jobs show nothing of what was done.
    vendors.jobs.done_share = 0.0 if vendor.startswith("google") else 0.5
    source, out = prompts(tmp_path, 8), tmp_path / "out.jsonl"
    notices = list[str]()

    class Notices:
        async def on_event(self, event: str, value: Any) -> None:
            if event == "notice":
                notices.append(value)

    with watched_by(Notices()):
        summary = await run_batch(vote_of(source, out, config={"members": [vendor], "quorum": 1}))
    assert summary.status == "finished"
    if fault.fails:
        # OpenAI names the line, and the others go out again without it.
        assert (summary.done, summary.failed) == ((7, 1) if vendor.startswith("openai") else (1, 7))
        return
    assert (summary.done, summary.failed) == (8, 0)
    assert summary.possibly_billed == fault.lost
    # OpenAI says what all lines have taken, those among them that are in no file.
    assert any("the vendor counts" in text for text in notices) == bool(fault.lost and vendor.startswith("openai"))
    wanted = Counter({1: 7}) if not fault.lost else Counter({1: 5, 2: 2})
    assert Counter(vendors.jobs.executions.values()) == wanted


async def test_by_its_end_what_has_not_come_is_asked_at_once(vendors: LoopbackVendors, tmp_path: Path) -> None:
    vendors.script(ANY, then=Reply(text="yes", usage=Usage(input=100, output=10)))
    vendors.jobs.hold = True
    source, out = prompts(tmp_path, 9), tmp_path / "out.jsonl"
    summary = await run_batch(vote_of(source, out, ends_at=time.time() + 12))
    assert (summary.status, summary.done) == ("finished", 9)
    assert [job.state for job in vendors.jobs.jobs] == ["cancelled"] * 3
    assert vendors.count() == 27, "nothing twice"
    assert sum(model.batch_calls for model in summary.models) == sum(vendors.jobs.executions.values()) == 12


async def test_a_refused_reply_of_an_accepted_batch(vendors: LoopbackVendors, tmp_path: Path) -> None:
    """The vendor has accepted it, and nobody heard of it: it is found, by its mark or by the ids of its results."""
    vendors.script(ANY, then=Reply(text="yes"))
    vendors.script("/batches/create", *[faults.close_before()] * 3)
    source, out = prompts(tmp_path, 6), tmp_path / "out.jsonl"
    summary = await run_batch(vote_of(source, out))
    assert (summary.status, summary.done) == ("finished", 6)
    assert len(vendors.jobs.jobs) == 3
    assert set(vendors.jobs.executions.values()) == {1}


async def test_a_full_queue_is_waited_for_or_the_batch_is_halved(vendors: LoopbackVendors, tmp_path: Path) -> None:
    vendors.script(ANY, then=Reply(text="yes"))
    vendors.jobs.capacity = 4
    source, out = prompts(tmp_path, 12), tmp_path / "out.jsonl"
    summary = await run_batch(vote_of(source, out))
    assert (summary.status, summary.done) == ("finished", 12)
    assert set(vendors.jobs.executions.values()) == {1}
    assert max(len(job.lines) for job in vendors.jobs.jobs if job.state == "completed") <= 4


async def test_a_queue_that_is_found_full_later(vendors: LoopbackVendors, tmp_path: Path) -> None:
    vendors.script(ANY, then=Reply(text="yes"))
    vendors.jobs.capacity, vendors.jobs.refuses_late = 4, True
    source, out = prompts(tmp_path, 9), tmp_path / "out.jsonl"
    summary = await run_batch(vote_of(source, out, config={"members": THREE[:1], "quorum": 1}))
    assert (summary.status, summary.done) == ("finished", 9)
    assert set(vendors.jobs.executions.values()) == {1}


async def test_a_parameter_that_is_refused_is_known_before_the_lines_go_out(
    vendors: LoopbackVendors, tmp_path: Path
) -> None:
    """The first call of a model is made at once: what it refuses costs one call, and not a wave."""

    def picky(seen: Any) -> Reply:
        if "max_tokens" in seen.params:
            said = {"code": "unsupported_parameter", "param": "max_tokens", "type": "invalid_request_error"}
            said["message"] = "Unsupported parameter: 'max_tokens' is not supported with this model."
            return Reply(status=400, body={"error": said})
        return Reply(text="yes")

    vendors.script(ANY, then=picky)
    config = {"members": THREE[:1], "quorum": 1, "sampling": {"max_output_tokens": 9}}
    summary = await run_batch(vote_of(prompts(tmp_path, 6), tmp_path / "out.jsonl", config=config))
    assert (summary.status, summary.done, vendors.count()) == ("finished", 6, 7)
    assert [len(job.lines) for job in vendors.jobs.jobs] == [5]


async def test_errors_of_lines_mean_the_same_as_those_of_calls(vendors: LoopbackVendors, tmp_path: Path) -> None:
    """A line that fails for a while goes out with a later wave; one that is refused is final."""
    first = Counter[str]()

    def moody(seen: Any) -> Reply:
        first[seen.prompt] += 1
        place = [*first].index(seen.prompt)  # the first of all is no line: it is called at once, whichever row it is of
        if place == 2:
            return Reply(text="", finish="content_filter")
        if place == 3 and first[seen.prompt] == 1:
            return Reply(status=500)
        return Reply(text="yes")

    vendors.script(ANY, then=moody)
    config = {"members": THREE[:1], "quorum": 1}
    summary = await run_batch(vote_of(prompts(tmp_path, 6), tmp_path / "out.jsonl", config=config))
    assert (summary.status, summary.done, summary.failed) == ("finished", 5, 1)
    assert summary.models[0].errors == {"content_filter": 1}
    assert [*first.values()] == [1, 1, 1, 2, 1, 1]
    assert [len(job.lines) for job in vendors.jobs.jobs] == [5, 1]


@pytest.mark.parametrize("step", [faults.end_early(), faults.server_error()], ids=["truncated", "server_error"])
async def test_results_that_break_off_are_read_again(vendors: LoopbackVendors, tmp_path: Path, step: Any) -> None:
    vendors.script(ANY, then=Reply(text="yes"))
    vendors.script("/batches/results", step)
    config = {"members": THREE[:2]}
    summary = await run_batch(vote_of(prompts(tmp_path, 6), tmp_path / "out.jsonl", config=config))
    assert (summary.status, summary.done, summary.possibly_billed) == ("finished", 6, 0)
    assert set(vendors.jobs.executions.values()) == {1}


async def test_without_a_batch_api_calls_are_made_at_once(vendors: LoopbackVendors, tmp_path: Path) -> None:
    vendors.script(ANY, then=Reply(text="yes"))
    vendors.script("/batches/create", then=Reply(status=404))
    vendors.script("/batches/upload", then=Reply(status=404))
    summary = await run_batch(vote_of(prompts(tmp_path, 5), tmp_path / "out.jsonl"))
    assert (summary.status, summary.done, vendors.count()) == ("finished", 5, 15)
    assert vendors.jobs.executions == Counter()


async def test_a_budget_holds_at_the_price_of_batches(vendors: LoopbackVendors, tmp_path: Path) -> None:
    vendors.script(ANY, then=Reply(text="yes", usage=Usage(input=1000, output=100)))
    config = {"members": THREE[:1], "quorum": 1, "sampling": {"max_output_tokens": 100}}
    source, out = prompts(tmp_path, 12), tmp_path / "out.jsonl"
    for _ in range(2):
        summary = await run_batch(vote_of(source, out, config=config, budget=Budget(max_calls=7)))
        assert (summary.status, summary.done, vendors.count()) == ("budget", 7, 7)


KILLED_AT = {
    "before the upload": ("/batches/upload", faults.hang()),
    "between the accept and its reply": ("/batches/create", faults.hang()),
    "while it is polled": ("/batches/retrieve", faults.hang()),
    "in the middle of the results": ("/batches/results", faults.stall()),
}


@pytest.mark.parametrize("vendor", THREE)
@pytest.mark.parametrize("at", KILLED_AT)
def test_sigkill_executes_no_line_twice(vendors: LoopbackVendors, tmp_path: Path, vendor: str, at: str) -> None:
    action, step = KILLED_AT[at]
    if not vendor.startswith("openai") and action == "/batches/upload":
        pytest.skip("there is no upload")
    if vendor.startswith("google") and action == "/batches/results":
        pytest.skip("results are inside the job")
    vendors.script(ANY, then=Reply(text="yes", usage=Usage(input=100, output=10)))
    vendors.script(action, step)
    source, out = prompts(tmp_path, 8), tmp_path / "out.jsonl"
    panel = ["--flow", "vote", "-m", vendor, "--extract", "text", "--quorum", "1", "--no-probe", "--vendor-batch"]
    environment = environment_of(tmp_path) | {"CONSENSUS_BATCH_POLL_S": "0.05"}
    process = start([source, "-o", out, *panel], environment)
    assert kill_when(process, lambda: vendors.count(action, kind="batches") > 0)
    done = start([source, "-o", out, *panel, "--json"], environment)
    said, errors = done.communicate(timeout=120)
    assert done.returncode == 0, errors
    summary = json.loads(said)
    assert (summary["status"], summary["done"]) == ("finished", 8)
    assert set(vendors.jobs.executions.values()) == {1}
    assert vendors.count() == 8
    assert summary["sent_calls"] == 8


async def test_the_dry_run_prices_both_ways_and_counts_waves(
    vendors: LoopbackVendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-test")
    config = ConsortiumConfig.model_validate(
        {"members": ["openai/gpt-4o-mini", "openrouter/openai/gpt-4o-mini"], "arbiter": "google/gemini-2.5-flash"}
        | {"max_iterations": 2}
    )
    one = algorithm("consortium")
    found = await estimate(config, one.plan(config), 10, 1000, waves=one.waves(config))
    assert [model.batch_api for model in found.models] == [True, False, True]
    for model in found.models:
        assert model.cost_usd_most is not None
        assert model.batch_usd_most == pytest.approx(model.cost_usd_most * (0.5 if model.batch_api else 1))
    assert (found.waves_least, found.waves_most) == (2, 6)


def test_what_is_at_the_vendors_is_listed(vendors: LoopbackVendors, tmp_path: Path) -> None:
    vendors.script(ANY, then=Reply(text="yes"))
    vendors.jobs.hold = True
    source, out = prompts(tmp_path, 6), tmp_path / "out.jsonl"
    panel = ["--flow", "vote", "-m", THREE[0], "-m", THREE[1], "--extract", "text", "--no-probe"]
    environment = environment_of(tmp_path) | {"CONSENSUS_BATCH_POLL_S": "0.05"}
    waiting = start([source, "-o", out, *panel, "--vendor-batch", "--no-wait"], environment)
    assert waiting.wait(120) == 8
    command = [sys.executable, "-m", "consensus_flows.deployments.cli", "batches", "vendors", "--json"]
    listed = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(listed.stdout)
    assert [(one["model"], one["state"], one["lines"], one["output"]) for one in found] == [
        (THREE[0], "in_progress", 5, str(out)),
        (THREE[1], "in_progress", 5, str(out)),
    ]
    listed = subprocess.run(
        command[:-2], env=environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert "\twaiting\t" in listed.stdout
    assert "`consensus batches vendors`" in listed.stderr


async def test_a_line_reserves_half_of_what_a_call_does(vendors: LoopbackVendors) -> None:
    request = Request(provider="openai", model="gpt-4o-mini", messages=(Message(role="user", content="Why?"),))
    endpoint = await endpoint_of("openai", "gpt-4o-mini")
    with spending(Budget(max_cost_usd=1)) as tracker:
        line, call = await line_of(request, endpoint), await tracker.wanted(request, endpoint)
    assert call.cost_usd
    assert line.cost_usd == pytest.approx(call.cost_usd / 2)
    assert line.tokens == call.tokens


async def test_a_model_that_is_disabled_loses_no_line_that_it_has_answered(
    vendors: LoopbackVendors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results come last first: the model is disabled over the last rows before the others are read."""
    monkeypatch.setattr(waves, "AT_ONCE", 1)

    def said(seen: Any) -> Reply:
        row = int(seen.prompt.removeprefix("What is ").removesuffix("?"))
        return Reply(status=401) if row >= 6 else Reply(text="yes")

    vendors.script(ANY, then=said)
    config = {"members": THREE[1:2], "quorum": 1}
    summary = await run_batch(vote_of(prompts(tmp_path, 12), tmp_path / "out.jsonl", config=config))
    assert (summary.done, summary.failed) == (6, 6)
    assert [one.kind for one in summary.taken_out] == ["auth"]


async def test_a_disabled_model_gets_no_more_lines(vendors: LoopbackVendors, tmp_path: Path) -> None:
    """What the members of a second iteration would ask it is refused before it goes out."""

    def said(seen: Any) -> Reply:
        if seen.model == "claude-haiku-4-5":
            return Reply(status=401)
        return Reply() if seen.schema else Reply(text=f"answer {seen.prompt}")

    vendors.script(ANY, then=said)
    config = ConsortiumConfig.model_validate(
        {"members": THREE[:2], "arbiter": THREE[2], "quorum": 1, "max_iterations": 2, "min_iterations": 2}
    )
    source = Source(str(prompts(tmp_path, 6)))
    summary = await run_batch(
        Batch(source, str(tmp_path / "out.jsonl"), algorithm="consortium", config=config, vendor_batch=True)
    )
    assert (summary.status, summary.done) == ("finished", 6)
    assert vendors.count("claude-haiku-4-5") == 6


LONG = "You read letters to the editor. " + "State the town, the date and the name, and nothing else. " * 400
"""A system prompt of some 5,800 tokens: every model of the three vendors keeps as much."""


@pytest.mark.parametrize("vendor_batch", [True, False])
async def test_a_long_system_prompt_is_read_from_the_vendors_prompt_caches(
    vendors: LoopbackVendors, tmp_path: Path, vendor_batch: bool
) -> None:
    config = {"system": LONG, "quorum": 1, "fresh": True}
    given: dict[str, Any] = {"vendor_batch": vendor_batch, "concurrency": 1, "config": config}
    vendors.script(ANY, then=Reply(text="yes"))
    summary = await run_batch(vote_of(prompts(tmp_path, 10), tmp_path / "out.jsonl", **given))
    assert (summary.done, vendors.count()) == (10, 30)
    for model in summary.models:
        # Anthropic keeps what is marked, from the second call on; the others find by themselves what was there before.
        least = 0.75 if model.model.startswith("anthropic") and not vendor_batch else 0.85
        assert model.cached_input_tokens > least * model.input_tokens, model
    asked = summary.models[0].input_tokens // 10
    vendors.script(ANY, then=Reply(text="yes", usage=Usage(input=asked, output=1)))
    plain = await run_batch(vote_of(prompts(tmp_path, 10), tmp_path / "plain.jsonl", **given))
    assert summary.cost_usd is not None and plain.cost_usd is not None
    assert summary.cost_usd < 0.4 * plain.cost_usd


async def test_small_waves_are_asked_at_once_where_that_is_wanted(
    vendors: LoopbackVendors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSENSUS_BATCH_MIN_LINES", "6")
    vendors.script(ANY, then=Reply(text="yes"))
    for rows, lines in ((7, [6]), (5, [])):  # the first call of a model is none
        vendors.jobs.executions.clear()
        config = {"members": THREE[:1], "quorum": 1, "fresh": True}
        before = len(vendors.jobs.jobs)
        summary = await run_batch(vote_of(prompts(tmp_path, rows), tmp_path / f"{rows}.jsonl", config=config))
        assert (summary.status, summary.done) == ("finished", rows)
        assert [len(job.lines) for job in vendors.jobs.jobs[before:]] == lines


async def test_an_address_without_a_batch_api_is_remembered(vendors: LoopbackVendors, tmp_path: Path) -> None:
    """It is asked for one once, and not in every wave."""

    def said(seen: Any) -> Reply:
        return Reply() if seen.schema else Reply(text=f"answer {seen.prompt}")

    vendors.script(ANY, then=said)
    vendors.script("/batches/upload", then=Reply(status=404))
    config = ConsortiumConfig.model_validate(
        {"members": THREE[:1], "arbiter": "openai/gpt-4o", "quorum": 1, "max_iterations": 2, "min_iterations": 2}
    )
    source = Source(str(prompts(tmp_path, 6)))
    summary = await run_batch(
        Batch(source, str(tmp_path / "out.jsonl"), algorithm="consortium", config=config, vendor_batch=True)
    )
    assert (summary.status, summary.done, vendors.count()) == ("finished", 6, 24)
    assert vendors.count("/batches/upload", kind="batches") == 1


def test_the_run_of_a_panel_in_a_panel_is_waited_for(vendors: LoopbackVendors) -> None:
    inner = {"flow": "consortium", "config": {"members": THREE[:2], "arbiter": THREE[2], "max_iterations": 2}}
    panels = {"panels": {"night": inner}}
    members = ["panel/night", THREE[0], THREE[1]]
    for name, config, wanted in (
        ("pump", {"members": members}, (2, 6)),
        ("vote", {"members": members, "extract": "number"}, (2, 6)),
        ("vote", {"members": members[1:], "extract": "llm", "extractor": "panel/night"}, (3, 7)),
        ("prefer", {"members": members}, (4, 12)),
        ("consortium", {"members": members, "arbiter": THREE[0], "max_iterations": 1}, (3, 8)),
        ("consortium", {"members": members[1:], "arbiter": "panel/night", "max_iterations": 1}, (3, 13)),
        (
            "mixture-of-agents",
            {"layers": [{"members": members}, {"members": members[1:]}], "aggregator": THREE[0]},
            (4, 8),
        ),
    ):
        one = algorithm(name)
        assert one.waves(one.config_class().model_validate(config | panels)) == wanted, name


async def test_a_server_with_openais_batch_api_is_used_like_openai(vendors: LoopbackVendors, tmp_path: Path) -> None:
    """Its key is saved as one for OpenAI, at its own address."""
    vendors.script(ANY, then=Reply(text="yes", usage=Usage(input=100, output=10)))
    saved = OpenAICredentials(api_key=SecretStr("sk-elsewhere"), base_url=vendors.openai_url)
    await saved.save("elsewhere", overwrite=True)
    try:
        config = {"members": ["elsewhere/llama"], "quorum": 1, "prices": ["elsewhere/llama=1/1"]}
        summary = await run_batch(vote_of(prompts(tmp_path, 6), tmp_path / "out.jsonl", config=config))
    finally:
        await OpenAICredentials.adelete("elsewhere")
    assert (summary.status, summary.done, sum(vendors.jobs.executions.values())) == ("finished", 6, 5)
    assert summary.cost_usd == pytest.approx((1 + 5 * 0.5) * 110e-6)
