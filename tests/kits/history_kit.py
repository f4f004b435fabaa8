"""What the tests of the history share: records that were never run, and a history of the test's own."""

import os
import sqlite3
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consensus_flows.tasks.history.writing import Conversation, Entry, Turn
from consensus_flows.tasks.record import CallError, Iteration, Record, Response, Synthesis, Usage
from tests.kits import processes

if TYPE_CHECKING:
    from consensus_flows.tasks.history.database import Database

ROOT = Path(__file__).parent.parent.parent
START = datetime(2026, 1, 31, 8, 0, tzinfo=UTC)


def response(number: int = 1, **fields: Any) -> Response:
    given = {"member": f"openai/m{number}#1", "provider": "openai", "model": f"m{number}", "text": f"answer {number}"}
    usage = Usage(input_tokens=10, output_tokens=5)
    return Response(**(given | {"latency_s": 0.5, "attempts": 1, "usage": usage, "cost_usd": 0.001} | fields))


def failed(number: int = 1, kind: str = "quota") -> Response:
    error = CallError(kind=kind, message=f"openai/m{number}: {kind}: HTTP 429")
    return response(number, text=None, error=error, cost_usd=0.0)


def record(run: str | None = "run-1", calls: int = 10, **fields: Any) -> Record:
    """The record of a run with so many calls: members, one of which has failed, and a judge."""
    members = [failed(1), *(response(number) for number in range(2, calls))]
    judge = response(99, member="openai/judge#1", model="judge", text="{}")
    iteration = Iteration(number=1, responses=members, judgements=[judge], agreement=0.5)
    iteration.synthesis = Synthesis(text="answer 2", confidence=0.9, arbiter="openai/judge", chosen="openai/m2#1")
    given = {"flow": "consortium", "flow_run_id": run, "prompt": "What?", "answer": "answer 2", "status": "confident"}
    made = Record(
        **(given | {"confidence": 0.9, "agreement": 0.5, "best_iteration": 1} | fields), iterations=[iteration]
    )
    made.add_up()
    return made


def entry(made: Record | None = None, *, after: float = 0, in_: Conversation | None = None, **fields: Any) -> Entry:
    """A run that ended so many seconds after the first one."""
    turn = Turn.after(in_, in_.messages) if in_ else None
    moment = START + timedelta(seconds=after)
    return Entry(made or record(), moment, moment + timedelta(seconds=1), turn=turn, **fields)


def rows(file: Path, query: str) -> list[tuple[Any, ...]]:
    """What a file holds, read by SQLite itself."""
    with sqlite3.connect(file) as connection:
        return connection.execute(query).fetchall()


def written(database: "Database", *entries: Entry) -> list[str]:
    from consensus_flows.tasks.history.writing import save

    return [database.write(lambda connection, one=one: save(connection, one)) for one in entries]


def in_processes(number: int, code: str, url: str) -> None:
    """Run `code` in so many processes at once: it finds its `number`, and `go()` waits until all are there.

    One process imports everything and is then forked, because importing takes longer than all that is tested.
    """
    script = f"""
import os, sys, threading
from tests.kits.history_kit import *
from consensus_flows.tasks.history.database import Database
from consensus_flows.tasks.history.reading import latest, named
from consensus_flows.tasks.history.writing import close_writers, writer_of
gate, opener = os.pipe()
back, ready = os.pipe()
def go():
    os.write(ready, b".")
    os.read(gate, 1)
children = []
for number in range({number}):
    child = os.fork()
    if child == 0:
        try:
{"".join(f"            {line}{os.linesep}" for line in code.strip().splitlines())}
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    children.append(child)
for _ in children:
    os.read(back, 1)
os.write(opener, b"." * {number})
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CONSENSUS_HISTORY_URL": url}
    done = processes.run([sys.executable, "-c", script], cwd=ROOT, env=environment, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
