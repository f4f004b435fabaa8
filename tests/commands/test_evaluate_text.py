"""`consensus evaluate --judge`: a panel's free text beside each member's, on the command line."""

import json

import pytest

from tests.kits.command_kit import commands
from tests.kits.judges_kit import BETTER, by

pytestmark = [
    pytest.mark.usefixtures("results"),
    pytest.mark.filterwarnings("ignore:Logger .prefect.task_runs. attempted"),
]


@pytest.fixture
def consensus(vendors, monkeypatch, capsys):
    vendors.script("good", then=by(lambda text: text in BETTER or "good" in text))
    vendors.script("wordy", then=by(len))
    run = commands(monkeypatch, capsys)
    return lambda *arguments: run("evaluate", *arguments)


@pytest.fixture
def output(tmp_path):
    """The output of a batch in which the panel is better than a member once, and as good once."""
    file = tmp_path / "out.jsonl"
    rows = [("1", "a good answer", "a bad one"), ("2", "good", "good, too")]
    file.write_text(
        "".join(
            json.dumps({"id": name, "prompt": "Why?", "answer": panel, "answers": {"openai/a": {"text": text}}}) + "\n"
            for name, panel, text in rows
        ),
        encoding="utf-8",
    )
    return file


def test_recorded_answers_are_judged(consensus, output):
    ran = consensus("--from", output, "--judge", "openai/good", "--json")
    assert (ran.code, ran.err.count("Traceback")) == (0, 0)
    made = json.loads(ran.out)
    assert (made["rows"], made["adversarial"], made["refused"], made["calls"]) == (2, 1.0, False, 44)
    (member,) = made["members"]
    assert (member["member"], member["wins"], member["ties"], member["win_rate"]) == ("openai/a", 1, 1, 0.75)
    assert "openai/a" in consensus("--from", output, "--judge", "openai/good").out


def test_judges_that_fall_for_length_end_with_a_code_of_their_own(consensus, output):
    ran = consensus("--from", output, "--judge", "openai/wordy")
    assert ran.code == 6
    assert "right on 20% of the adversarial pairs" in ran.err
    assert consensus("--from", output, "--judge", "openai/wordy", "--anyway").code == 0


def test_what_cannot_be_is_refused_before_any_call(consensus, vendors, output, tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt\nWhy?\n", encoding="utf-8")
    panel = ["-m", "openai/a", "-m", "openai/b", "--arbiter", "openai/c"]
    for arguments, said in (
        (["--from", output, "--judge", "openai/a"], "--judge: openai/a is in the panel"),
        ([prompts, *panel, "--judge", "openai/c"], "--judge: openai/c is in the panel"),
        (["--from", output, "--judge", "openai/good", "--arbiter", "openai/c"], "--arbiter would have no effect"),
        ([prompts, "--from", output, "--judge", "openai/good"], "give a file of prompts, or --from"),
        (["--judge", "openai/good"], "give a file of prompts, or --from"),
        (["--from", output, "--judge", "openai/good", "--strong-judge", "openai/good"], "none of the other judges"),
        (["--from", output, "--judge", "good"], "--judge: "),
        (["--from", tmp_path / "none.jsonl", "--judge", "openai/good"], "none.jsonl"),
    ):
        ran = consensus(*arguments)
        assert (ran.code, said in ran.err) == (2, True), (arguments, ran.err)
    assert vendors.count() == 0
