"""`consensus chat`, `runs`, `run` and `stats`: what they print."""

import builtins
import io
import json
import sys

import pytest

from consensus_flows.deployments.commands.algorithms.chat import chat
from consensus_flows.deployments.commands.algorithms.conversations import ConversationOptions
from consensus_flows.deployments.commands.history import moment
from consensus_flows.deployments.tables import one_line, put_rows
from consensus_flows.deployments.terminal import Exit, Stop
from consensus_flows.tasks.history.writing import close_writers
from tests.kits.command_kit import commands
from tests.kits.consortium_kit import asked, judged, say
from tests.kits.history_kit import START, rows
from tests.vendors import faults

PANEL = ["-m", "openai/one", "-m", "openai/two", "--arbiter", "openai/arbiter"]


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    """A history of the test's own."""
    path = tmp_path / "history.db"
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{path}")
    yield path
    close_writers()


@pytest.fixture
def consensus(results, vendors, monkeypatch, capsys):
    say(vendors, one="first", two="second")
    vendors.script("arbiter", then=judged(90, "the answer"))
    return commands(monkeypatch, capsys)


def test_each_line_is_a_turn_and_sees_those_before(consensus, vendors, file):
    ran = consensus("chat", *PANEL, stdin="Capital of France?\n\n  And of Italy?  \n/quit\nnever asked\n")
    assert (ran.code, ran.out) == (0, "the answer\nthe answer\n")
    for model in ("one", "two", "arbiter"):
        first, second = asked(vendors, model)
        assert len(first.messages) == 1
        assert second.messages[0] == {"role": "user", "content": "Capital of France?"}
        assert second.messages[1] == {"role": "assistant", "content": "the answer"}
    ((conversation, turns),) = rows(file, "SELECT conversation_id, count(*) FROM turns GROUP BY conversation_id")
    assert turns == 2 and f"--cid {conversation}" in ran.err
    # Another session goes on with it.
    ran = consensus("chat", "--cid", conversation, *PANEL, stdin="And of Spain?")
    assert "Going on after 2 turns" in ran.err
    assert [message["role"] for message in asked(vendors, "one")[2].messages] == ["user", "assistant"] * 2 + ["user"]
    assert rows(file, "SELECT count(*) FROM turns") == [(3,)]


def test_new_begins_a_new_conversation(consensus, vendors, file):
    ran = consensus("chat", *PANEL, "--raw", stdin="One?\n/new\nTwo?\n/help\n")
    assert ran.out == "the answer\nthe answer\n"
    assert len(asked(vendors, "one")[1].messages) == 1
    assert rows(file, "SELECT count(DISTINCT conversation_id) FROM turns") == [(2,)]


def test_a_turn_without_an_answer_does_not_end_the_session(consensus, vendors, file):
    vendors.script("two", faults.unauthorized())
    ran = consensus("chat", *PANEL, stdin="Fails?\nWorks?\n")
    assert (ran.code, ran.out) == (1, "the answer\n")
    assert "no answer" in ran.err
    assert len(asked(vendors, "one")[1].messages) == 1, "the turn that failed is not part of the conversation"


def test_any_kind_of_configuration_can_be_talked_with(consensus, vendors, file):
    assert consensus("save", "voters", "--flow", "vote", "-m", "openai/one", "-m", "openai/two").code == 0
    try:
        ran = consensus("chat", "--name", "voters", stdin="One?\nTwo?\n")
        assert ran.code == 0 and ran.out.splitlines()[0] == "first"
        assert rows(file, "SELECT flow FROM runs") == [("vote",), ("vote",)]
        bad = consensus("chat", "--name", "voters", "--max-iterations", "2", stdin="One?\n")
        assert bad.code == 2 and "voters" in bad.err
    finally:
        consensus("remove", "voters")


@pytest.mark.parametrize(
    "options", [["--name", "never-saved"], [], ["-m", "openai/one"], [*PANEL, "--cid", "nonsense"], [*PANEL, "-c"]]
)
def test_what_cannot_be_talked_with_is_exit_2_before_any_call(consensus, vendors, options):
    assert consensus("chat", *options, stdin="One?\n").code == 2
    assert vendors.count() == 0


class Terminal(io.StringIO):
    """Standard input as a terminal has it."""

    def isatty(self):
        return True


def test_at_a_terminal_interrupts_drop_the_line_and_ctrl_d_ends(consensus, vendors, monkeypatch, capsys):
    typed = iter(["One?", KeyboardInterrupt(), "Two?", EOFError()])

    def typing(prompt=""):
        assert prompt == "", "what is asked for on standard output would be taken for an answer"
        line = next(typed)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(builtins, "input", typing)
    options = {"members": ["openai/one", "openai/two"], "arbiter": "openai/arbiter"}
    assert chat(given=options, conversation=ConversationOptions(), raw=True) is Exit.ANSWER
    out, err = capsys.readouterr()
    assert out == "the answer\nthe answer\n"
    assert err.count("> ") == 4


def test_runs_run_and_stats(consensus, vendors, file):
    vendors.script("two", faults.unauthorized())
    consensus("First question?", *PANEL, "--raw")
    record = json.loads(consensus("Second\tquestion?", *PANEL, "--json").out)
    ran = consensus("runs")
    assert ran.code == 0 and ran.err == ""
    newest, oldest = (line.split("\t") for line in ran.out.splitlines())
    assert (newest[0], newest[2], newest[3], newest[-1]) == (
        record["flow_run_id"], "consortium", "confident", "Second question?"
    )  # fmt: skip
    assert (oldest[3], oldest[4], oldest[-1]) == ("failed", "degraded", "First question?")
    assert consensus("runs", "--status", "failed").out.count("\n") == 1
    assert consensus("runs", "--flow", "moa").out == ""
    assert consensus("runs", "--model", "openai/arbiter", "--since", "1h", "--limit", "1").out.count("\n") == 1
    listed = json.loads(consensus("runs", "--json").out)
    assert [(one["prompt"], one["status"]) for one in listed] == [
        ("Second\tquestion?", "confident"),
        ("First question?", "failed"),
    ]
    assert "record" not in listed[0] and "answer" not in listed[0]
    assert json.loads(consensus("run", record["flow_run_id"][:13], "--json").out) == record
    shown = consensus("run", oldest[0]).out
    assert "First question?" in shown and "openai/two#1: auth" in shown and "no answer" in shown
    assert consensus("run", "nonsense").code == 2
    lines = {line.split("\t")[0]: line.split("\t") for line in consensus("stats").out.splitlines()}
    assert lines["openai/two"][1:5] == ["2", "2", "1", "0"]
    (arbiter,) = [one for one in json.loads(consensus("stats", "--json").out) if one["model"] == "openai/arbiter"]
    assert (arbiter["runs"], arbiter["calls"], arbiter["wins"], arbiter["agreement"]) == (1, 1, 0, None)


@pytest.mark.parametrize("options", [["--since", "yesterday"], ["--limit", "0"], ["--status", "odd"]])
def test_bad_filters_are_exit_2(consensus, options):
    ran = consensus("runs", *options)
    assert ran.code == 2 and options[0] in ran.err


def test_since_reads_dates_and_how_long_ago():
    assert (START - moment("7d", START)).days == 7
    assert moment("2026-01-31T08:00:00+00:00") == START
    assert moment("2026-01-31").tzinfo is not None
    with pytest.raises(Stop, match="--since"):
        moment("99999999999w", START)


def test_a_terminal_gets_a_table_and_nothing_that_acts_on_it(monkeypatch, capsys):
    assert one_line("\x1b[31mred\x07\n[bold]x[/bold]", 12) == "[31mred [bo…"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    put_rows(["id", "prompt"], [["1", "\x1b[31m[bold]x[/bold]"]], wide="prompt")
    out = capsys.readouterr().out
    assert "id" in out.splitlines()[0] and "[bold]x[/bold]" in out and "\x1b[31m" not in out
