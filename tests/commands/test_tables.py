"""Tables of the command line, on a terminal of 80 columns and more."""

import json
import time

import pytest

from consensus_flows.deployments.commands.diff import diff
from consensus_flows.deployments.tables import clock, put_rows

ID = "01a21af5-3b8f-70a6-8f59-fcf79ead0e76"
HEADER = ["id", "started", "flow", "status", "conf.", "USD", "prompt"]
ROW = [ID, "2026-11-27 02:00:00", "mixture-of-agents", "finished", "0.92", "0.0123", "Why is the sky blue? " * 9]
LEAST = ("conf.", "USD", "flow", "status")


@pytest.mark.parametrize(
    ("columns", "kept"),
    [
        (80, ["started", "prompt", "id"]),
        (100, ["started", "status", "prompt", "id"]),
        (200, [*HEADER[1:], "id"]),
    ],
)
def test_a_narrow_terminal_has_fewer_columns_and_the_whole_id_at_the_end(columns, kept, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    put_rows(HEADER, [ROW], wide="prompt", least=LEAST)
    head, line = (text.rstrip() for text in capsys.readouterr().out.splitlines())
    assert head.split() == kept
    assert line.endswith(ID) and line.startswith(ROW[1]) and "Why is the sk" in line
    assert len(line) <= columns


@pytest.mark.parametrize(("terminal", "shown"), [(True, "2026-11-27 03:00:00"), (False, "2026-11-27T02:00:00Z")])
def test_a_pipe_gets_times_in_utc_and_a_terminal_those_of_its_place(terminal, shown, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert clock("2026-11-27T02:00:00.123+00:00") == shown
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_pipe_gets_every_column_in_its_order(capsys):
    put_rows(HEADER, [ROW], wide="prompt", least=LEAST)
    assert capsys.readouterr().out.rstrip("\n").split("\t") == [" ".join(text.split()) for text in ROW]


def test_a_comparison_on_a_terminal(tmp_path, monkeypatch, capsys):
    a, b = (tmp_path / f"{name}.jsonl" for name in "ab")
    for path, answer in ((a, "old"), (b, "new")):
        path.write_text(json.dumps({"id": "r1", "answer": answer, "agreement": 1.0, "status": "finished"}) + "\n")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    diff(str(a), str(b))
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["before", "after", "agree", "before", "agree", "after", "id"]
    assert line.split() == ["old", "new", "1.00", "1.00", "r1"]
