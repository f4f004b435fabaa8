"""`consensus runs` and `consensus run`: what is in the history."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter
from cyclopts.validators import Number

from consensus_flows.deployments.commands.algorithms.rows import figure, local_time, one_line, put_rows
from consensus_flows.deployments.terminal import Exit, Stop, put, put_json, say
from consensus_flows.tasks.history.address import given, saved, server_address
from consensus_flows.tasks.history.errors import HistoryError
from consensus_flows.tasks.record import RunWarning, Status

if TYPE_CHECKING:
    from consensus_flows.tasks.history.database import Database

_AGO = re.compile(r"(\d+)([mhdw])\Z")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

T = TypeVar("T")


def list_history(
    *,
    flow: str | None = None,
    status: Status | None = None,
    since: str | None = None,
    until: str | None = None,
    model: str | None = None,
    limit: Annotated[int, Parameter(validator=Number(gte=1))] = 20,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> Exit:
    """List the runs of the history, newest first.

    In a pipe, a line a run with tabs between: id, start, flow, status, whether degraded, confidence, agreement, calls,
    calls answered from the store, US dollars, seconds, prompt.

    Args:
        flow: Only runs of this flow, for example consortium or moa.
        status: Only runs that ended like this.
        since: Only runs that began since then: 2026-01-31, 2026-01-31T08:00, or 90m, 12h, 7d, 4w ago.
        until: Only runs that began before then, written like --since.
        model: Only runs that called this model: provider/model, or model.
        limit: How many at most.
        json: As JSON.
    """
    from consensus_flows.tasks.history.reading import list_runs

    wanted = wanted_runs(flow, since, model, status, until)
    found = from_history(lambda connection: list_runs(connection, wanted, limit))
    if json:
        put_json(found)
        return Exit.ANSWER
    put_rows(
        ["id", "started", "flow", "status", "", "conf.", "agree", "calls", "stored", "USD", "s", "prompt"],
        [
            [
                run["id"],
                local_time(run["started_at"]),
                run["flow"],
                run["status"],
                "degraded" if run["degraded"] else "",
                figure(run["confidence"]),
                figure(run["agreement"]),
                str(run["calls"]),
                str(run["cached_calls"]),
                figure(run["cost_usd"], 4),
                figure(run["duration_s"], 1),
                one_line(run["prompt"], 200),
            ]
            for run in found
        ],
        wide="prompt",
    )
    if not found:
        say("no such run is in the history")
    return Exit.ANSWER


def show_run(id: str, *, json: Annotated[bool, Parameter(negative="")] = False) -> Exit:
    """Show a run: how it ended, every call, and the answer.

    Args:
        id: The run's id, or as much of its beginning as fits no other.
        json: The whole record as JSON, as the run itself printed it.
    """
    from consensus_flows.tasks.history.reading import read_run

    row, record = from_history(lambda connection: read_run(connection, id))
    if json:
        put_json(record)
        return Exit.ANSWER
    facts = {
        "run": row["id"],
        "flow": row["flow"],
        "started": local_time(row["started_at"]),
        "status": row["status"] + (", degraded" if row["degraded"] else ""),
        "confidence": figure(row["confidence"]),
        "agreement": figure(row["agreement"]),
        "calls": f"{row['calls']}, {row['cached_calls']} from the store",
        "cost": "unknown" if row["cost_usd"] is None else f"${row['cost_usd']:.4f}",
        "duration": f"{row['duration_s']:.1f} s",
        "conversation": row["conversation_id"] or "-",
    }
    for name, value in facts.items():
        put(f"{name:<14}{one_line(value)}")
    for warning in dict.fromkeys(map(str, map(RunWarning.model_validate, record["warnings"]))):
        put(f"{'warning':<14}{one_line(warning)}")
    put(f"\n{record['prompt']}\n")
    for iteration in record["iterations"]:
        put(f"Iteration {iteration['number']}")
        # Runs of before there were embeddings have no list of them.
        embeddings = iteration.get("embeddings", [])
        for role, calls in (
            ("member", iteration["responses"]),
            ("embedding", embeddings),
            ("judge", iteration["judgements"]),
        ):
            for call in calls:
                put(f"  {role:<10}{_call(call)}" if embeddings else f"  {role:<8}{_call(call)}")
    put(f"\n{record['answer']}" if record["answer"] is not None else f"\nno answer: {record['error']}")
    return Exit.ANSWER


def _call(call: dict[str, Any]) -> str:
    if call["error"]:
        return f"{call['member']}: {call['error']['kind']}: {one_line(call['error']['message'], 160)}"
    source = "from the store" if call["cached"] else f"{call['latency_s']:.1f} s"
    return f"{call['member']} ({source}): {one_line(call['text'] or '', 160)}"


def from_history(work: Callable[[Any], T]) -> T:
    """Read from the history.

    Raises:
        Stop: If it cannot be read, or does not hold what is wanted.
    """
    with opened_history() as history:
        return history.read(work)


@contextmanager
def opened_history() -> Iterator["Database"]:
    """Open the history, wherever it is; see `ask_where`.

    Raises:
        Stop: If it cannot be used.
    """
    from consensus_flows.tasks.history.database import opened

    try:
        ask_where()
        with opened() as history:
            yield history
    except HistoryError as error:
        raise Stop(error.message) from None


def ask_where() -> None:
    """Ask the Prefect server where the history is, unless that is known without it.

    It is where the environment says so, where the server was asked before, and where none runs and the database of the one
    that would be started shows that no address is saved in it.

    Raises:
        HistoryError: If it does not say.
        ServerUnavailable: If there is no server, and none can be started.
    """
    if given():
        return
    import asyncio

    from consensus_flows.deployments.server import connect, find_server
    from consensus_flows.tasks.history.saved_address import find_history, none_is_saved

    if server_address() in saved or (find_server() is None and none_is_saved()):
        return
    connect()
    asyncio.run(find_history())


def wanted_runs(
    flow: str | None, since: str | None, model: str | None, status: str | None = None, until: str | None = None
) -> Any:
    """Make a filter of options.

    Raises:
        Stop: If a time cannot be read.
    """
    from consensus_flows.flows.algorithms import full_name
    from consensus_flows.tasks.history.reading import Filter

    begin, end = (
        moment(text, option=name) if text else None for text, name in ((since, "--since"), (until, "--until"))
    )
    if begin and end and begin >= end:
        raise Stop(f"--since {since} is not before --until {until}")
    return Filter(full_name(flow) if flow else None, status, begin, model, end)


def moment(text: str, now: datetime | None = None, option: str = "--since") -> datetime:
    """Read a point in time: a date or a time of this place, or how long ago.

    Args:
        text: What was given.
        now: The present; default: what the clock says.
        option: For what it was given.

    Raises:
        Stop: If it is neither.
    """
    ago = _AGO.match(text.strip())
    try:
        if ago:
            return (now or datetime.now(UTC)) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError):
        raise Stop(f"{option} {text!r}: write 2026-01-31, 2026-01-31T08:00, or 90m, 12h, 7d, 4w") from None


def older_than(text: str, now: datetime | None = None) -> datetime:
    """Read an age.

    Args:
        text: What was given.
        now: The present; default: what the clock says.

    Raises:
        Stop: If it is none.
    """
    if not _AGO.match(text.strip()):
        raise Stop(f"--older-than {text!r}: write how old, as 90d, 12h, 4w")
    return moment(text, now, "--older-than")
