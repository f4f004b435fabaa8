"""The pump: every answer under its model's name, and what its command prints and writes."""

import json
import re

import pytest

from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.deployments.commands.algorithms.pump import file_name
from consensus_flows.flows.pump import pump, run_pump
from consensus_flows.tasks.errors import ConfigurationError, QuorumError
from consensus_flows.tasks.record import Response
from tests.kits.command_kit import commands
from tests.kits.kinds import kinds
from tests.vendors import Reply, faults

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]

MEMBERS = ["openai/one", "anthropic/two", "google/three"]
PANEL = [part for name in MEMBERS for part in ("-m", name)]


@pytest.fixture
def talking(vendors):
    for model, text in {"one": "alpha", "two": "beta", "three": "gamma"}.items():
        vendors.script(model, then=Reply(text=text))
    return vendors


@pytest.fixture
def consensus(talking, monkeypatch, capsys):
    return commands(monkeypatch, capsys)


def config(*members, **settings):
    return PumpConfig.model_validate({"members": list(members or MEMBERS)} | settings)


async def test_all_are_asked_at_once_and_the_record_holds_every_answer(talking):
    for model in ("one", "two", "three"):
        talking.script(model, then=Reply(text=model))
    talking.together = 3
    names = ["openai/one", "openai/two", "openai/three"]
    record = await pump("What?", config(*names))
    assert talking.in_flight_peak == 3
    (iteration,) = record.iterations
    assert [response.text for response in iteration.responses] == ["one", "two", "three"]
    assert iteration.synthesis is None
    assert (record.flow, record.status, record.calls, record.degraded) == ("pump", "finished", 3, False)
    assert record.answer == "## openai/one#1\n\none\n\n## openai/two#1\n\ntwo\n\n## openai/three#1\n\nthree"
    assert (record.best_iteration, record.confidence) == (1, None)
    assert record.agreement == 0


async def test_the_answer_of_an_only_member_is_its_text(talking):
    assert (await run_pump("What?", config("openai/one"))).answer == "alpha"


async def test_one_answer_is_enough_and_who_failed_is_named(talking):
    talking.script("two", then=faults.unauthorized())
    talking.script("three", then=faults.bad_request())
    record = await run_pump("What?", config())
    assert (record.status, record.degraded, record.answer) == ("finished", True, "## openai/one#1\n\nalpha")
    assert kinds(record) == [("auth", "anthropic/two#1", 1), ("bad_request", "google/three#1", 1)]


async def test_below_the_quorum_there_is_no_answer_and_all_causes(talking):
    talking.script("two", then=faults.unauthorized())
    with pytest.raises(QuorumError, match=r"2 of 3 members answered, and the quorum is 3\. anthropic/two") as failed:
        await pump("What?", config(quorum=3))
    record = failed.value.record
    assert (record.answer, record.status) == (None, "failed")
    assert [response.text for response in record.iterations[0].responses] == ["alpha", None, "gamma"]


async def test_the_second_run_sends_nothing(talking):
    await run_pump("What?", config("openai/one:2", "anthropic/two"))
    assert talking.count() == 3
    record = await run_pump("What?", config("openai/one:2", "anthropic/two"))
    assert (talking.count(), record.cached_calls) == (3, 3)
    await run_pump("What?", config("openai/one:2", "anthropic/two", fresh=True))
    assert talking.count() == 6


async def test_out_of_budget_what_was_answered_is_returned(talking):
    record = await run_pump("What?", config(budget={"max_calls": 2}, quorum=3))
    assert record.status == "budget"
    assert record.answer.count("## ") == 2


async def test_what_cannot_be_asked_is_found_before_any_call(talking):
    for prompt, members, cause in ((" ", MEMBERS, "prompt is empty"), ("What?", ["nobody/x", *MEMBERS], "unknown")):
        with pytest.raises(ConfigurationError, match=cause):
            await run_pump(prompt, config(*members))
    assert talking.count() == 0


def test_every_answer_is_printed_under_its_model_as_it_comes(consensus, talking):
    consensus("pump", *PANEL, "-p", "Who?")  # the first import of a vendor's SDK takes seconds
    talking.script("one", then=Reply(text="alpha", delay=1))
    ran = consensus("pump", *PANEL, "-p", "What?")
    assert ran.code == 0
    headings = [line for line in ran.out.splitlines() if line.startswith("## ")]
    assert re.fullmatch(r"## openai/one#1 \(\d+\.\d s\)", headings[-1]), "the slowest comes last"
    assert "## google/three#1 (" in ran.out
    assert "\n\ngamma\n" in ran.out
    assert re.search(r"the slowest openai/one#1 \d+\.\d", ran.err)
    assert "total " in ran.err
    assert "/runs/flow-run/" in ran.err


def test_why_a_member_failed_is_said_once(consensus, talking):
    talking.script("two", then=faults.bad_request())
    for panel in (PANEL, ["-m", "anthropic/two"]):
        ran = consensus("pump", *panel, "-p", "What?")
        assert ran.err.count("HTTP 400") == 1, ran.err
        assert "✗ anthropic/two#1: bad_request (" in ran.err


def test_json_raw_output_and_files(consensus, talking, tmp_path):
    prompt = tmp_path / "question.md"
    prompt.write_text("What?\n")
    ran = consensus("pump", *PANEL, "--prompt-file", prompt, "--json", "--output", tmp_path / "record.json")
    record = json.loads(ran.out)
    assert (ran.code, ran.err, record["prompt"]) == (0, "", "What?")
    assert json.loads((tmp_path / "record.json").read_text()) == record
    talking.script("two", then=faults.bad_request())
    folder = tmp_path / "answers"
    folder.mkdir()
    (folder / "anthropic_two-1.md").write_text("of an earlier run\n")
    ran = consensus("pump", "Else?", *PANEL, "--raw", "--responses", folder)
    assert ran.out == "## openai/one#1\n\nalpha\n\n## google/three#1\n\ngamma\n"
    assert sorted(path.name for path in folder.iterdir()) == ["google_three-1.md", "openai_one-1.md"]
    assert (folder / "openai_one-1.md").read_text() == "alpha\n"
    assert consensus("pump", "-m", "openai/one", "--raw", stdin="piped").out == "alpha\n"
    assert consensus("pump", "-m", "openai/one", "--raw", "--prompt-file", "-", stdin="piped").out == "alpha\n"
    assert talking.seen[-1].prompt == "piped"


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["-p", "What?"], "members: give -m provider/model"),
        (["-m", "openai/one", "-p", "What?", "--prompt-file", "x"], "there are two prompts"),
        (["-m", "openai/one", "--prompt-file", "missing.md"], "--prompt-file missing.md cannot be read"),
        (["-m", "openai/one", "-p", "What?", "--responses", __file__], "is a file: name a folder"),
        (["-m", "openai/one", "-p", "What?", "--quorum", "2"], "quorum is 2, but there are only 1 members"),
        (["-m", "openai/one:0", "-p", "What?"], "must be at least 1"),
        (["-m", "openai/one"], "there is no prompt"),
    ],
)
def test_bad_input_is_found_before_any_call(consensus, talking, arguments, cause):
    ran = consensus("pump", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert cause in ran.err
    assert talking.count() == 0


def test_what_a_prompt_set_keeps_apart_is_printed_apart(consensus, talking):
    talking.script(
        "one", then=Reply(text="Insulin was found in 1921 [1].\n\nSources:\n1. Banting, F. (1922)\n2. A book")
    )
    ran = consensus("pump", "-m", "openai/one", "-p", "When?", "--prompt-set", "citations")
    assert ran.code == 0
    printed = ran.out.split("\n\n", 1)[1].strip()
    assert printed == "Insulin was found in 1921 [1].\n\nSources that it names:\n1. Banting, F. (1922)\n2. A book"
    talking.script("one", then=Reply(text="Six sevens are\nforty-two.\nFinal answer: 42"))
    ran = consensus("pump", "-m", "openai/one", "-p", "6 x 7?", "--prompt-set", "chain-of-thought")
    assert ran.out.split("\n\n", 1)[1].strip() == "42"


def test_embeddings_are_no_answers(consensus, talking):
    ran = consensus("pump", *PANEL, "-p", "What?", "--embedding-model", "openai/text-embedding-3-small")
    assert (ran.code, ran.out.count("## "), "None" in ran.out) == (0, 3, False)
    assert "✓ openai/text-embedding-3-small embeds openai/one#1" in ran.err


def test_nobody_answers(consensus, talking):
    talking.script("one", then=faults.unauthorized())
    ran = consensus("pump", "-m", "openai/one", "-p", "What?")
    assert (ran.code, ran.out) == (1, "")
    assert "openai/one: auth" in ran.err


def test_a_saved_panel(consensus):
    assert consensus("save", "my-pump", "--flow", "pump", *PANEL).code == 0
    assert consensus("pump", "-p", "What?", "--name", "my-pump", "--raw").out.count("## ") == 3
    assert consensus("What?", "--name", "my-pump", "--raw").out.count("## ") == 3
    ran = consensus("prefer", "-p", "What?", "--name", "my-pump")
    assert (ran.code, "is saved for pump, not for prefer" in ran.err) == (2, True)


def test_file_names_are_safe_and_keep_members_apart():
    names = [
        "openai/gpt-x#1",
        "openai/gpt-x#2",
        "openai-gpt/x#1",
        "local//etc/../../passwd#1",
        "local/~/weights.gguf#1",
        "openrouter/deepseek/r1:free#1",
        "openrouter/deepseek-r1-free#1",
        "openrouter/Deepseek-r1-free#1",
        "openai/" + "x" * 300 + "#1",
        "openai/" + "x" * 300 + "#2",
        "local/\x00\n#1",
        "local/CON\\nul#1",
    ]
    files = [file_name(Response(member=name, provider="p", model="m")) for name in names]
    assert files[0] == "openai_gpt-x-1.md"
    assert len({name.lower() for name in files}) == len(names)
    for name in files:
        assert "/" not in name
        assert "\\" not in name
        assert ".." not in name
        assert not name.startswith(".")
        assert len(name) < 120
        assert name.isprintable()
