"""Runs flows in processes of their own and kills one at a named point: `python -m tests.chaos.kill_points`.

Everything is imported once; each job, a line of JSON on standard input, is run by a fork. It is killed by SIGKILL, so that
nothing of it can tidy up. With the point `none` it runs to its end. Two lines come back: the process, and how it ended.
"""

import asyncio
import json
import os
import signal
import sys
import threading
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

PANEL = ["openai/one", "anthropic/two", "google/three"]
FREE = [f"free/{name}:free" for name in ("a", "b", "c")]
JUDGE = "openai/judge"
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "consortium": {"members": PANEL, "arbiter": JUDGE, "min_iterations": 2, "max_iterations": 2},
    "consensus-learning": {"members": PANEL, "aggregator": JUDGE, "iterations": 1},
    "mixture-of-agents": {
        "layers": [{"members": PANEL}, {"members": PANEL[:2]}],
        "aggregator": JUDGE,
    },
    "vote": {"members": PANEL, "pairwise_judge": JUDGE},
    "pump": {"members": PANEL},
    "swarm": {"members": PANEL, "orchestrator": JUDGE},
    "prefer": {"members": PANEL, "rounds": 2},
    "completion": {"members": [f"openrouter/{name}" for name in FREE]},
    "batch_records": {"members": PANEL, "rounds": 1},
    "check_models": {"members": PANEL, "cases": [{"prompt": f"What is {n}?"} for n in range(3)]},
    "openrouter_working_models": {"models": FREE, "interval": 0.05},
    "batch": {"members": PANEL, "arbiter": JUDGE, "min_iterations": 2, "max_iterations": 2},
}
ARTIFACTS: dict[str, tuple[str, ...]] = {
    "consortium": ("consortium-iteration",),
    "consensus-learning": ("consensus-learning-round",),
    "mixture-of-agents": ("mixture-of-agents-layer",),
    "vote": ("vote-result",),
    "pump": ("pump-answers",),
    "prefer": ("prefer-round", "prefer-summary"),
    "completion": ("pump-answers",),
    "batch_records": ("batch-summary",),
    "check_models": ("check-models",),
    "openrouter_working_models": ("openrouter-working-models-trials",),
    "batch": ("batch-summary",),
    "swarm": ("swarm-iteration",),
}
"""What each flow shows of an iteration, where it has some, and of its result."""
ENDS = {"check_models": "row"}
"""Events that tell of a part that is done, where it is no iteration."""
KEPT = {"openrouter_working_models": "tried"}
"""Events that tell of an answer that is kept, where it is not in the result store: trials have a file of their own."""
ROWS = 12
PROMPTS = 2
OUTPUT = "answers.jsonl"
TOLD = "told.jsonl"
"""File of the answers that the flow was told of before it was killed: from then on each is stored."""


class Watch:
    """Writes down which answers the flow has, counts how often a point is passed, and kills at the one that is wanted."""

    def __init__(self, flow: str, point: str, nth: int, folder: Path) -> None:
        self.artifacts: list[str] = []
        self.iterations = 0
        self._kept, self._ends = KEPT.get(flow, "answered"), ENDS.get(flow, "iterated")
        self._event = {"result_committed": self._kept, "iteration_ended": self._ends}.get(point)
        self._left = nth
        # Written by the system at once, so that a killed process leaves it.
        self._told = os.open(folder / TOLD, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def passed(self) -> None:
        """The point is passed."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    async def on_event(self, event: str, value: Any) -> None:
        """Take note of the end of a call or of an iteration."""
        self.iterations += event == self._ends
        if event == self._kept and value.error is None:
            text = f"{value.model} {value.endpoint}" if event == "tried" else value.text
            os.write(self._told, (json.dumps(text) + "\n").encode())
        if event == self._event:
            self.passed()


def install(point: str, watch: Watch) -> None:
    """Put the killer where the point is; `request_sent` is the vendor's, who alone knows what has come."""
    name, _, key = point.partition(":")
    if name == "answer_read":
        from consensus_flows.tasks.calls import attempt

        exchange = attempt._exchange

        async def watched(*arguments: Any) -> Any:
            reply = await exchange(*arguments)
            watch.passed()
            return reply

        attempt._exchange = watched
    from prefect.artifacts import Artifact

    create = Artifact.acreate

    async def created(self: Any, *arguments: Any, **options: Any) -> Any:
        made = await create(self, *arguments, **options)
        watch.artifacts.append(self.key)
        if name == "artifact_written" and key in {"", self.key}:
            watch.passed()
        return made

    Artifact.acreate = created  # type: ignore[method-assign]
    if name in {"row_written", "journal_finished", "journal_removed"}:
        from consensus_flows.tasks.batches.journal import Journal

        method = {"row_written": "add", "journal_finished": "sync", "journal_removed": "remove"}[name]
        do = getattr(Journal, method)

        def done(self: Any, *arguments: Any) -> None:
            do(self, *arguments)
            watch.passed()

        setattr(Journal, method, done)
    if name in {"output_complete", "output_renamed"}:
        replace = os.replace

        def replaced(source: Any, target: Any, **options: Any) -> None:
            if Path(target).name != OUTPUT:
                replace(source, target, **options)
                return
            if name == "output_renamed":
                replace(source, target, **options)
            watch.passed()

        os.replace = replaced


def flow_of(name: str) -> Any:
    """The flow of a name."""
    flow = name.replace("-", "_")
    flow = "batch" if flow == "batch_records" else flow
    module = "openrouter_models" if flow == "openrouter_working_models" else flow
    return getattr(import_module(f"consensus_flows.flows.{module}"), flow)


async def run(name: str, folder: Path) -> Any:
    """Run a flow, and return what must be the same after a kill."""
    flow, settings = flow_of(name), CONFIGURATIONS[name]
    if name == "batch":
        source = folder / "rows.jsonl"
        source.write_text("".join(json.dumps({"id": f"r{n}", "prompt": f"What is {n}?"}) + "\n" for n in range(ROWS)))
        output = folder / OUTPUT
        summary = await flow(str(source), str(output), flow="consortium", config=settings, concurrency=3)
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        return [summary.status, summary.done, [[row["id"], row["answer"], row["status"]] for row in rows]]
    if name == "batch_records":
        prompts, records = folder / "prompts", folder / "records"
        prompts.mkdir(exist_ok=True)
        for number in range(PROMPTS):
            (prompts / f"{number}.md").write_text(f"What is {number}?")
        await flow(str(prompts), str(records / OUTPUT), flow="prefer", config=settings, records=str(records))
        return [results_of(records / f"{number}.json") for number in range(PROMPTS)]
    if name == "openrouter_working_models":
        found = await flow(settings | {"output_dir": str(folder / "models")})
        trials = sorted([trial.model, trial.endpoint, trial.works] for trial in found.trials)
        return [found.chat_completions, found.completions, trials]
    if name == "check_models":
        report = await flow(settings)
        return [[call.text for call in calls] for calls in report.responses]
    record = await flow("What?", settings)
    return [record.answer, record.status]


def results_of(file: Path) -> list[Any]:
    """What a record says, but for times and what was paid."""
    record = json.loads(file.read_text())
    return [record["answer"], record["status"], record["scores"]]


def work(job: dict[str, Any]) -> int:
    """Run one job in this process."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_RESULTS_LOCAL_STORAGE_PATH, temporary_settings

    from consensus_flows.tasks.watch import watched_by

    folder = Path(job["folder"])
    folder.mkdir(exist_ok=True)
    os.environ.update(job["environment"])
    for stream in (1, 2):
        os.dup2(os.open(folder / "errors", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), stream)
    watch = Watch(job["flow"], job["point"], job["nth"], folder)
    settings = {
        PREFECT_API_URL: job["api"],
        PREFECT_HOME: folder / "home",
        PREFECT_RESULTS_LOCAL_STORAGE_PATH: folder / "results",
    }
    with temporary_settings(settings), watched_by(watch):
        install(job["point"], watch)
        found = asyncio.run(run(job["flow"], folder))
    passed = {"artifacts": watch.artifacts, "iterations": watch.iterations}
    (folder / "found.json").write_text(json.dumps({"found": found} | passed))
    return 0


def main() -> None:
    """Import what the flows need, and fork for each job."""
    for name in CONFIGURATIONS:
        flow_of(name)
    from consensus_flows.tasks.calls.vendors.vendor import all_vendors

    for vendor in all_vendors().values():
        vendor.load()
    assert threading.active_count() == 1, threading.enumerate()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = work(json.loads(line))
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
