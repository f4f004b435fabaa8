"""SIGKILL at every point of every flow: what was answered is not paid again, and the answer is that of a quiet run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import pytest
from prefect.settings import PREFECT_API_URL

from consensus_flows.tasks.calls import providers
from tests.chaos.figures import tell
from tests.chaos.kill_points import ARTIFACTS, CONFIGURATIONS, FREE, KEPT, PROMPTS, ROWS, TOLD
from tests.kits.openrouter_server import FREE as NOTHING
from tests.kits.openrouter_server import OpenRouterServer, described
from tests.vendors import ANY, Reply, SeenRequest, json_reply
from tests.vendors.wire import digest

ROOT = Path(__file__).resolve().parent.parent.parent
SEED = 1
LATENCY_S = 0.1
CALLS_OF_A_ROW = {"batch": 8, "batch_records": 6}
"""Two iterations of three members and an arbiter; three members that all judge."""
SEVERAL = {"batch", "batch_records", "check_models"}
"""Flows that work on several questions at once: where one ends, calls of others are under way."""
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


class Ended(NamedTuple):
    code: int
    found: Any
    artifacts: list[str]
    iterations: int
    errors: str


def answer(seen: SeenRequest) -> Reply:
    """Answer by default; a ranking is one that can be read, or the judge would be asked once more."""
    labels = (seen.schema or {}).get("properties", {}).get("ranks", {}).get("required")
    if labels is None:
        return Reply()
    ranks = {label: rank for rank, label in enumerate(sorted(labels), 1)}
    return json_reply({"analysis": f"{seen.model} has read {digest(seen.prompt)}", "can_rank": True, "ranks": ranks})


class Runner:
    """Runs flows in processes of their own, each with a home, a history and a result folder of its own."""

    def __init__(self, vendors: OpenRouterServer) -> None:
        self._vendors = vendors
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_LOGGING_LEVEL": "ERROR"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.kill_points"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, flow: str, folder: Path, point: str = "none", nth: int = 1) -> Ended:
        """Run a flow, to its end or until it is killed."""
        victim: list[int] = []

        def arrived(seen: SeenRequest) -> Reply:
            if self._vendors.count() == nth:
                os.kill(victim[0], signal.SIGKILL)
            return answer(seen)

        self._vendors.script(ANY, then=arrived if point == "request_sent" else answer)
        names = [name for name in os.environ if name.endswith(("_API_KEY", "_BASE_URL"))]
        job = {
            "flow": flow,
            "folder": str(folder),
            "point": point,
            "nth": nth,
            "api": PREFECT_API_URL.value(),
            "environment": {name: os.environ[name] for name in names}
            | {"CONSENSUS_HISTORY_URL": f"sqlite:///{folder}/history.db"},
        }
        to, back = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        to.write(json.dumps(job) + "\n")
        to.flush()
        victim.append(int(back.readline()))
        code = int(back.readline())
        self._wait_until_quiet()
        found = json.loads((folder / "found.json").read_text()) if code == 0 else {}
        return Ended(
            code,
            found.get("found"),
            found.get("artifacts", []),
            found.get("iterations", 0),
            (folder / "errors").read_text()[-2000:],
        )

    def _wait_until_quiet(self) -> None:
        """Until the vendors know that a process that was killed is gone, and have read what it had sent."""
        time.sleep(0.05)
        deadline = time.monotonic() + 10
        while self._vendors.in_flight and time.monotonic() < deadline:
            time.sleep(0.01)
        assert self._vendors.in_flight == 0

    def close(self) -> None:
        cast("IO[str]", self._process.stdin).close()
        assert self._process.wait(timeout=30) == 0


@pytest.fixture
def paid(vendors: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenRouterServer]:
    """Vendors that take their time, so that a request can be caught on its way; OpenRouter's account among them."""
    with OpenRouterServer() as server:
        server.delay = LATENCY_S
        server.listed = [described(name, NOTHING) for name in FREE]
        for name, url in {
            "OPENAI_BASE_URL": server.openai_url,
            "ANTHROPIC_BASE_URL": server.anthropic_url,
            "GOOGLE_GEMINI_BASE_URL": server.google_url,
            "OPENROUTER_BASE_URL": server.openrouter_url,
        }.items():
            monkeypatch.setenv(name, url)
        providers._saved.clear()
        yield server


@pytest.fixture
def runner(results: str, paid: OpenRouterServer) -> Iterator[Runner]:
    made = Runner(paid)
    yield made
    made.close()


def stored(flow: str, folder: Path) -> list[str]:
    """The texts of the answers that are kept."""
    if flow in KEPT:
        trials = folder / "models" / "tried_models.json"
        found = json.loads(trials.read_text())["trials"] if trials.exists() else []
        return [f"{trial['model']} {trial['endpoint']}" for trial in found]
    results = folder / "results"
    texts = []
    for path in results.rglob("answer-*") if results.is_dir() else ():
        try:
            texts.append(json.loads(json.loads(path.read_text())["result"])["data"]["text"])
        except ValueError:  # killed while it was written: it is no answer
            continue
    return texts


def points_of(flow: str, quiet: Ended, clean: int) -> list[tuple[str, int]]:
    """The points that a flow has, and how often each is passed before the kill: at random where it may be any."""
    chance = random.Random(f"{SEED}:{flow}")
    calls = ("request_sent", "answer_read", "result_committed")
    points = [(name, chance.randint(1, clean)) for name in calls]
    if quiet.iterations:
        points += [("iteration_ended", nth) for nth in sorted({1, quiet.iterations})]
    for key in ARTIFACTS[flow]:
        points += [(f"artifact_written:{key}", nth) for nth in sorted({1, quiet.artifacts.count(key)})]
    points.append(("artifact_written", len(quiet.artifacts)))
    if flow.startswith("batch"):
        points += [
            ("row_written", chance.randint(1, ROWS if flow == "batch" else PROMPTS)),
            ("journal_finished", 1),
            ("output_complete", 1),
            ("output_renamed", 1),
            ("journal_removed", 1),
        ]
    return points


@pytest.mark.parametrize("flow", CONFIGURATIONS)
def test_nothing_that_was_committed_is_paid_again(
    flow: str, runner: Runner, paid: OpenRouterServer, tmp_path: Path
) -> None:
    quiet = runner.run(flow, tmp_path / "quiet")
    assert quiet.found is not None, quiet.errors
    clean = paid.count()
    assert len(stored(flow, tmp_path / "quiet")) == clean, "every answer of a quiet run is kept"
    for number, (point, nth) in enumerate(points_of(flow, quiet, clean)):
        folder = tmp_path / f"{number}"
        paid.reset()
        victim = runner.run(flow, folder, point, nth)
        case = f"{flow} killed at {point} {nth}"
        assert victim.code == -signal.SIGKILL, (case, victim)
        before, kept = paid.count(), stored(flow, folder)
        told = [json.loads(line) for line in (folder / TOLD).read_text().splitlines()]
        survivor = runner.run(flow, folder)
        tell(
            case,
            seed=SEED,
            requests_of_a_quiet_run=clean,
            requests_before=before,
            answers_told_of=len(told),
            stored=len(kept),
            requests_of_both=paid.count(),
            paid_twice=paid.count() - clean,
        )
        assert survivor.found == quiet.found, (case, survivor)
        assert set(told) <= set(kept), f"{case}: what the flow was told of is stored"
        assert len(kept) >= len(told), case
        lost = before - len(kept)
        assert paid.count() == clean + lost, f"{case}: {lost} were under way"
        assert lost <= before - len(told), f"{case}: what is lost was under way"
        check(flow, point, nth, before, len(kept))


def check(flow: str, point: str, nth: int, before: int, kept: int) -> None:
    """Check that the kill was where it should be, and what holds at this point."""
    case = (flow, point, nth, before, kept)
    match point:
        case "request_sent" | "answer_read":
            assert before >= nth and before - kept >= 1, case
        case "result_committed":
            assert kept >= nth, case
        case "iteration_ended":
            assert kept >= nth and (flow in SEVERAL or kept == before), case
        case "row_written":
            assert kept >= nth * CALLS_OF_A_ROW[flow], case
        case _:
            assert kept >= 1, case
    if point.startswith(("journal", "output")) or point == "artifact_written":
        assert before == kept, f"{case}: all calls had ended"
