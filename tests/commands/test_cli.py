"""The command line: what goes to stdout and what to stderr, exit codes, bad input before any paid call."""

import json
import sys
from pathlib import Path

import pytest

from consensus_flows.blocks import (
    AnthropicCredentials,
    AnthropicVertexCredentials,
    BedrockCredentials,
    GoogleCredentials,
    VertexCredentials,
)
from consensus_flows.deployments.cli import tokens
from tests.kits import processes
from tests.kits.command_kit import Command, commands
from tests.vendors import LoopbackVendors, faults, json_reply

PANEL = ["-m", "openai/a", "-m", "anthropic/b", "-m", "google/c", "--arbiter", "openai/judge"]
JUDGEMENT = {
    "analysis": "They agree.",
    "dissent": "",
    "synthesis": "Forty-two.",
    "confidence": 90,
    "final": True,
    "refinement_areas": [],
}


@pytest.fixture
def consensus(
    results: str,
    vendors: LoopbackVendors,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Run the command in this process, against the tests' server and the loopback vendors."""
    vendors.script("judge", then=json_reply(JUDGEMENT))
    return commands(monkeypatch, capsys)


def test_answer_on_stdout_and_the_rest_on_stderr(consensus):
    ran = consensus("What is six times seven?", *PANEL)
    assert (ran.code, ran.out) == (0, "Forty-two.\n")
    assert "openai/a#1" in ran.err and "anthropic/b#1" in ran.err and "google/c#1" in ran.err
    assert "/runs/flow-run/" in ran.err
    assert "confidence 90 %" in ran.err


def test_json_is_the_whole_record_and_nothing_else(consensus, vendors):
    ran = consensus("consortium"[:0] + "Six times seven?", *PANEL, "--json")
    record = json.loads(ran.out)
    assert ran.code == 0 and ran.err == ""
    assert record["answer"] == "Forty-two." and record["status"] == "confident" and record["confidence"] == 0.9
    assert [r["member"] for r in record["iterations"][0]["responses"]] == ["openai/a#1", "anthropic/b#1", "google/c#1"]
    assert record["calls"] == 4 == vendors.count()


def test_second_run_sends_nothing_and_fresh_asks_again(consensus, vendors):
    consensus("Seven?", *PANEL, "--raw")
    again = consensus("Seven?", *PANEL, "--json")
    assert vendors.count() == 4 and json.loads(again.out)["cached_calls"] == 4
    consensus("Seven?", *PANEL, "--raw", "--fresh")
    assert vendors.count() == 8


def test_raw_prints_the_answer_alone(consensus):
    ran = consensus("Eight?", *PANEL, "--raw")
    assert (ran.code, ran.out, ran.err) == (0, "Forty-two.\n", "")


def test_output_file_holds_the_record(consensus, tmp_path):
    file = tmp_path / "record.json"
    consensus("Nine?", *PANEL, "--output", str(file), "--raw")
    assert json.loads(file.read_text())["answer"] == "Forty-two."


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_an_output_that_cannot_be_written_does_not_take_the_answer_with_it(consensus):
    ran = consensus("Nine?", *PANEL, "--output", "/dev/full", "--raw")
    assert (ran.code, ran.out) == (1, "Forty-two.\n")
    assert ran.err == "consensus: /dev/full cannot be written: No space left on device\n"


def test_prompt_from_stdin(consensus, vendors):
    assert consensus("-", *PANEL, "--raw", stdin="From a pipe?").code == 0
    assert "From a pipe?" in vendors.seen[0].prompt
    for given, asked in (([], "the report\n\nSum it up."), (["--no-stdin"], "Sum it up.")):
        ran = consensus("Sum it up.", *PANEL, "--json", *given, stdin="the report\n")
        assert json.loads(ran.out)["prompt"] == asked
    ran = consensus("Summarize", *PANEL, "--json", stdin="the report\n")
    assert json.loads(ran.out)["prompt"] == "the report\n\nSummarize", "one word beside a pipe is a question, too"
    vendors.reset()
    for given, piped in ((["modles"], "the report"), (["Summarize", "--no-stdin"], "the report"), (["Summarize"], "")):
        ran = consensus(*given, *PANEL, stdin=piped)
        assert (ran.code, "unknown command" in ran.err) == (2, True), given
    ran = consensus(stdin="\n")
    assert (ran.code, vendors.count()) == (2, 0) and "batch" in ran.out


def test_no_answer_is_exit_1_and_names_every_cause(consensus, vendors):
    for model in "abc":
        vendors.script(model, then=faults.unauthorized())
    ran = consensus("Ten?", *PANEL, "--json")
    assert ran.code == 1
    record = json.loads(ran.out)
    assert record["status"] == "failed" and record["answer"] is None
    assert all(name in record["error"] for name in ("openai/a", "anthropic/b", "google/c"))


def test_budget_is_exit_3_with_the_best_answer_so_far(consensus, vendors):
    vendors.script("judge", then=json_reply(JUDGEMENT | {"confidence": 10}))
    ran = consensus("Eleven?", *PANEL, "--max-calls", "6", "--json")
    record = json.loads(ran.out)
    assert ran.code == 3 and record["status"] == "budget"
    assert record["answer"] == "Forty-two." and vendors.count() <= 6


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-m", "openai/a:0", "--arbiter", "openai/b"], "count"),
        (
            ["-m", "openai/a", "--arbiter", "openai/b", "--min-iterations", "5", "--max-iterations", "2"],
            "min_iterations",
        ),
        (["-m", "openai/a", "--arbiter", "openai/b", "--confidence-threshold", "80"], "--confidence-threshold"),
        (["-m", "nowhere/a", "--arbiter", "openai/b"], "nowhere"),
        (["-m", "huggingface/a", "--arbiter", "openai/b"], "HF_TOKEN"),
        (["-m", "justaname", "--arbiter", "openai/b"], "provider/model"),
        (["-m", "openai/a"], "arbiter"),
        (["--arbiter", "openai/b", "-m", "openai/a", "--quorum", "3"], "quorum"),
        (["-m", "openai/a", "--arbiter", "openai/b", "--output", "/nowhere/at/all.json"], "--output"),
        (["-m", "openai/a", "--arbiter", "openai/b", "--config", "missing.json"], "--config"),
        (["-m", "openai/a", "--arbiter", "openai/b", "--temperature", "9"], "--temperature"),
        (["--no-such-option"], "no-such-option"),
        (["--name", "never-saved"], "never-saved"),
    ],
)
def test_bad_input_is_exit_2_names_the_field_and_calls_nobody(consensus, vendors, arguments, named):
    ran = consensus("Twelve?", *arguments)
    assert ran.code == 2, ran
    assert named in ran.err and ran.out == ""
    assert vendors.count() == 0


def test_empty_prompt(consensus, vendors):
    assert consensus("-", *PANEL, stdin="  \n").code == 2
    assert vendors.count() == 0


def test_save_list_show_use_remove(consensus, vendors):
    assert consensus("save", "night-panel", *PANEL, "--max-iterations", "2").code == 0
    assert "night-panel\tconsortium" in consensus("list").out
    shown = json.loads(consensus("show", "night-panel").out)
    assert shown["members"] == ["openai/a", "anthropic/b", "google/c"] and shown["max_iterations"] == 2
    assert consensus("Thirteen?", "--name", "night-panel", "--raw").out == "Forty-two.\n"
    # What is given lies over what is saved.
    changed = consensus("Fourteen?", "--name", "night-panel", "-m", "openai/a", "--json")
    assert [r["member"] for r in json.loads(changed.out)["iterations"][0]["responses"]] == ["openai/a#1"]
    assert consensus("remove", "night-panel").code == 0
    assert consensus("show", "night-panel").code == 2


def test_the_saved_default_answers_a_bare_prompt(consensus):
    assert consensus("Without any default?").code == 2
    assert consensus("save", "default", *PANEL).code == 0
    try:
        assert consensus("With a default?", "--raw").out == "Forty-two.\n"
    finally:
        consensus("remove", "default")


def test_save_refuses_a_bad_name_and_a_bad_provider(consensus):
    assert "not a valid name" in consensus("save", "Not A Name", *PANEL).err
    assert consensus("save", "fine", "-m", "nowhere/x", "--arbiter", "openai/b").code == 2
    assert "fine" not in consensus("list").out


def test_keys_set_import_list_remove(consensus, vendors, monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert consensus("Fifteen?", *PANEL).code == 2
    ran = consensus("keys", "set", "openai", "--base-url", vendors.openai_url, stdin="sk-typed-secret\n")
    assert ran.code == 0 and "sk-typed-secret" not in ran.out + ran.err
    try:
        assert consensus("Sixteen?", *PANEL, "--raw").out == "Forty-two.\n"
        assert "sk-typed-secret" in str(vendors.seen[0].headers) or any(
            "sk-typed-secret" in str(seen.headers) for seen in vendors.seen
        )
        monkeypatch.setenv("MY_KEY", "sk-from-variable")
        file = tmp_path / "keys.json"
        file.write_text(json.dumps({"my-server": {"base-url": vendors.openai_url, "api-key": "sk-imported"}}))
        assert consensus("keys", "import", str(file)).code == 0
        assert consensus("keys", "set", "other", "--base-url", vendors.openai_url, "--from-env", "MY_KEY").code == 0
        listed = consensus("keys", "list").out
        assert {line.split("\t")[0] for line in listed.splitlines()} >= {"openai", "my-server", "other"}
        assert "sk-" not in listed
        assert consensus("Seventeen?", "-m", "my-server/x", "--arbiter", "other/judge", "--raw").code == 0
    finally:
        for name in ("openai", "my-server", "other"):
            consensus("keys", "remove", name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".env", "# mine\nexport ANTHROPIC_API_KEY='sk-ant'\nGOOGLE_API_KEY=sk-$goo\nHOME=/tmp\n"),
        (
            "keys.json",
            '{"// Note": "This file stores secret API credentials.", "claude": "sk-ant", "gemini": "sk-$goo", "groq": "x"}',
        ),
    ],
)
def test_keys_come_from_a_dotenv_and_from_llm(consensus, tmp_path, name, text):
    file = tmp_path / name
    file.write_text(text)
    ran = consensus("keys", "import", str(file))
    try:
        assert (ran.code == 0 and "groq" in ran.err) or name == ".env"
        saved = {
            name: block.load(name).api_key
            for name, block in (("anthropic", AnthropicCredentials), ("google", GoogleCredentials))
        }
        assert {name: key.get_secret_value() for name, key in saved.items()} == {
            "anthropic": "sk-ant",
            "google": "sk-$goo",
        }
    finally:
        for provider in ("anthropic", "google"):
            consensus("keys", "remove", provider)


def test_keys_of_clouds_are_set_with_their_own_options_and_imported(consensus, monkeypatch, tmp_path):
    account = {"client_email": "a@b", "private_key": "-----BEGIN", "token_uri": "https://oauth2.googleapis.com/token"}
    file = tmp_path / ".env"
    file.write_text(
        "AZURE_OPENAI_ENDPOINT=https://env.openai.azure.com\nAWS_REGION=eu-west-1\nAWS_BEARER_TOKEN_BEDROCK=k\n"
    )
    names = ["azure-eu", "vertex", "vertex-anthropic", "bedrock", "azure"]
    endpoint = ["--base-url", "https://eu.openai.azure.com", "--api-version", "2024-10-21"]
    try:
        assert consensus("keys", "set", "azure-eu", "--like", "azure", *endpoint, stdin="a-key\n").code == 0
        project = ["--project", "ours", "--location", "europe-west4"]
        assert consensus("keys", "set", "vertex", *project, stdin=json.dumps(account, indent=1)).code == 0
        assert consensus("keys", "set", "vertex-anthropic", *project, stdin="").code == 0
        pair = ["--region", "us-east-1", "--access-key-id", "AKIA"]
        assert consensus("keys", "set", "bedrock", *pair, stdin="secret\n").code == 0
        assert BedrockCredentials.load("bedrock").access_key_id == "AKIA"
        assert consensus("keys", "import", str(file)).code == 0
        assert BedrockCredentials.load("bedrock").region == "eu-west-1"
        assert json.loads(VertexCredentials.load("vertex").api_key.get_secret_value()) == account
        assert AnthropicVertexCredentials.load("vertex-anthropic").api_key is None
        addresses = {line.split("\t")[0]: line.split("\t")[2] for line in consensus("keys", "list").out.splitlines()}
        assert {name: addresses[name] for name in names} == {
            "azure-eu": "https://eu.openai.azure.com",
            "vertex": "https://europe-west4-aiplatform.googleapis.com/v1/projects/ours/locations/europe-west4",
            "vertex-anthropic": "https://europe-west4-aiplatform.googleapis.com/v1/projects/ours/locations/europe-west4",
            "bedrock": "https://bedrock-runtime.eu-west-1.amazonaws.com",
            "azure": "https://env.openai.azure.com",
        }
    finally:
        for name in names:
            consensus("keys", "remove", name)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["vertex"], "project"),
        (["vertex", "--project", "p", "--region", "us-east-1"], "unknown field region"),
        (["vertex", "--project", "p"], "JSON key of a service account"),
        (["bedrock", "--region", "us-east-1/"], "region"),
        (["azure"], "base-url"),
        (["mine", "--like", "nobody"], "unknown provider 'nobody'"),
    ],
)
def test_keys_of_clouds_that_cannot_be_used(consensus, arguments, named):
    ran = consensus("keys", "set", *arguments, stdin="no-json\n")
    assert ran.code == 2 and named in ran.err, ran.err


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{not json", "not valid JSON"),
        ("[]", "object by provider"),
        ('{"openai": {"api-key": "k", "colour": "red"}}', "colour"),
        ('{"my-server": {"api-key": "k"}}', "--base-url"),
        ('{"openai": {}}', "api-key"),
    ],
)
def test_import_of_a_bad_file_saves_nothing(consensus, tmp_path, text, named):
    file = tmp_path / "keys.json"
    file.write_text(text)
    before = consensus("keys", "list").out
    ran = consensus("keys", "import", str(file))
    assert ran.code == 2 and named in ran.err
    assert consensus("keys", "list").out == before


def test_check_says_what_is_there(consensus, vendors):
    ran = consensus("check")
    assert "server" in ran.out and "answers" in ran.out
    assert f"openai      {vendors.openai_url}" in ran.out
    assert "no key      azure, bedrock, huggingface, cerebras, deepseek" in ran.out
    assert "not running ollama, lmstudio, vllm" in ran.out
    assert "local" in ran.out
    assert vendors.count() == 0
    assert "sk-test" not in ran.out + ran.err


def test_tokens_put_the_main_command_first():
    assert tokens(["What is love?"]) == ["consortium", "What is love?"]
    assert tokens(["-m", "a/b", "x"]) == ["consortium", "-m", "a/b", "x"]
    assert tokens(["keys", "list"]) == ["keys", "list"]
    assert tokens(["2+2"]) == ["consortium", "2+2"]
    assert tokens(["地球为什么是圆的"])[0] == "consortium"


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["statss"], "stats"),
        (["consrtium", "Hi there?"], "consortium"),
        (["Batch"], "batch"),
        (["hello"], "consensus ask hello"),
        (["why", "is", "the", "sky", "blue?"], "quotes"),
        (["help", "vot"], "vote"),
        (["ask", "--hlep"], "--help"),
        (["ask", "what", "is", "it?"], "quotes"),
        (["batch", "-o", "out.jsonl"], "INPUT"),
    ],
)
def test_a_word_that_looks_like_a_command_is_no_question(consensus, vendors, arguments, meant):
    consensus("save", "default", *PANEL)
    try:
        ran = consensus(*arguments)
    finally:
        consensus("remove", "default")
    assert (ran.code, ran.out, vendors.count()) == (2, "", 0)
    assert meant in ran.err


def test_help_models_and_logs_do_what_their_names_say(consensus, vendors):
    assert "--extract" in consensus("help", "vote").out
    assert consensus("ask", "hullabaloo", *PANEL, "--raw").out == "Forty-two.\n"
    vendors.reset()
    vendors.models = ["model-b", "model-a"]
    listed = consensus("models", "anthropic")
    assert (listed.code, listed.out.splitlines()) == (0, ["anthropic/model-a", "anthropic/model-b"])
    every = json.loads(consensus("models", "--json").out)
    assert every["openai"] == every["google"] == ["model-a", "model-b"] and "huggingface" not in every
    assert consensus("models", "openay").code == 2
    said = consensus("logs", "-n", "1").out
    assert "## Prompt\n\nhullabaloo\n" in said and "## Response\n\nForty-two.\n" in said
    assert [run["prompt"] for run in json.loads(consensus("logs", "-q", "HULLABALOO", "--json").out)] == ["hullabaloo"]
    assert vendors.count() == 0


def test_an_unknown_flow_is_named(consensus):
    for command in ("save", "batch"):
        ran = consensus(command, "x", "--flow", "nonsense")
        assert ran.code == 2 and "nonsense" in ran.err and "mixture-of-agents" in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "out"),
    [
        (["--version"], 0, "."),
        (["x", "-m", "openai/a:0", "--arbiter", "openai/b"], 2, ""),
        (["--help"], 0, "consortium"),
    ],
)
def test_the_process_ends_with_the_code_and_all_that_was_printed(arguments, code, out):
    done = processes.run([sys.executable, "-m", "consensus_flows.deployments.cli", *arguments], text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert out in done.stdout
    assert bool(done.stderr) == bool(code)
