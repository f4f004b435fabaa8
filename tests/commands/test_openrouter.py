"""`consensus openrouter`: the account, the models, which free ones work at which endpoint, a completion, a chat."""

import json
from itertools import pairwise
from typing import Any

import pytest

from consensus_flows.blocks.free_models import FreeModelsConfig
from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.deployments.terminal import Stop
from consensus_flows.flows import openrouter_models
from consensus_flows.flows.completion import run_completion
from consensus_flows.flows.openrouter_models import openrouter_working_models
from consensus_flows.tasks.calls import providers
from consensus_flows.tasks.calls.attempt import REPAIRS
from consensus_flows.tasks.errors import ConfigurationError, ModelError
from consensus_flows.tasks.openrouter import FILES, TRIED, Trial, Trials, account, free_models, list_models
from tests.kits.command_kit import commands
from tests.kits.openrouter_server import FREE, OpenRouterServer, described
from tests.vendors import Reply, faults

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]

DAY = Reply(
    status=429,
    body={"error": {"code": 429, "message": "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000"}},
)
MINUTE = Reply(status=429, body={"error": {"code": 429, "message": "Rate limit exceeded: free-models-per-min."}})


@pytest.fixture
def server(monkeypatch):
    with OpenRouterServer() as server:
        monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-v1-canary0123456789")
        monkeypatch.setenv("OPENROUTER_BASE_URL", server.openrouter_url)
        providers._saved.clear()
        REPAIRS.clear()
        yield server


@pytest.fixture
def consensus(server, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return commands(monkeypatch, capsys)


def paths(server) -> list[str]:
    return [seen.path.removeprefix("/openrouter/api/v1") for seen in server.seen]


def files(folder) -> dict[str, list[str]]:
    """The models in each of the files."""
    return {
        path.name: [model["id"] for model in json.loads(path.read_text())["data"]]
        for path in folder.glob("*.json")
        if path.name != TRIED
    }


def config(folder, **settings: Any) -> FreeModelsConfig:
    return FreeModelsConfig(output_dir=str(folder), **({"interval": 0} | settings))


# The account.


async def test_account(server):
    found = await account()
    assert found["credits"] == {"total_credits": 10.0, "total_usage": 2.5, "remaining": 7.5}
    assert found["key"] == {"limit": 10, "limit_remaining": 7.5, "usage": 2.5, "is_free_tier": False}
    assert server.seen[0].headers["authorization"] == "Bearer sk-or-v1-canary0123456789"


def test_credits(consensus):
    ran = consensus("openrouter", "credits")
    assert ran.code == 0 and "credits\tremaining\t7.5" in ran.out and "sk-or" not in ran.out + ran.err
    assert json.loads(consensus("openrouter", "credits", "--json").out)["credits"]["total_usage"] == 2.5


def test_credits_of_a_key_that_may_not_see_them_are_the_key_s_limits(consensus, server):
    server.script("/credits", then=faults.forbidden())
    ran = consensus("openrouter", "credits")
    assert ran.code == 0 and "key\tlimit_remaining\t7.5" in ran.out and "credits\t" not in ran.out
    assert "openrouter/credits: auth: HTTP 403" in ran.err


def test_a_refused_key_is_exit_1_and_not_shown(consensus, server):
    refusal = Reply(status=401, text="No auth credentials found for sk-or-v1-canary0123456789")
    for path in ("/credits", "/key", "/models"):
        server.script(path, then=refusal)
    for command in ("credits", "models"):
        ran = consensus("openrouter", command)
        assert ran.code == 1 and "auth: HTTP 401" in ran.err and "canary" not in ran.out + ran.err
    assert len(server.seen) == 3  # not asked again


def test_without_a_key_nothing_is_sent(consensus, server, monkeypatch):
    monkeypatch.delenv("OPENROUTER_API_KEY")
    ran = consensus("openrouter", "models")
    assert ran.code == 2 and "OPENROUTER_API_KEY" in ran.err and not server.seen


# The models.


async def test_a_look_up_is_tried_again_where_that_makes_sense(server):
    server.script("/models", faults.server_error(), faults.rate_limit(retry_after=0.05))
    assert len(await list_models()) == 5
    assert len(server.seen) == 3
    server.script("/models", then=Reply(body={"error": {"code": 503, "message": "down"}}))
    with pytest.raises(ModelError, match="openrouter/models: overloaded: HTTP 503: down"):
        await list_models()
    server.script("/models", then=Reply(body="<html>hello</html>"))
    with pytest.raises(ModelError, match="malformed"):
        await list_models()


def test_free_is_what_has_no_price_but_zero():
    zero = [described("a", FREE), described("b", {"prompt": 0, "completion": "0e0", "overrides": [{"prompt": "0"}]})]
    other = [
        described("c", {"prompt": "0", "completion": "0.1"}),
        described("d", {"prompt": "-1", "completion": "-1"}),
        described("e", {"prompt": "0", "overrides": [{"prompt": "1"}]}),
        described("f", {"prompt": "free"}),
        described("g", {}),
        {"id": "h"},
    ]
    assert free_models([*zero, *other]) == zero


def test_models_are_written_and_printed(consensus, tmp_path):
    ran = consensus("openrouter", "models", "--output-dir", tmp_path / "lists")
    assert ran.code == 0 and ran.out == "a/free:free\nb/free:free\n" and "5 models, 2 of them free" in ran.err
    assert files(tmp_path / "lists") == {
        "models.json": ["a/free:free", "b/free:free", "c/paid", "openrouter/auto", "d/unpriced"],
        "free_models.json": ["a/free:free", "b/free:free"],
    }
    assert consensus("openrouter", "models").out == ran.out
    ran = consensus("openrouter", "models", "--json")
    assert [len(models) for models in json.loads(ran.out).values()] == [5, 2] and ran.err == ""
    assert not (tmp_path / "models.json").exists()


# Which free ones work.


async def test_each_is_tried_at_both_endpoints_and_what_was_tried_is_kept(server, tmp_path):
    server.script("b/free:free", then=faults.not_found())
    server.script("a/free:free completions", then=faults.error_in_success())
    found = await openrouter_working_models(config(tmp_path))
    assert (found.chat_completions, found.completions) == (["a/free:free"], ["b/free:free"])
    assert server.count() == 4 and not found.untried and found.tried_now == 4
    causes = {(one.model[0], one.endpoint): one.error.kind for one in found.trials if one.error}
    assert causes == {("b", "chat_completions"): "not_found", ("a", "completions"): "server"}
    assert files(tmp_path) == {
        "models.json": [model["id"] for model in server.listed],
        "free_models.json": ["a/free:free", "b/free:free"],
        FILES["chat_completions"]: ["a/free:free"],
        FILES["completions"]: ["b/free:free"],
    }
    state = await openrouter_working_models(config(tmp_path), return_state=True)
    assert state.message == "at /chat/completions 1 model, at /completions 1"
    again = await state.result()
    assert server.count() == 4 and again.tried_now == 0 and again.chat_completions == found.chat_completions
    server.listed.append(described("e/new:free", FREE))
    assert (await openrouter_working_models(config(tmp_path))).tried_now == 2
    assert server.count() == 6
    # A server's failure may have passed; that there is no such model may not.
    assert (await openrouter_working_models(config(tmp_path, again=True))).tried_now == 1
    assert (await openrouter_working_models(config(tmp_path, fresh=True))).tried_now == 6
    assert server.count() == 13


async def test_starts_are_spaced_and_slow_answers_overlap(server, tmp_path):
    for name in ("a/free:free", "b/free:free"):
        server.script(name, then=Reply(text="hello", delay=1.5))
    # Far apart, since a first request that arrives late on a busy machine makes the next gap shorter.
    await openrouter_working_models(config(tmp_path, interval=0.8))
    starts = [seen.at for seen in server.seen if seen.kind == "chat"]
    gaps = [after - before for before, after in pairwise(starts)]
    assert len(gaps) == 3 and min(gaps) > 0.56 and starts[-1] - starts[0] < 3.9
    assert server.in_flight_peak >= 2


async def test_an_answer_that_is_cut_off_works_too_and_an_empty_one_does_not(server, tmp_path):
    server.script("a/free:free", then=faults.truncated())
    server.script("b/free:free", then=faults.empty())
    found = await openrouter_working_models(config(tmp_path))
    assert found.chat_completions == ["a/free:free"]


async def test_the_limit_of_a_day_ends_the_run_and_the_next_goes_on(server, tmp_path):
    server.script("b/free:free", DAY)
    found = await openrouter_working_models(config(tmp_path, interval=0.5))
    assert "free-models-per-day" in (found.stopped or "") and found.untried == ["b/free:free"]
    assert found.tried_now == 2 and server.count() == 3
    found = await openrouter_working_models(config(tmp_path))
    assert found.stopped is None and found.tried_now == 2 and found.chat_completions == ["a/free:free", "b/free:free"]
    assert server.count() == 5


async def test_the_limit_of_a_minute_is_waited_for_and_is_no_fault_of_the_model(server, tmp_path, monkeypatch):
    monkeypatch.setattr(openrouter_models, "MINUTE_S", 0.3)
    server.script("a/free:free", MINUTE)
    found = await openrouter_working_models(config(tmp_path))
    assert found.chat_completions == ["a/free:free", "b/free:free"]
    sent = [seen.at for seen in server.seen if seen.model == "a/free:free"]
    assert len(sent) == 2 and sent[1] - sent[0] >= 0.3
    server.script("a/free:free", then=MINUTE)
    found = await openrouter_working_models(config(tmp_path, fresh=True, models=["a/free:free"]))
    assert found.chat_completions == [] and found.stopped is None
    (failed,) = [trial for trial in found.trials if trial.error]
    assert failed.error is not None and failed.error.retryable


async def test_one_request_a_trial_and_never_from_the_store(server, tmp_path, monkeypatch):
    monkeypatch.setenv("CONSENSUS_RETRIES", "4")
    server.script("a/free:free", faults.server_error())
    found = await openrouter_working_models(config(tmp_path, models=["a/free:free"]))
    assert server.count() == 2 and found.chat_completions == []
    await openrouter_working_models(config(tmp_path, models=["a/free:free"], fresh=True))
    await openrouter_working_models(config(tmp_path, models=["a/free:free"], fresh=True))
    assert server.count() == 6


async def test_bad_input_tries_nothing(server, tmp_path):
    with pytest.raises(ConfigurationError, match="not among OpenRouter's 2 free ones: c/paid"):
        await openrouter_working_models(config(tmp_path, models=["c/paid"]))
    state = await openrouter_working_models(config(tmp_path, models=["c/paid"]), return_state=True)
    assert state.is_failed() and state.message.startswith("models: not among OpenRouter's 2 free ones")
    (tmp_path / TRIED).write_text("{")
    with pytest.raises(ConfigurationError, match=TRIED.replace(".", r"\.")):
        await openrouter_working_models(config(tmp_path))
    assert server.count() == 0


def test_trials_at_another_address_are_not_of_this_account(tmp_path):
    from consensus_flows.tasks.openrouter import read_trials, write_trials

    trials = Trials(address="https://one")
    trials.add(Trial(model="a", endpoint="completions", works=True))
    trials.add(Trial(model="a", endpoint="completions", works=False))
    write_trials(tmp_path, trials, [])
    assert read_trials(tmp_path, "https://one").trials == trials.trials and len(trials.trials) == 1
    assert read_trials(tmp_path, "https://two").trials == []


def test_working_models(consensus, server, tmp_path):
    server.script("b/free:free completions", then=faults.not_found())
    ran = consensus("openrouter", "working-models", "--interval", "0", "--output-dir", tmp_path)
    assert ran.code == 0, ran
    assert ran.out.splitlines() == [
        "chat_completions\ta/free:free",
        "chat_completions\tb/free:free",
        "completions\ta/free:free",
    ]
    assert "4 trials to do" in ran.err and "✗ b/free:free completions: openrouter/b/free:free: not_found" in ran.err
    ran = consensus("openrouter", "working-models", "--interval", "0", "--json")
    assert json.loads(ran.out)["tried_now"] == 0 and server.count() == 4
    server.script("a/free:free", then=DAY)
    ran = consensus("openrouter", "working-models", "--interval", "0.1", "--fresh")
    assert ran.code == 1 and "2 models left to try" in ran.err
    assert consensus("openrouter", "working-models", "--interval", "-1").code == 2


# A completion.


async def test_a_completion_is_sent_to_its_endpoint_costed_and_stored_apart_from_a_chat(server):
    panel = PumpConfig.model_validate(
        {"members": ["openrouter/a/free:free"], "sampling": {"max_output_tokens": 20, "temperature": 0.7, "top_k": 5}}
    )
    server.script("a/free:free completions", then=Reply(text=" there was a king"))
    record = await run_completion("Once upon a time", panel)
    (seen,) = server.seen
    assert paths(server) == ["/completions"]
    assert seen.params == {
        "model": "a/free:free",
        "prompt": "Once upon a time",
        "max_tokens": 20,
        "temperature": 0.7,
        "top_k": 5,
    }
    assert record.flow == "completion" and record.answer == " there was a king"
    assert record.cost_usd is not None and record.cost_usd > 0 and record.usage.output_tokens > 0
    assert (await run_completion("Once upon a time", panel)).cached_calls == 1
    from consensus_flows.flows.pump import run_pump

    await run_pump("Once upon a time", panel)
    assert paths(server) == ["/completions", "/chat/completions"]


@pytest.mark.parametrize(
    ("step", "kind", "sent"),
    [
        (faults.unauthorized(), "auth", 1),
        (faults.payment_required(), "quota", 1),
        (faults.server_error(), "server", 3),
        (faults.truncated(), "truncated", 1),
        (faults.error_in_success(), "server", 3),
        (faults.no_choices(), "empty", 2),
        (Reply(body={"hello": 1}), "empty", 2),
        (faults.close_before(), "connection", 2),
    ],
)
async def test_failures_of_completions_mean_what_they_mean_in_a_chat(server, monkeypatch, step, kind, sent):
    monkeypatch.setenv("CONSENSUS_RETRIES", "2")
    name = f"m/{kind}-{sent}"
    server.script(f"{name} completions", then=step)
    record = await run_completion(f"{kind} {sent}", PumpConfig(members=[f"openrouter/{name}"]))
    (response,) = record.iterations[0].responses
    assert response.error is not None and response.error.kind == kind, response
    assert server.count() == sent


async def test_a_continuation_of_the_length_that_was_asked_for_is_complete(server):
    server.script("a/free:free completions", then=faults.truncated())
    panel = {"members": ["openrouter/a/free:free"], "sampling": {"max_output_tokens": 5}}
    record = await run_completion("Once", PumpConfig.model_validate(panel))
    assert record.answer and record.iterations[0].responses[0].finish_reason == "other"
    assert (await run_completion("Once", PumpConfig.model_validate(panel))).cached_calls == 1


async def test_a_vendor_without_completions_says_so(vendors):
    record = await run_completion("x", PumpConfig(members=["anthropic/claude"]))
    assert "no legacy completions" in (record.error or "") and vendors.count() == 0


def test_completion(consensus, server, tmp_path):
    server.script("a/free:free completions", then=Reply(text="a king."))
    ran = consensus(
        "openrouter", "completion", "--prompt", "Once", "--model", "a/free:free", "--output", "response.json"
    )
    assert (ran.code, ran.out) == (0, "a king.\n") and "from the cache" in ran.err
    assert json.loads((tmp_path / "response.json").read_text())["flow"] == "completion"
    again = consensus("openrouter", "completion", "-p", "Once", "-m", "openrouter/a/free:free", "--json")
    assert json.loads(again.out)["cached_calls"] == 1 and server.count() == 1
    assert consensus("openrouter", "completion", "-p", "Once").code == 2
    server.script("a/free:free completions", then=faults.not_found())
    assert consensus("openrouter", "completion", "-p", "Twice", "-m", "a/free:free").code == 1


# A chat.


def test_chat_improves_its_answer(consensus, server, tmp_path):
    server.script("a/free:free", Reply(text="one"), Reply(text="two"), Reply(text="three"))
    options = (
        "--mode",
        "improve",
        "--prompt",
        "Why?",
        "--model",
        "a/free:free",
        "--system",
        "Be brief.",
        "--output",
        "chat_response.json",
    )
    ran = consensus("openrouter", "chat", *options)
    assert (ran.code, ran.out) == (0, "three\n") and "one" in ran.err and "two" in ran.err
    conversation = json.loads((tmp_path / "chat_response.json").read_text())["conversation"]
    assert [turn["role"] for turn in conversation] == ["user", "assistant"] * 3
    assert [turn["content"] for turn in conversation][::5] == ["Why?", "three"]
    last = server.seen[-1]
    assert last.system == "Be brief." and [m["content"] for m in last.messages][:4:3] == ["Why?", "two"]
    ran = consensus("openrouter", "chat", *options[:-2], "--json")
    assert server.count() == 3 and len(json.loads(ran.out)["records"]) == 3


def test_chat_interactive(consensus, server):
    server.script("a/free:free", Reply(text="Hello."), faults.not_found(), Reply(text="Bye."))
    ran = consensus("openrouter", "chat", "-m", "a/free:free", stdin="Hi\n\nLost\nSo long\nexit\nMore\n")
    assert (ran.code, ran.out) == (0, "Hello.\nBye.\n") and "not_found" in ran.err
    assert [m["content"] for m in server.seen[-1].messages] == ["Hi", "Hello.", "So long"]
    assert server.count() == 3


def test_chat_ends_with_its_first_failure(consensus, server):
    server.script("a/free:free", Reply(text="one"), faults.not_found())
    ran = consensus("openrouter", "chat", "--mode", "improve", "-p", "Why?", "-m", "a/free:free", "--json")
    assert ran.code == 1 and len(json.loads(ran.out)["conversation"]) == 2 and server.count() == 2
    for wrong in (("--turns", "0"), ("--prompt-set", "nope"), ("--mode", "loud")):
        assert consensus("openrouter", "chat", "-p", "Why?", "-m", "a/free:free", *wrong).code == 2
    assert server.count() == 2


def test_a_file_of_settings_may_not_name_other_members(consensus, server, tmp_path):
    (tmp_path / "settings.json").write_text('{"members": ["openai/x"], "system": "Be brief."}')
    ran = consensus("openrouter", "chat", "-p", "Why?", "-m", "a/free:free", "--config", "settings.json")
    assert ran.code == 2 and "members" in ran.err and server.count() == 0


def test_names_of_models():
    from consensus_flows.deployments.commands.openrouter.account import one_model

    for given, meant in {
        "a/b:free": "a/b:free",
        "openrouter/a/b": "a/b",
        "openrouter/auto": "openrouter/auto",
    }.items():
        assert one_model(given, None).members == [f"openrouter/{meant}"]
    with pytest.raises(Stop, match="count"):
        one_model("a/b:0", None)
