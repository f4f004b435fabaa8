"""`consensus batches`: the batches of the history, each as a whole, and the rows of one that need a look."""

import asyncio
import fcntl
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number

from consensus_flows.deployments.commands.history import from_history
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.tables import clock, figure, one_line, put_rows
from consensus_flows.deployments.terminal import Exit, Stop, put, put_json, say
from consensus_flows.tasks.batches.addresses import journal_path
from consensus_flows.tasks.batches.frames import output_rows
from consensus_flows.tasks.batches.results import DECIDED
from consensus_flows.tasks.batches.review import WORDS, reasons, worst
from consensus_flows.tasks.calls.jobs import SentJob, look_at
from consensus_flows.tasks.calls.providers import close_clients
from consensus_flows.tasks.errors import ConfigurationError
from consensus_flows.tasks.plain_text import plural
from consensus_flows.tasks.record import bill

MOST = 1000
"""Batches of the history that may have something at a vendor."""
app = App(name="batches", help="List batches, newest first; `consensus batches show ID` shows the rows to review.")


@app.default
def list_them(
    *,
    limit: Annotated[int, Parameter(validator=Number(gte=1), metavar="N")] = 20,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> Exit:
    """List batches, newest first: state, rows, cost and output file. The state `killed` means: run the same command to resume.

    In a pipe, one tab-separated line per batch: start (UTC), state, finished/all rows, rows to review, US dollars, output, id.

    Args:
        limit: Maximum number of batches.
        json: Print JSON.
    """
    from consensus_flows.tasks.history.reading import list_batches

    found = from_history(lambda connection: list_batches(connection, limit))
    if json:
        put_json([{**facts_of(batch), "summary": batch["record"]} for batch in found])
        return Exit.ANSWER
    put_rows(
        ["started", "state", "rows", "review", "USD", "output", "id"],
        [
            [
                clock(batch["started_at"], "%Y-%m-%d %H:%M"),
                state_of(batch),
                progress_of(batch["record"]),
                str(batch["record"].get("to_review", "-")),
                figure(batch["cost_usd"], 4),
                batch["answer"],
                batch["id"],
            ]
            for batch in found
        ],
        wide="output",
        least=("review", "USD", "rows"),
    )
    if not found:
        say("no batch is in the history")
    if any(state_of(batch) == "waiting" for batch in found):
        say("`consensus batches vendors` shows what is at the vendors")
    return Exit.ANSWER


@app.command
def show(
    id: str,
    *,
    rows: Annotated[int, Parameter(validator=Number(gte=0), metavar="N")] = 10,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> Exit:
    """Show a batch: results, models, and the rows that most need review.

    Args:
        id: ID of the batch, or the unique start of it.
        rows: Maximum number of rows.
        json: Print JSON.
    """
    from consensus_flows.tasks.history.reading import list_batches, read_run
    from consensus_flows.tasks.history.writing import BATCH

    batch, summary = from_history(lambda connection: read_run(connection, id))
    if batch["flow"] != BATCH:
        raise Stop(f"{id!r} is a run of {batch['flow']}, not a batch: consensus run {id}")
    batch["record"] = summary
    later = from_history(lambda connection: list_batches(connection, MOST))
    writer = next((one["id"] for one in later if one["answer"] == batch["answer"]), batch["id"])
    found, statuses = [], Counter[str]()
    if writer != batch["id"]:
        say(f"  ! batch {writer} has written {batch['answer']} since: `consensus batches show {writer}` shows its rows")
    else:
        try:
            found = worst(_counted(output_rows(batch["answer"]), statuses), rows)
        except ConfigurationError as error:
            say(f"  ! {error.message}")
    if json:
        put_json({**facts_of(batch), "summary": summary, "worst": found})
        return Exit.ANSWER
    facts = {
        "batch": batch["id"],
        "flow": summary.get("algorithm", ""),
        "started": clock(batch["started_at"]),
        "state": state_of(batch),
        "rows": f"{progress_of(summary)}: {summary.get('done', 0)} answered, {summary.get('failed', 0)} failed, "
        f"{summary.get('degraded', 0)} degraded, {summary.get('ties', 0)} ties, {summary.get('abstained', 0)} abstained, {summary.get('unsure', 0)} unsure",
        "to review": str(summary.get("to_review", "-")),
        "cost": bill(batch["cost_usd"], summary.get("possibly_billed", 0)),
        "duration": f"{batch['duration_s']:.1f} s",
        "input": batch["prompt"],
        "output": batch["answer"],
    }
    if summary.get("review_file"):
        facts["review file"] = summary["review_file"]
    if batch["error"]:
        facts["error"] = batch["error"]
    for name, value in facts.items():
        put(f"{name:<14}{one_line(value)}")
    for model in summary.get("models", []):
        put(f"{'model':<14}{one_line(model['model'])}: {plural(model['calls'], 'call')}, {model['failed']} failed")
    if found:
        put("")
        put_rows(
            ["row", "why", "agree", "answer"],
            [
                [
                    row["id"],
                    ", ".join(WORDS[kind] for kind in reasons(row)),
                    figure(row.get("agreement")),
                    row["answer"] or row.get("error") or "",
                ]
                for row in found
            ],
            wide="answer",
        )
    if settled := statuses[DECIDED]:
        put("")
        put(
            f"{plural(settled, 'row')} {'is' if settled == 1 else 'are'} decided by a person, and not among the rows to review."
        )
    return Exit.ANSWER


def _counted(rows: Iterable[dict[str, Any]], statuses: Counter[str]) -> Iterator[dict[str, Any]]:
    for row in rows:
        statuses[row["status"]] += 1
        yield row


@app.command
def vendors(*, json: Annotated[bool, Parameter(negative="")] = False) -> Exit:
    """List the batches that are at the vendors, of `consensus batch --vendor-batch`: state, lines, age, worst-case cost.

    Args:
        json: Print JSON.
    """
    from consensus_flows.tasks.batches.journal import open_jobs
    from consensus_flows.tasks.history.reading import list_batches

    connect()
    batches = from_history(lambda connection: list_batches(connection, MOST))
    jobs = [
        (batch["answer"], one)
        for batch in batches
        if state_of(batch) in {"running", "killed", "waiting"}
        for one in open_jobs(journal_path(batch["answer"]))
    ]
    states = asyncio.run(_looked_at([job for _, job in jobs]))
    found = [
        {
            "model": job.model,
            "state": state,
            "done": done,
            "lines": len(job.lines),
            "age_s": round(time.time() - job.at),
            "worst_usd": job.worst_usd,
            "id": job.id,
            "output": output,
        }
        for (output, job), (state, done) in zip(jobs, states, strict=True)
    ]
    if json:
        put_json(found)
        return Exit.ANSWER
    put_rows(
        ["model", "state", "done", "age", "USD at most", "id", "output"],
        [
            [
                one["model"],
                one["state"],
                f"{one['done']}/{one['lines']}",
                f"{one['age_s'] // 3600}h {one['age_s'] % 3600 // 60:02d}m",
                figure(one["worst_usd"], 4),
                one["id"] or "-",
                one["output"],
            ]
            for one in found
        ],
        wide="output",
        least=("USD at most", "age"),
    )
    if not found:
        say("no batch is at a vendor")
    return Exit.ANSWER


async def _looked_at(jobs: list[SentJob]) -> list[tuple[str, int]]:
    """Ask the vendors how their batches are, and how many lines are done."""
    try:
        return await asyncio.gather(*map(look_at, jobs))
    finally:
        await close_clients()


def facts_of(batch: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of a batch beside its summary."""
    return {
        "id": batch["id"],
        "started_at": batch["started_at"],
        "state": state_of(batch),
        "input": batch["prompt"],
        "output": batch["answer"],
        "cost_usd": batch["cost_usd"],
    }


def progress_of(summary: dict[str, Any]) -> str:
    """Say how many rows are finished, of how many; a batch that goes on knows how many are wanted."""
    done = sum(summary.get(name, 0) for name in ("done", "failed", "abstained"))
    return f"{done + (summary.get('resumed', 0) if 'wanted' in summary else 0)}/{summary.get('wanted', summary.get('rows', 0))}"


def state_of(batch: dict[str, Any]) -> str:
    """Return how a batch ended; one that was killed never said so, but nobody holds its journal."""
    status = str(batch["status"])
    if status != "running":
        return status
    with suppress(OSError, ConfigurationError), journal_path(batch["answer"]).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return "killed"
    return status
