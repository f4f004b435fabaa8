"""`consensus runs`, `run`, `stats` and `history`: what is in the history, in which database it is, and for how long."""

import asyncio
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from getpass import getpass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import App, Parameter
from cyclopts.validators import Number
from pydantic import ValidationError

from consensus_flows.blocks.history import HISTORY_BLOCK, HistoryDatabase
from consensus_flows.deployments.server import connect, find_server
from consensus_flows.deployments.tables import clock, figure, one_line, put_rows
from consensus_flows.deployments.terminal import Exit, Stop, explain, put, put_json, say
from consensus_flows.tasks.errors import HistoryError
from consensus_flows.tasks.history.address import (
    VARIABLE,
    find_address,
    from_environment,
    no_block_is_saved,
    saved,
    server_address,
)
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.record import Attachment, Grade, RunWarning, Status

if TYPE_CHECKING:
    from consensus_flows.tasks.history.database import Database
    from consensus_flows.tasks.history.reading import Filter

app = App(name="history", help="Manage the history database.")

_AGO = re.compile(r"(\d+)([mhdw])\Z")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


T = TypeVar("T")


def list_history(
    *,
    flow: Annotated[str | None, Parameter(metavar="NAME")] = None,
    status: Status | None = None,
    since: Annotated[str | None, Parameter(metavar="DATE")] = None,
    until: Annotated[str | None, Parameter(metavar="DATE")] = None,
    model: Annotated[str | None, Parameter(metavar="MODEL")] = None,
    rows: Annotated[bool, Parameter(negative="")] = False,
    limit: Annotated[int, Parameter(validator=Number(gte=1), metavar="N")] = 20,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> Exit:
    """List past runs, newest first. A batch is one line; `consensus batches` shows more of it.

    In a pipe, one tab-separated line per run: id, start (UTC), flow, status, whether degraded, confidence, agreement,
    calls, calls answered from the cache, US dollars, seconds, prompt.

    Args:
        flow: Only runs of this flow, for example consortium or moa.
        status: Only runs with this status.
        since: Only runs that started since then: 2026-01-31, 2026-01-31T08:00, or an age: 90m, 12h, 7d, 4w.
        until: Only runs that started before then, in the format of --since.
        model: Only runs that called this model, as provider/model or model.
        rows: List the rows of batches too; implied by --flow and --model.
        limit: Maximum number of runs.
        json: Print JSON.
    """
    from consensus_flows.tasks.history.reading import list_runs

    rows = rows or flow is not None or model is not None
    wanted = wanted_runs(flow=flow, status=status, since=since, until=until, model=model, rows=rows)
    found = from_history(lambda connection: list_runs(connection, wanted, limit))
    if json:
        put_json(found)
        return Exit.ANSWER
    put_rows(
        ["id", "started", "flow", "status", "", "conf.", "agree", "calls", "cached", "USD", "s", "prompt"],
        [
            [
                run["id"],
                clock(run["started_at"]),
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
        least=("cached", "calls", "agree", "s", "conf.", "USD", "flow", "", "status"),
    )
    if not found:
        say("no such run is in the history")
    return Exit.ANSWER


def show_run(id: str, *, json: Annotated[bool, Parameter(negative="")] = False) -> Exit:
    """Show a past run: every call, and the answer.

    Args:
        id: ID of the run, or the unique start of it.
        json: Print the whole record as JSON.
    """
    from consensus_flows.tasks.history.reading import read_run
    from consensus_flows.tasks.history.writing import BATCH

    row, record = from_history(lambda connection: read_run(connection, id))
    if json:
        put_json(record)
        return Exit.ANSWER
    if row["flow"] == BATCH:
        raise Stop(f"{id!r} is a batch: consensus batches show {row['id']}")
    facts = {
        "run": row["id"],
        "flow": row["flow"],
        "started": clock(row["started_at"]),
        "status": row["status"] + (", degraded" if row["degraded"] else ""),
        "confidence": figure(row["confidence"]),
        "agreement": figure(row["agreement"]),
        "calls": f"{row['calls']}, {row['cached_calls']} from the cache",
        "cost": "unknown" if row["cost_usd"] is None else f"${row['cost_usd']:.4f}",
        "duration": f"{row['duration_s']:.1f} s",
        "conversation": row["conversation_id"] or "-",
    }
    if record.get("grade"):
        facts["grade"] = str(Grade.model_validate(record["grade"]))
    for name, value in facts.items():
        put(f"{name:<14}{one_line(value)}")
    for warning in dict.fromkeys(map(str, map(RunWarning.model_validate, record["warnings"]))):
        put(f"{'warning':<14}{one_line(warning)}")
    put(f"\n{record['prompt']}\n")
    for one in record.get("attachments", ()):
        put(one_line(f"attached: {Attachment.model_validate(one)}"))
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


def logs(
    *,
    count: Annotated[int, Parameter(name=["--count", "-n", "--limit"], validator=Number(gte=1), metavar="N")] = 3,
    query: Annotated[str | None, Parameter(name=["--query", "-q"], metavar="TEXT")] = None,
    model: Annotated[str | None, Parameter(name=["--model", "-m"], metavar="MODEL")] = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> Exit:
    """Print the latest prompts and answers, newest last.

    Args:
        count: Number of runs to print.
        query: Only runs with this text in the prompt or the answer.
        model: Only runs that called this model, as provider/model or model.
        json: Print JSON.
    """
    from consensus_flows.tasks.history.reading import Filter, list_runs

    wanted = Filter(model=model, text=query, batches=False)
    found = from_history(lambda connection: list_runs(connection, wanted, count, answers=True))[::-1]
    if json:
        put_json(found)
        return Exit.ANSWER
    for run in found:
        head = f"# {clock(run['started_at'])}    {run['flow']}    id: {run['id']}"
        put(f"{head}\n\n## Prompt\n\n{run['prompt']}\n\n## Response\n\n{run['answer'] or 'no answer'}\n")
    if not found:
        say("no such run is in the history")
    return Exit.ANSWER


def _call(call: dict[str, Any]) -> str:
    if call["error"]:
        return f"{call['member']}: {call['error']['kind']}: {one_line(call['error']['message'], 160)}"
    source = "from the cache" if call["cached"] else f"{call['latency_s']:.1f} s"
    return f"{call['member']} ({source}): {one_line(call['text'] or '', 160)}"


def stats(
    *,
    flow: Annotated[str | None, Parameter(metavar="NAME")] = None,
    since: Annotated[str | None, Parameter(metavar="DATE")] = None,
    until: Annotated[str | None, Parameter(metavar="DATE")] = None,
    model: Annotated[str | None, Parameter(metavar="MODEL")] = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> Exit:
    """Show calls, failures, latency, cost, wins and agreement by model.

    In a pipe, one tab-separated line per model: model, runs, calls, failures, cached calls, median and 95th percentile of
    the latency in seconds, US dollars, wins, agreement. A win is a run that returned the model's answer verbatim. Agreement
    is the mean agreement of its answers with the final answer, 0 to 1.

    Args:
        flow: Only runs of this flow, for example consortium or moa.
        since: Only runs that started since then: 2026-01-31, 2026-01-31T08:00, or an age: 90m, 12h, 7d, 4w.
        until: Only runs that started before then, in the format of --since.
        model: Only this model, as provider/model or model.
        json: Print JSON.
    """
    from consensus_flows.tasks.history.reading import model_stats

    wanted = wanted_runs(flow=flow, since=since, until=until, model=model)
    found = from_history(lambda connection: model_stats(connection, wanted))
    if json:
        put_json([asdict(one) for one in found])
        return Exit.ANSWER
    put_rows(
        ["model", "runs", "calls", "failed", "cached", "p50 s", "p95 s", "USD", "wins", "agree"],
        [
            [
                one.model,
                str(one.runs),
                str(one.calls),
                str(one.failures),
                str(one.cached),
                figure(one.p50_s),
                figure(one.p95_s),
                figure(one.cost_usd, 4),
                str(one.wins),
                figure(one.agreement),
            ]
            for one in found
        ],
        wide="model",
    )
    if not found:
        say("no such call is in the history")
    return Exit.ANSWER


@app.command(name="set")
def set_history(*, from_env: Annotated[str | None, Parameter(metavar="VARIABLE")] = None) -> Exit:
    """Save the URL of the history database as a block, for every worker and command line of this server.

    Prompts for the URL without showing it, or reads it from a variable or standard input. Opens the database first, and
    creates its tables.

    Args:
        from_env: Environment variable that contains the URL.
    """
    try:
        block = HistoryDatabase.model_validate({"url": _read_url(from_env)})
    except ValidationError as error:
        raise Stop(explain(error, {"url": "URL"})) from None
    from consensus_flows.tasks.history.database import Database, shown
    from consensus_flows.tasks.history.reading import count_runs

    url = block.url.get_secret_value()
    try:
        with closing(Database(url)) as database:
            number = database.read(count_runs)
    except HistoryError as error:
        raise Stop(f"not saved: {error.message}") from None
    connect()

    async def save() -> None:
        await block.save(HISTORY_BLOCK, overwrite=True)

    asyncio.run(save())
    saved[server_address()] = url
    say(f"runs are recorded in {shown(url)} from now on; it holds {number}. Workers that are running keep the old one.")
    if from_environment():
        say(f"Here {VARIABLE} is set, which comes first.")
    return Exit.ANSWER


@app.command
def remove() -> Exit:
    """Remove the saved URL, so that runs are recorded in a file on each machine. The database is kept."""
    connect()

    async def delete() -> None:
        await HistoryDatabase.adelete(HISTORY_BLOCK)

    try:
        asyncio.run(delete())
    except ValueError:  # Prefect's word for a block that is not there
        raise Stop(f"no history URL is saved: no block {HISTORY_BLOCK!r}") from None
    saved.pop(server_address(), None)
    say("removed the address of the history")
    return Exit.ANSWER


@app.command
def prune(*, older_than_: Annotated[str, Parameter(name="--older-than", metavar="AGE")], dry_run: bool = False) -> Exit:
    """Delete old runs and their calls from the history. A conversation that continued later is kept whole.

    Cached answers and Prefect's own data are kept.

    Args:
        older_than_: Minimum age: 90d, 12h, 4w.
        dry_run: Print how many there are, and delete nothing.
    """
    from consensus_flows.tasks.history import pruning

    before = older_than(older_than_)
    with opened_history() as history:
        if dry_run:
            found = history.read(lambda connection: pruning.count_old(connection, before))
        else:
            found = pruning.prune(history, before)
            if found.runs:
                history.shrink()
    kept = f"; {found.kept} as old are kept: their conversations continued" if found.kept else ""
    put(
        f"{'would delete' if dry_run else 'deleted'} {plural(found.runs, 'run')} and {plural(found.calls, 'call')}{kept}"
    )
    return Exit.ANSWER


def _read_url(from_env: str | None) -> str:
    if from_env is not None:
        url = os.environ.get(from_env, "")
        if not url.strip():
            raise Stop(f"--from-env {from_env}: this variable is not set")
    elif sys.stdin.isatty():
        url = getpass("URL of the database: ", stream=sys.stderr)
    else:
        url = sys.stdin.readline()
    if not url.strip():
        raise Stop("no address given: postgresql://user:password@host/name")
    return url


def from_history(work: Callable[[Any], T]) -> T:
    """Read from the history.

    Raises:
        Stop: If it cannot be read, or does not hold what is wanted.
    """
    with opened_history() as history:
        return history.read(work)


@contextmanager
def opened_history() -> Iterator["Database"]:
    """Open the history, wherever it is; asking the server if need be.

    Raises:
        Stop: If it cannot be used.
    """
    from consensus_flows.tasks.history.database import opened

    try:
        find_history()
        with opened() as history:
            yield history
    except HistoryError as error:
        raise Stop(error.message) from None


def find_history() -> None:
    """Ask the Prefect server where the history is, unless that is known without it.

    It is known if the environment says so, if the server was asked before, or if none runs and the database of the one that
    would be started holds no address.

    Raises:
        HistoryError: If it does not say.
        ServerUnavailable: If there is no server, and none can be started.
    """
    if from_environment():
        return
    if server_address() in saved or (find_server() is None and no_block_is_saved()):
        return
    connect()
    asyncio.run(find_address())


def wanted_runs(
    *,
    flow: str | None,
    status: str | None = None,
    since: str | None,
    until: str | None,
    model: str | None,
    rows: bool = True,
) -> "Filter":
    """Make a filter of options.

    Raises:
        Stop: If a time cannot be read.
    """
    from consensus_flows.tasks.history.reading import Filter

    begin = moment(since, option="--since") if since else None
    end = moment(until, option="--until") if until else None
    if begin and end and begin >= end:
        raise Stop(f"--since {since} is not before --until {until}")
    from consensus_flows.flows.algorithms import full_name

    return Filter(flow=full_name(flow) if flow else None, status=status, since=begin, until=end, model=model, rows=rows)


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
