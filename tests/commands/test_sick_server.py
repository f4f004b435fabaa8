"""A Prefect server that answers, but fails: what is paid for is printed all the same, and what is not said is one sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from prefect.settings import PREFECT_API_URL, PREFECT_HOME

from consensus_flows.deployments.terminal import Exit
from tests.kits import processes
from tests.kits.sick_proxy import Sick, ends_run, sick_proxy
from tests.vendors import LoopbackVendors, Reply

ROOT = Path(__file__).parent.parent.parent
PANEL = ["-m", "openai/a", "-m", "anthropic/b"]


def run(sick: Sick, *arguments: object, results: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    """Run a command against the tests' server, behind a proxy that fails some requests."""
    port = urlsplit(PREFECT_API_URL.value() or "").port
    assert port is not None
    with sick_proxy(port, sick) as url:
        own = {
            "PREFECT_API_URL": url,
            "PREFECT_HOME": str(PREFECT_HOME.value()),
            "PREFECT_RESULTS_LOCAL_STORAGE_PATH": results,
            "PREFECT_CLIENT_MAX_RETRIES": "1",
        }
        return processes.run(
            [sys.executable, "-m", "consensus_flows.deployments.cli", *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | own,
            input=stdin,
            text=True,
            timeout=110,
        )


def test_the_answer_is_printed_and_written_before_the_end_fails(
    results: str, vendors: LoopbackVendors, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    done = run(ends_run(500), "vote", "Sick?", *PANEL, "--raw", "-o", out, results=results)
    assert done.returncode == 0 and json.loads(out.read_text())["answer"] == done.stdout.strip()
    (said,) = done.stderr.splitlines()
    assert "did not record the end of the run (HTTP 500" in said
    assert vendors.count() == 2


def test_a_run_that_is_not_taken_is_one_sentence_and_costs_nothing(results: str, vendors: LoopbackVendors) -> None:
    done = run(
        lambda method, path, body: 500 if path == "/api/flow_runs/" else None, "vote", "Q?", *PANEL, results=results
    )
    assert (done.returncode, done.stdout, vendors.count()) == (Exit.NO_ANSWER, "", 0)
    (said,) = done.stderr.splitlines()
    assert said.startswith("consensus: the Prefect server failed: HTTP 500 to POST") and "disk may be full" in said


def test_a_key_that_cannot_be_saved_is_not_a_matter_of_encryption(results: str, vendors: LoopbackVendors) -> None:
    def sick(method: str, path: str, body: bytes) -> int | None:
        return 500 if method in {"POST", "PATCH"} and path.startswith("/api/block_") and "filter" not in path else None

    arguments = ["keys", "set", "mine", "--base-url", vendors.openai_url]
    done = run(sick, *arguments, results=results, stdin="sk-test-mine\n")
    assert done.returncode == Exit.NO_ANSWER and "ENCRYPTION_KEY" not in done.stderr
    (said,) = done.stderr.splitlines()
    assert said.startswith("consensus: the Prefect server failed: HTTP 500 to ") and "sk-test" not in said


def test_earlier_turns_of_a_chat_are_printed_where_the_next_one_cannot_begin(
    results: str, vendors: LoopbackVendors, tmp_path: Path
) -> None:
    vendors.script("x/one", then=Reply(text="the first answer"))
    begun: list[str] = []

    def sick(method: str, path: str, body: bytes) -> int | None:
        if path == "/api/flow_runs/":
            begun.append(path)
        return 500 if path == "/api/flow_runs/" and len(begun) > 1 else None

    out = tmp_path / "out.json"
    done = run(
        sick,
        "openrouter",
        "chat",
        "--prompt",
        "Why?",
        "--model",
        "x/one",
        "--mode",
        "improve",
        "--turns",
        "2",
        "--raw",
        "-o",
        out,
        results=results,
    )
    assert (done.returncode, done.stdout.strip()) == (Exit.NO_ANSWER, "the first answer"), done.stderr
    assert "the first answer" in out.read_text()
