"""A verdict's exit code is the choice that won."""

from pathlib import Path

import pytest

from tests.kits.command_kit import Command, commands
from tests.vendors import LoopbackVendors, Reply

PANEL = ["-m", "openai/one", "-m", "anthropic/two", "-m", "google/three"]
CHOICES = ["--choices", "approve,reject,Ask the author"]


@pytest.fixture
def consensus(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], results: str) -> Command:
    return commands(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("answers", "code", "out"),
    [
        (["Looks fine.\n\nAnswer: approve", "Answer: Approve", "Answer: reject"], 0, "approve"),
        (["Answer: reject", "reject", "Answer: approve"], 10, "reject"),
        (["Answer: ask the author", "Ask the author", "Answer: approve"], 11, "ask the author"),
        (["Answer: approve", "Answer: reject", "I cannot tell."], 1, "approve"),
        (["I cannot tell.", "No idea.", "Answer: reject"], 1, "reject"),
    ],
)
def test_the_exit_code_is_the_choice(
    consensus: Command, vendors: LoopbackVendors, answers: list[str], code: int, out: str
) -> None:
    for model, answer in zip(("one", "two", "three"), answers, strict=True):
        vendors.script(model, then=Reply(text=answer))
    ran = consensus("verdict", "Merge this change?", *CHOICES, *PANEL, "--raw")
    assert (ran.code, ran.out.strip().casefold()) == (code, out)
    why = "a tie between" if answers[0] == "Answer: approve" else "1 of 3 members chose, and 2 are needed"
    assert ("no verdict" in ran.err) == (why in ran.err) == (code == 1)
    assert "approve, reject, Ask the author" in vendors.seen[0].prompt


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--choices", "approve"], "two or more labels, for example yes,no"),
        (["--choices", "a,A"], "twice"),
        ([], "--choices"),
        ([*CHOICES, "--extract", "number"], "--extract"),
    ],
)
def test_wrong_choices_are_found_before_a_call(
    consensus: Command, vendors: LoopbackVendors, options: list[str], named: str
) -> None:
    ran = consensus("verdict", "Merge?", *PANEL, *options)
    assert (ran.code, vendors.count()) == (2, 0)
    assert named in ran.err


def test_a_saved_vote_gives_the_verdict_and_the_record(
    consensus: Command, vendors: LoopbackVendors, tmp_path: Path
) -> None:
    consensus("save", "gate", "--flow", "vote", "--extract", "json:answer", *PANEL)
    for model in ("one", "two", "three"):
        vendors.script(model, then=Reply(text="Answer: reject"))
    ran = consensus("verdict", "Merge?", *CHOICES, "--name", "gate", "-o", tmp_path / "record.json")
    consensus("remove", "gate")
    assert ran.code == 10
    assert '"answer": "reject"' in (tmp_path / "record.json").read_text()
