"""What a person sees while a run goes on."""

import io
import os
import pty
import sys
from pathlib import Path

from prefect.settings import PREFECT_API_URL
from rich.console import Console
from rich.live import Live

from consensus_flows.deployments.view import Lines, LiveTable
from consensus_flows.tasks.record import CallError, Iteration, Response, Synthesis
from consensus_flows.tasks.watch import Piece
from tests.kits import processes
from tests.kits.consortium_kit import judged
from tests.vendors import Reply, faults

ROOT = Path(__file__).parents[2]


def response(member, **fields):
    return Response(member=member, provider="openai", model="x", **fields)


def drawn(view):
    screen = io.StringIO()
    Console(file=screen, width=100).print(view._table())
    return screen.getvalue()


async def test_the_table_says_who_has_answered_and_who_is_waited_for():
    view = LiveTable(["openai/a#1", "openai/b#1"])
    assert "Iteration" not in drawn(view)
    await view.on_event("iterating", Iteration(number=1))
    assert "Iteration 1" in drawn(view)
    await view.on_event("answered", response("openai/a#1", text="yes", latency_s=1.25))
    shown = drawn(view)
    assert "✓" in shown and "1.2 s" in shown and "putting the answers together" not in shown
    await view.on_event(
        "answered", response("openai/b#1", error=CallError(kind="auth", message="openai/b: auth: HTTP 401"))
    )
    shown = drawn(view)
    assert "✗" in shown and "HTTP 401" in shown and "putting the answers together" in shown
    view.close()


async def test_lines_tell_the_same_where_there_is_no_terminal(capsys):
    lines = Lines()
    await lines.on_event("answered", response("openai/a#1", text="yes", cached=True))
    await lines.on_event("iterated", Iteration(number=2, agreement=0.5, synthesis=Synthesis(text="t", confidence=0.25)))
    told = capsys.readouterr()
    assert told.out == ""
    assert "✓ openai/a#1: from the cache" in told.err
    assert "Iteration 2: confidence 25 %, agreement 50 %" in told.err


async def test_the_end_of_the_answer_is_shown_while_it_is_written():
    view, screen = LiveTable(["openai/a#1"]), io.StringIO()
    console = Console(file=screen, width=40, height=8)
    view._live = Live(console=console)

    def shown():
        screen.truncate(0)
        console.print(view._shown())
        return screen.getvalue()

    await view.on_event("iterating", Iteration(number=1))
    await view.on_event("wrote", Piece("Half an \x1b[31manswer", "openai/a"))
    await view.on_event("wrote", Piece(" more", "openai/a", 19))
    assert "Half an" in shown() and "answer more" in shown() and "\x1b" not in shown()
    await view.on_event("wrote", Piece("\n".join(f"line {number}" for number in range(20)), "openai/b"))
    assert "Half" not in shown() and "line 19" in shown() and "line 9\n" not in shown()
    assert len(shown().splitlines()) < 8
    await view.on_event("iterated", Iteration(number=1))
    assert "line" not in shown()


def test_a_terminal_shows_what_is_written_and_in_the_end_the_answer_once(results, vendors, tmp_path):
    broken = Reply(text=judged(90, "red " * 20).text, pace=0.02, fault=faults.end_early().fault)
    vendors.script("arbiter", broken, Reply(text=judged(90, "blue " * 20).text, pace=0.02))
    options = ["-m", "openai/one", "-m", "openai/two", "--arbiter", "openai/arbiter", "--max-iterations", "1"]
    environment = os.environ | {
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(tmp_path / "results"),
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm",
        "COLUMNS": "120",
    }
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "consensus_flows.deployments.cli", "Which?", *options]
    with processes.start(command, cwd=tmp_path, env=environment, stdin=its, stdout=its, stderr=its) as process:
        os.close(its)
        shown = b""
        while part := read(ours):
            shown += part
    os.close(ours)
    assert process.returncode == 0
    text = shown.decode()
    cleared = text.rindex("\x1b[2K")
    assert "red red" in text[:cleared] and "blue blue" in text[:cleared]
    assert "red" not in text[cleared:]
    assert text[cleared:].count("blue " * 19) == 1


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # nobody is at the other end
        return b""
