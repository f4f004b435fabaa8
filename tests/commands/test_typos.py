"""A misspelled name is answered with the nearest one there is, and nothing is asked or paid for."""

import pytest

from tests.kits.command_kit import Command, commands
from tests.vendors import LoopbackVendors

PANEL = ["-m", "openai/a", "-m", "openai/b"]


@pytest.fixture
def consensus(results: str, vendors: LoopbackVendors, monkeypatch, capsys, tmp_path) -> Command:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text("id,prompt,gold\n1,Why?,42\n")
    return commands(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["schedules", "rn"], "Did you mean run?"),
        (["schedules", "run", "nigth"], "no schedule is called 'nigth'"),
        (["batches", "shw"], "Did you mean show?"),
        (["keys", "lst"], 'Did you mean "list"?'),
        (["keys", "set", "opnai", "--from-env", "X"], "Did you mean openai?"),
        (["vote", "Why?", *PANEL, "--extract", "nubmer"], "Did you mean number?"),
        (["vote", "Why?", *PANEL, "--extract", "lable:yes,no"], "Did you mean label?"),
        (["vote", "Why?", *PANEL, "--weights", "openai/aa=2"], "Did you mean openai/a"),
        (["vote", "Why?", *PANEL, "--prompt-set", "few-shots"], "Did you mean few-shot"),
        (["vote", "Why?", *PANEL, "--arbiter", "openai/c"], "--arbiter: it belongs to `consensus consortium`"),
        (["consortium", "Why?", *PANEL, "--extract", "number"], "belongs to `consensus learn` and `consensus vote`"),
        (["vote", "Why?", *PANEL, "--tempreature", "1"], "Did you mean --temperature?"),
        (["save", "x", "--flow", "vot", *PANEL], "Did you mean vote?"),
        (["batch", "in.csv", "-o", "out.jsonl", "--flow", "vote", *PANEL, "--prompt-column", "promt"], "mean prompt?"),
        (["batch", "inn.csv", "-o", "out.jsonl", "--flow", "vote", *PANEL], "Did you mean in.csv?"),
        (["batch", "in.csv", "-o", "out.jsnl", "--flow", "vote", *PANEL], "Did you mean .jsonl"),
        (["batch", "in.cvs", "-o", "out.jsonl", "--flow", "vote", *PANEL], "Did you mean .csv"),
        (["evaluate", "in.csv", "--label", "glod", *PANEL, "--extract", "number"], "Did you mean gold?"),
    ],
)
def test_the_nearest_name_is_suggested(consensus, vendors, arguments, said):
    ran = consensus(*arguments)
    assert ran.code == 2 and vendors.count() == 0
    assert said in " ".join(ran.err.replace("│", " ").split())
