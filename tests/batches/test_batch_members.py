"""Members that cannot answer: found before the first row, disabled when they keep failing, and said."""

import json
import socket
import time

import pytest

from consensus_flows.blocks.member import ModelName
from consensus_flows.tasks.calls.breaker import Breaker, breaking, guarded
from consensus_flows.tasks.calls.probe import probe
from consensus_flows.tasks.calls.providers import check_models
from consensus_flows.tasks.calls.request import Answer, Message, Request
from consensus_flows.tasks.errors import ModelError
from consensus_flows.tasks.record import TakenOut
from consensus_flows.tasks.watch import watched_by
from tests.kits.batch_kit import THREE, answer, column, prompts, read, serve
from tests.kits.command_kit import Command, commands
from tests.vendors import ANY, LoopbackVendors, Reply, faults


@pytest.fixture
def consensus(results: str, vendors: LoopbackVendors, monkeypatch, capsys) -> Command:
    serve(vendors)
    return commands(monkeypatch, capsys)


def test_a_model_that_cannot_answer_is_found_before_the_first_row(consensus, vendors, tmp_path, monkeypatch):
    vendors.models = ["b", "c", "gpt-6-luna", "gpt-6.1-sol"]
    vendors.script(ANY, then=lambda seen: faults.not_found()(seen) if seen.model == "gpt-6-lina" else answer(seen))
    file, out = prompts(tmp_path, 3), tmp_path / "out.jsonl"
    panel = ["--flow", "vote", "-m", "openai/gpt-6-lina", "-m", "anthropic/b", "-m", "google/c"]
    for extra in ([], ["--dry-run"]):
        ran = consensus("batch", file, "-o", out, *panel, *extra)
        assert ran.code == 2 and not out.exists()
        assert "openai/gpt-6-lina" in ran.err and "Did you mean gpt-6-luna" in ran.err and vendors.openai_url in ran.err
        assert vendors.count() == vendors.count("gpt-6-lina")  # the test call
    consensus("save", "misspelt", *panel)
    ran = consensus("check", "misspelt")
    assert ran.code == 2 and "gpt-6-lina" in ran.out and "gpt-6-luna" in ran.out
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("ANTHROPIC_BASE_URL", nobody)
    ran = consensus("batch", file, "-o", out, *panel)
    assert ran.code == 2 and f"anthropic/b: {nobody} cannot be reached" in ran.err
    assert consensus("batch", file, "-o", out, *panel, "--no-probe", "--quorum", "1").code == 4
    assert len(read(out)) == 3


def test_what_a_list_does_not_say_blocks_nobody(consensus, vendors, tmp_path):
    """A gateway without a list, a list without the model, a key that may not list: a test call decides, and a busy vendor proves nothing."""
    file = prompts(tmp_path, 2)
    for number, (listing, calls) in enumerate(
        [
            (faults.not_found(), 3),
            (faults.forbidden(), 3),
            (Reply(body={"data": [{"id": "another"}], "models": [{"name": "models/another"}]}), 3),
            (faults.server_error(), 0),
            (None, 0),
        ]
    ):
        vendors.reset()
        serve(vendors)
        vendors.script("/models", then=listing)
        ran = consensus("batch", file, "-o", tmp_path / f"{number}.jsonl", *THREE, "--fresh", "--json")
        assert ran.code == 0, ran.err
        assert vendors.count() == calls + 6 and json.loads(ran.out)["sent_calls"] == 6


@pytest.mark.parametrize(
    ("on_list", "on_call", "calls", "found"),
    [
        (Reply(body={"data": []}), faults.not_found(), 1, "not_found"),
        (Reply(body={"data": []}), faults.unauthorized(), 1, "auth"),
        (Reply(body={"data": []}), faults.bad_request(), 1, None),  # it answers, if not to these few tokens
        (Reply(body={"data": []}), faults.overloaded(), 1, None),
        (Reply(body={"data": []}), None, 1, None),
        (faults.unauthorized(), faults.unauthorized(), 1, "auth"),
        (faults.rate_limit(), faults.not_found(), 0, None),
        (faults.overloaded(), faults.not_found(), 0, None),
    ],
)
@pytest.mark.usefixtures("prefect_server")
async def test_what_a_list_and_a_test_call_show(on_list, on_call, calls, found, vendors):
    name = ModelName("openai", "x")
    vendors.script("/models", then=on_list)
    if on_call is not None:
        vendors.script("x", then=on_call)
    shown = await probe(await check_models([name]))
    assert (vendors.count("x"), len(shown.tested)) == (calls, calls)
    assert found in shown.problems[name] if found else shown.problems == {}


def test_a_dead_member_is_disabled_and_said(consensus, vendors, tmp_path, monkeypatch):
    monkeypatch.setenv("CONSENSUS_BACKOFF_S", "0.2")
    vendors.script("a", then=faults.server_error())
    file, out = prompts(tmp_path, 48), tmp_path / "out.jsonl"
    ran = consensus("batch", file, "-o", out, *THREE, "--json")
    summary = json.loads(ran.out)
    assert ran.code == 4 and summary["done"] == summary["degraded"] == 48
    assert summary["never_answered"] == ["openai/a"] and [one["kind"] for one in summary["taken_out"]] == ["server"]
    assert vendors.count("a") < 30, "five tries of each row would be 240"
    assert vendors.count("b") == 48
    assert "not asked" not in column(out, "warnings")[0] and "disabled after row" in column(out, "warnings")[-1]
    # The next run asks it again, and is done with it.
    vendors.script("a", then=Reply(text="B SAYS"))
    again = json.loads(consensus("batch", file, "-o", out, *THREE, "--json").out)
    assert again["degraded"] == 0 and again["never_answered"] == again["taken_out"] == []


def test_a_strict_batch_fails_and_does_those_rows_again(consensus, vendors, tmp_path):
    vendors.script("a", then=faults.unauthorized())
    file, out = prompts(tmp_path, 12), tmp_path / "out.jsonl"
    ran = consensus("batch", file, "-o", out, *THREE, "--strict", "--json", "--no-probe")
    summary = json.loads(ran.out)
    assert (ran.code, summary["status"], summary["done"]) == (1, "stopped", 0)
    assert "openai/a" in summary["error"] and vendors.count("a") < 12
    vendors.script("a", then=Reply(text="fine"))
    ran = consensus("batch", file, "-o", out, *THREE, "--strict", "--json")
    assert (ran.code, json.loads(ran.out)["degraded"]) == (0, 0)
    # Too few rows to take it out, and still it never answered.
    vendors.script("a", then=faults.unauthorized())
    few = prompts(tmp_path, 2, "few.csv", word="Who is")
    assert consensus("batch", few, "-o", tmp_path / "few.jsonl", *THREE, "--no-probe").code == 4
    assert consensus("batch", few, "-o", tmp_path / "few2.jsonl", *THREE, "--no-probe", "--strict").code == 1


def test_when_a_breaker_takes_a_model_out(monkeypatch):
    monkeypatch.setenv("CONSENSUS_BACKOFF_S", "1")
    now = time.monotonic()
    busy, dead = ModelError("x: server: HTTP 500", kind="server", retryable=True), ModelError("x: auth", kind="auth")

    def fails(error: ModelError, *, rows: int, ago: float, breaker: Breaker | None = None) -> bool:
        breaker = breaker or Breaker()
        return any(breaker.note_failure("x", str(row), now - ago, error) for row in range(rows))

    assert fails(dead, rows=3, ago=0) and not fails(dead, rows=2, ago=100)
    assert fails(busy, rows=3, ago=1) and not fails(busy, rows=9, ago=0)
    assert not fails(ModelError("x", kind="content_filter"), rows=9, ago=100)
    lively = Breaker()
    lively.note_answer("x")
    assert not fails(busy, rows=9, ago=30, breaker=lively) and fails(busy, rows=9, ago=90, breaker=Breaker())
    lively = Breaker()
    lively.note_failure("x", "1", now, dead)
    lively.note_failure("x", "2", now, dead)
    lively.note_answer("x")
    assert not lively.note_failure("x", "3", now, dead)
    lively.out["x"] = TakenOut(model="x", kind="auth", row="3", message="x: auth")
    with pytest.raises(ModelError) as error:
        lively.check("x")
    assert error.value.taken_out and error.value.kind == "auth" and not error.value.retryable


async def test_a_model_is_said_to_be_disabled_once_and_not_tried_again(monkeypatch):
    monkeypatch.setenv("CONSENSUS_BACKOFF_S", "0")
    breaker, notices, errors = Breaker(), [], []

    class Ears:
        async def on_event(self, event: str, value: object) -> None:
            notices.append((event, str(value)))

    async def send() -> Answer:
        raise ModelError("openai/x: server: HTTP 500", kind="server", retryable=True)

    request = Request(provider="openai", model="x", messages=(Message(role="user", content="Why?"),))
    for row in range(4):
        with watched_by(Ears()), breaking(breaker, str(row)), pytest.raises(ModelError) as caught:
            await guarded(request, send)
        errors.append((caught.value.retryable, caught.value.taken_out))
    assert errors == [(True, False), (True, False), (False, False), (False, True)]
    ((event, text),) = notices
    assert event == "notice" and "was disabled after row 2" in text


def test_an_output_of_another_input_is_not_replaced(consensus, vendors, tmp_path):
    panel, others = ["--flow", "pump", "-m", "openai/a"], prompts(tmp_path, 1, "others.csv", word="Who is")
    file = prompts(tmp_path, 3)
    for ending in ("jsonl", "csv", "parquet"):
        out = tmp_path / f"out.{ending}"
        assert consensus("batch", file, "-o", out, *panel).code == 0
        before, asked = out.read_bytes(), vendors.count()
        ran = consensus("batch", others, "-o", out, *panel)
        assert ran.code == 2 and "--overwrite" in ran.err and (out.read_bytes(), vendors.count()) == (before, asked)
        grown = prompts(tmp_path, 4)
        assert consensus("batch", grown, "-o", out, *panel).code == 0
        assert consensus("batch", others, "-o", out, *panel, "--overwrite").code == 0
        prompts(tmp_path, 3)
    own = tmp_path / "mine.jsonl"
    own.write_text("notes of mine\n")
    assert consensus("batch", file, "-o", own, *panel).code == 2 and own.read_text() == "notes of mine\n"


def test_a_price_can_be_given(consensus, vendors, tmp_path):
    """Sums say what is known and what is not; a budget in US dollars holds for what has a price."""
    file = prompts(tmp_path, 2)
    panel = ["--flow", "vote", "-m", "openai/gpt-5-mini", "-m", "openai/mine", "--max-cost", "1"]
    ran = consensus("batch", file, "-o", tmp_path / "1.jsonl", *panel, "--json")
    summary = json.loads(ran.out)
    assert ran.code == 0 and summary["cost_usd"] is None
    assert summary["known_cost_usd"] > 0 and summary["unpriced_calls"] == 2
    ran = consensus("batch", file, "-o", tmp_path / "2.jsonl", *panel, "--fresh")
    assert "does not cover openai/mine" in ran.err and "+ 2 calls of unknown price" in ran.err
    assert "+ 2 calls of unknown price" in consensus("batch", file, "-o", tmp_path / "3.jsonl", *panel, "--dry-run").out
    given = ["--price", "openai/mine=1000/2000", "--price", "openai/gpt-5-mini=0/0", "--fresh"]
    ran = consensus("vote", "What is it?", *panel[2:-2], *given, "--json")
    record = json.loads(ran.out)
    used = record["iterations"][0]["responses"][1]["usage"]
    assert record["cost_usd"] == pytest.approx((used["input_tokens"] + 2 * used["output_tokens"]) / 1000)
    ran = consensus("batch", file, "-o", tmp_path / "4.jsonl", *panel[:-2], *given, "--max-cost", "0.001", "--json")
    assert ran.code in {1, 3} and json.loads(ran.out)["status"] == "budget"
    for wrong in ("openai/mine=1", "openai/miner=1/2", "=1/2", "openai/mine=-1/2"):
        assert consensus("vote", "What?", "-m", "openai/mine", "--price", wrong).code == 2
    assert consensus("vote", "What?", "-m", "openai/mine", "--max-cost", "1").code == 2
    assert consensus("vote", "What?", "-m", "openai/mine", "--max-cost", "1", "--price", "openai/mine=1/2").code == 0
    assert consensus("save", "priced", "--flow", "vote", "-m", "openai/mine", "--price", "openai/mine=0/7").code == 0
    assert json.loads(consensus("show", "priced").out)["prices"] == ["openai/mine=0/7"]


def test_the_environment_says_where_a_saved_key_goes(consensus, vendors, monkeypatch):
    """A saved base URL overrules it, and that is said."""
    assert consensus("keys", "set", "openai", stdin="sk-saved-key-of-the-tests\n").code == 0
    try:
        ran = consensus("vote", "Where?", "-m", "openai/a", "--json")
        assert ran.code == 0 and json.loads(ran.out)["warnings"] == []
        assert f"{vendors.openai_url}\tthe base URL is OPENAI_BASE_URL" in consensus("keys", "list").out
        assert f"{vendors.openai_url} (saved; the base URL is OPENAI_BASE_URL)" in consensus("check").out
        assert consensus("keys", "set", "openai", "--base-url", vendors.openai_url, stdin="sk-saved-key\n").code == 0
        monkeypatch.setenv("OPENAI_BASE_URL", "https://gateway.example.org/v1")
        ran = consensus("vote", "Where to?", "-m", "openai/a", "--json")
        (warning,) = json.loads(ran.out)["warnings"]
        assert ran.code == 0 and warning["kind"] == "base_url" and "gateway.example.org" in warning["message"]
        assert "not OPENAI_BASE_URL=https://gateway.example.org/v1" in consensus("keys", "list").out
    finally:
        consensus("keys", "remove", "openai")
