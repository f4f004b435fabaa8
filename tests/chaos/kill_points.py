"""Runs one flow and kills itself at a named point: `python -m tests.chaos.kill_points FLOW POINT NTH FOLDER`.

The process is killed by SIGKILL, so that nothing of it can tidy up. With the point `none` it runs to its end and prints
the answer and the status as JSON.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

PANEL = ["openai/one", "anthropic/two", "google/three"]
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "consortium": {"members": PANEL, "arbiter": "openai/judge", "min_iterations": 2, "max_iterations": 2},
    "learn": {"members": PANEL, "aggregator": "openai/judge", "iterations": 1},
    "moa": {
        "layers": [{"members": PANEL}, {"members": PANEL[:2]}],
        "aggregator": "openai/judge",
    },
    "vote": {"members": PANEL, "pairwise_judge": "openai/judge"},
    "pump": {"members": PANEL},
    "prefer": {"members": PANEL, "rounds": 1},
}
POINTS = ("request_sent", "answer_read", "result_committed", "iteration_ended", "artifact_written", "row_written")
ROWS = 12
SENT_S = 0.03
"""Seconds after which a request is taken for sent; the vendor answers later than that."""


def points_of(flow: str) -> tuple[str, ...]:
    """The points that a flow has: only a batch writes rows, and its rows have no artifacts of their iterations."""
    return POINTS if flow == "batch" else POINTS[:-1]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Killer:
    """Counts how often a point is passed, and kills at the one that is wanted."""

    def __init__(self, nth: int) -> None:
        self._left = nth

    def passed(self) -> None:
        self._left -= 1
        if self._left == 0:
            kill()

    async def told(self, event: str, value: Any) -> None:
        """Watch for the end of an iteration, or of a call: its result is committed by then."""


class OnEvent(Killer):
    def __init__(self, nth: int, event: str) -> None:
        super().__init__(nth)
        self._event = event

    async def told(self, event: str, value: Any) -> None:
        if event == self._event:
            self.passed()


def install(point: str, nth: int) -> Killer:
    """Put the killer where the point is."""
    killer = Killer(nth)
    if point == "result_committed":
        return OnEvent(nth, "answered")
    if point == "iteration_ended":
        return OnEvent(nth, "iterated")
    if point in {"request_sent", "answer_read"}:
        from tasks.calls import attempt

        exchange = attempt._exchange

        async def watched(*arguments: Any) -> Any:
            if point == "request_sent":
                asyncio.get_running_loop().call_later(SENT_S, killer.passed)
                return await exchange(*arguments)
            reply = await exchange(*arguments)
            killer.passed()
            return reply

        attempt._exchange = watched
    elif point == "artifact_written":
        from prefect.artifacts import Artifact

        create = Artifact.acreate

        async def created(self: Any, *arguments: Any, **options: Any) -> Any:
            made = await create(self, *arguments, **options)
            killer.passed()
            return made

        Artifact.acreate = created  # type: ignore[method-assign]
    elif point == "row_written":
        from tasks.batches.journal import Journal

        add = Journal.add

        def added(self: Any, *arguments: Any) -> None:
            add(self, *arguments)
            killer.passed()

        Journal.add = added  # type: ignore[method-assign]
    return killer


def flow_of(name: str) -> Any:
    from importlib import import_module

    modules = {"learn": "consensus_learning", "moa": "mixture_of_agents"}
    module = modules.get(name, name)
    return getattr(import_module(f"flows.{module}"), module)


async def run(name: str, folder: Path) -> dict[str, Any]:
    if name == "batch":
        source = folder / "rows.jsonl"
        source.write_text("".join(json.dumps({"id": f"r{n}", "prompt": f"What is {n}?"}) + "\n" for n in range(ROWS)))
        output = folder / "answers.jsonl"
        summary = await flow_of(name)(
            str(source), str(output), flow="consortium", config=CONFIGURATIONS["consortium"], concurrency=3
        )
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        return {"answer": [[row["id"], row["answer"], row["status"]] for row in rows], "status": summary.status}
    config = flow_of(name).fn.__annotations__["config"].__args__[0].model_validate(CONFIGURATIONS[name])
    record = await flow_of(name)("What?", config)
    return {"answer": record.answer, "status": record.status}


def main() -> None:
    from tasks.watch import watched_by

    name, point, nth, folder = sys.argv[1:]
    with watched_by(install(point, int(nth))):
        print(json.dumps(asyncio.run(run(name, Path(folder)))))


if __name__ == "__main__":
    main()
