"""The question of every command that takes one: the same options, wherever it comes from; and what help says."""

import io
import json
import sys

import pytest

from consensus_flows.deployments.cli import app, tokens
from tests.kits.command_kit import Command, commands
from tests.kits.consortium_kit import judged, say
from tests.vendors import LoopbackVendors

MEMBERS = ["-m", "openai/one", "-m", "openai/two", "-m", "openai/three"]
QUESTIONS = {
    "consortium": ["-m", "openai/one", "--arbiter", "openai/arbiter"],
    "learn": ["-m", "openai/one", "--aggregator", "openai/two", "--iterations", "0"],
    "moa": ["--layer", "openai/one", "--final", "openai/two"],
    "vote": ["-m", "openai/one"],
    "pump": ["-m", "openai/one"],
    "prefer": MEMBERS,
}


@pytest.fixture
def consensus(results: str, vendors: LoopbackVendors, monkeypatch, capsys) -> Command:
    say(vendors, one="7", two="7", three="8")
    vendors.script("arbiter", then=judged(90, "7"))
    return commands(monkeypatch, capsys)


@pytest.mark.parametrize("command", QUESTIONS)
def test_a_question_comes_from_anywhere(command, consensus, vendors, tmp_path):
    file, record = tmp_path / "question.md", tmp_path / "record.json"
    file.write_text("From a file?\n")
    panel = [*QUESTIONS[command], "--raw", "-o", record]
    for given, stdin, asked in (
        (["-p", "As an option?"], "", "As an option?"),
        (["--prompt-file", file], "", "From a file?"),
        (["--prompt-file", "-"], "Through a pipe?", "Through a pipe?"),
        (["-"], "By a dash?", "By a dash?"),
        (["--fresh", "-"], "Behind a flag?", "Behind a flag?"),
        (["What is it?"], "the pipe's text\n", "the pipe's text\n\nWhat is it?"),
        (["--stdin", "--prompt-file", file], "a pipe, and", "a pipe, and\n\nFrom a file?"),
    ):
        record.unlink(missing_ok=True)
        ran = consensus(command, *given, *panel, stdin=stdin)
        assert record.exists(), (given, ran.err)
        assert any(asked in seen.prompt for seen in vendors.seen), given


@pytest.mark.parametrize("command", QUESTIONS)
def test_two_questions_are_refused(command, consensus, vendors, tmp_path):
    file = tmp_path / "question.md"
    file.write_text("From a file?")
    ran = consensus(command, "As an argument?", "--prompt-file", file, *QUESTIONS[command])
    assert (ran.code, vendors.count()) == (2, 0)
    assert "two prompts" in ran.err


@pytest.mark.parametrize("command", QUESTIONS)
def test_an_unknown_option_is_no_question(command, consensus, vendors):
    ran = consensus(command, "--no-such-option", *QUESTIONS[command], stdin="Why?")
    assert (ran.code, vendors.count()) == (2, 0)
    assert "no-such-option" in ran.err


@pytest.mark.parametrize(
    ("given", "prompt", "others"),
    [
        (["--raw", "-"], "-", {}),
        (["-c", "-"], "-", {}),
        (["--fresh", "-", "-m", "a/b"], "-", {"fresh": True, "members": ["a/b"]}),
        (["--temperature=0", "-"], "-", {"sampling": {"temperature": 0}}),
        (["-p", "-"], "-", {}),
        (["--system", "-"], None, {"system": "-"}),
        (["--raw", "-5 plus 3?"], "-5 plus 3?", {}),
        (["-5"], "-5", {}),
        (["--system", "- be brief"], None, {"system": "- be brief"}),
        (["--system=- be brief"], None, {"system": "- be brief"}),
        (["- be brief", "--system", "x"], "- be brief", {"system": "x"}),
        (["consensus-learning", "--stop-when-stable", "-"], "-", {"stop_when_stable": True}),
        (["learn", "-"], "-", {}),
        (["moa", "--layer", "a/b", "-"], "-", {"layers": ["a/b"]}),
    ],
)
def test_a_lone_dash_is_the_question_unless_an_option_waits_for_it(given, prompt, others):
    _, bound, _ = app.parse_args(tokens(given), exit_on_error=False, print_error=False)
    assert bound.arguments.get("prompt") == prompt
    assert bound.arguments.get("given", {}) == others


def test_a_text_that_begins_with_a_dash_is_saved(consensus):
    assert consensus("save", "dashes", "--flow", "vote", "-m", "openai/one", "--system", "-").code == 0
    assert json.loads(consensus("show", "dashes").out)["system"] == "-"
    assert consensus("remove", "dashes").code == 0


@pytest.mark.parametrize(
    "given", [["batch", "-", "--arbiter", "openai/one"], ["batch", "--flow", "vote", "--skip-bad", "-"]]
)
def test_an_empty_pipe_is_no_batch(given, consensus):
    ran = consensus(*given, "-o", "out.jsonl", "-m", "openai/one")
    assert ran.code == 2 and "standard input is empty" in ran.err


def help_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    app(tokens([*arguments, "--help"]), exit_on_error=False)
    return " ".join(capsys.readouterr().out.split())


def test_help_shows_what_was_written_and_what_can_be(monkeypatch, capsys):
    text = help_of(monkeypatch, capsys, "save")
    assert "Usage: consensus save [OPTIONS] NAME" in text and "--flow" in text and "--arbiter" in text
    text = help_of(monkeypatch, capsys, "save", "--flow", "vote")
    assert (
        "Usage: consensus save --flow vote [OPTIONS] NAME" in text and "--extract" in text and "save-vote" not in text
    )
    for command in ("completion", "chat"):
        text = help_of(monkeypatch, capsys, "openrouter", command)
        assert "--cid" not in text and "--continue" not in text and "--output" in text
    text = help_of(monkeypatch, capsys, "moa", "check-proposer")
    assert "--cid" not in text and "--output" in text
    for command in QUESTIONS:
        text = help_of(monkeypatch, capsys, command)
        assert all(
            option in text for option in ("--prompt", "-p", "--prompt-file", "--stdin", "--output", "-o", "--cid")
        )
