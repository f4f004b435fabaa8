"""`consensus history`: in which database runs are recorded, and for how long."""

import asyncio
import os
import sys
from getpass import getpass
from typing import Annotated

from cyclopts import App, Parameter
from pydantic import ValidationError

from consensus_flows.blocks.history import HISTORY_BLOCK, HistoryDatabase
from consensus_flows.deployments.commands.history.runs import older_than, opened_history
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, Stop, explain, put, say
from consensus_flows.tasks.history.address import VARIABLE, given, saved, server_address
from consensus_flows.tasks.history.errors import HistoryError

app = App(name="history", help="The database of the history: where it is, and what is deleted from it.")


@app.command(name="set")
def set_history(*, from_env: str | None = None) -> Exit:
    """Save the address of the history as a block: it holds for every worker and command line of this server.

    It is asked for without being shown, or taken from a variable or from standard input. The database is opened first, and
    its tables are made.

    Args:
        from_env: Name of the environment variable that holds the address.
    """
    try:
        block = HistoryDatabase.model_validate({"url": _read_url(from_env)})
    except ValidationError as error:
        raise Stop(explain(error, {"url": "URL"})) from None
    from consensus_flows.tasks.history.database import Database, shown
    from consensus_flows.tasks.history.reading import count_runs

    url = block.url.get_secret_value()
    try:
        database = Database(url)
        try:
            number = database.read(count_runs)
        finally:
            database.close()
    except HistoryError as error:
        raise Stop(f"not saved: {error.message}") from None
    connect()

    async def save() -> None:
        await block.save(HISTORY_BLOCK, overwrite=True)

    asyncio.run(save())
    saved[server_address()] = url
    say(f"runs are recorded in {shown(url)} from now on; it holds {number}. Workers that run already go on as before.")
    if given():
        say(f"Here {VARIABLE} is set, which comes first.")
    return Exit.ANSWER


@app.command
def remove() -> Exit:
    """Remove the saved address: runs are recorded in a file on each machine again. The database stays as it is."""
    connect()

    async def delete() -> None:
        await HistoryDatabase.adelete(HISTORY_BLOCK)

    try:
        asyncio.run(delete())
    except ValueError:  # Prefect's word for a block that is not there
        raise Stop(f"no address of a history is saved: there is no block {HISTORY_BLOCK!r}") from None
    saved.pop(server_address(), None)
    say("removed the address of the history")
    return Exit.ANSWER


@app.command
def prune(*, older_than_: Annotated[str, Parameter(name="--older-than")], dry_run: bool = False) -> Exit:
    """Delete runs from the history that are older, with their calls. A conversation that went on later is kept whole.

    Answers in the store, and what Prefect keeps of the runs, are not touched.

    Args:
        older_than_: How old: 90d, 12h, 4w.
        dry_run: Say how many there are, and delete nothing.
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
    kept = f"; {found.kept} as old are kept: their conversations went on" if found.kept else ""
    put(f"{'would delete' if dry_run else 'deleted'} {found.runs} runs and {found.calls} calls{kept}")
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
