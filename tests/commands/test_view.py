"""What a person sees while a run goes on."""

import io

from rich.console import Console

from consensus_flows.deployments.view import Lines, LiveTable
from consensus_flows.tasks.record import CallError, Iteration, Response, Synthesis


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
