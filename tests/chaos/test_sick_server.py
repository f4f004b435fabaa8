"""A Prefect server that answers but fails: at the end of a run, at its beginning, and because its disk is full."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.figures import tell
from tests.chaos.own_server import CALLS_OF_A_ROW, PANEL, Server, start_batch, wait_for_rows
from tests.kits.sick_proxy import ends_run, sick_proxy
from tests.vendors import LoopbackVendors

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
ROWS = 12
PATIENCE_S = 90
MEGABYTE = 1 << 20


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


@pytest.mark.parametrize("status", [500, 503])
def test_a_question_whose_end_the_server_does_not_take(
    status: int, server: Server, vendors: LoopbackVendors, tmp_path: Path
) -> None:
    with sick_proxy(server.port, ends_run(status)) as url:
        server.use(url)
        started = time.monotonic()
        run = server.consensus("vote", "How many?", *PANEL, "--raw", "-o", tmp_path / "out.json")
        assert run.stdout is not None
        printed = run.stdout.readline()
        answered = time.monotonic() - started
        _, err = run.communicate(timeout=300)
        ended = time.monotonic() - started
    tell(
        f"server answers {status} to the end of a question",
        answered_after_s=round(answered, 1),
        ended_after_s=round(ended, 1),
        requests=vendors.count(),
    )
    assert run.returncode == 0, err
    assert "did not record the end of the run" in err and "Traceback" not in err
    assert json.loads((tmp_path / "out.json").read_text())["answer"] == printed.strip()
    assert vendors.count() == 2 and ended - answered < PATIENCE_S + 10


@pytest.mark.parametrize("status", [500, 503])
def test_a_batch_whose_end_the_server_does_not_take(
    status: int, server: Server, vendors: LoopbackVendors, tmp_path: Path
) -> None:
    with sick_proxy(server.port, ends_run(status)) as url:
        server.use(url)
        run = start_batch(server, tmp_path, ROWS)
        out, err = run.communicate(timeout=400)
    assert run.returncode == 0, err
    summary = json.loads(out)
    tell(f"server answers {status} to the end of a batch", rows=ROWS, requests=vendors.count())
    assert (summary["done"], summary["sent_calls"]) == (ROWS, CALLS_OF_A_ROW * ROWS)
    assert "did not record the end of the run" in err and "Traceback" not in err
    assert len(lines_of(tmp_path / "answers.jsonl")) == ROWS and not (tmp_path / "answers.jsonl.partial").exists()


@pytest.mark.parametrize("status", [500, 503])
def test_a_run_that_the_server_does_not_take_is_one_sentence_and_costs_nothing(
    status: int, server: Server, vendors: LoopbackVendors, tmp_path: Path
) -> None:
    def sick(method: str, path: str, body: bytes) -> int | None:
        return status if method == "POST" and path == "/api/flow_runs/" else None

    with sick_proxy(server.port, sick) as url:
        server.use(url)
        server.set(PREFECT_CLIENT_MAX_RETRIES="2")
        run = server.consensus("vote", "How many?", *PANEL, "-o", tmp_path / "out.json")
        out, err = run.communicate(timeout=300)
    assert run.returncode == 1 and not out and vendors.count() == 0
    assert f"the Prefect server failed: HTTP {status} to POST" in err and "Traceback" not in err
    assert ("is busy: waiting for it" in err) == (status == 503)


def test_a_busy_server_is_waited_for(server: Server, vendors: LoopbackVendors, tmp_path: Path) -> None:
    refused: list[str] = []

    def sick(method: str, path: str, body: bytes) -> int | None:
        if method == "POST" and path == "/api/flow_runs/" and len(refused) < 3:
            refused.append(path)
            return 503
        return None

    with sick_proxy(server.port, sick) as url:
        server.use(url)
        run = server.consensus("vote", "How many?", *PANEL, "--raw")
        out, err = run.communicate(timeout=300)
    assert run.returncode == 0 and out and len(refused) == 3, err
    assert "is busy: waiting for it" in err and vendors.count() == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(folder: Path) -> None:
    """Leave no byte free."""
    with (folder / "full").open("wb", buffering=0) as file:
        for size in (MEGABYTE, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def test_a_disk_that_fills_up_under_the_server(small_disk: Path, vendors: LoopbackVendors, tmp_path: Path) -> None:
    """The answers are stored elsewhere; the server's database, and the history beside it, cannot grow any more."""
    vendors.delay = 0.3
    rows = 60
    server = Server(small_disk, results=tmp_path / "results")
    server.start()
    try:
        run = start_batch(server, tmp_path, rows)
        wait_for_rows(run, tmp_path, 10)
        fill(small_disk)
        filled = time.monotonic()
        out, err = run.communicate(timeout=500)
        ended = time.monotonic() - filled
        assert run.returncode == 0 and "Traceback" not in err, err
        summary = json.loads(out)
        tell("PREFECT_HOME fills up under a batch", rows=rows, requests=vendors.count(), ended_after_s=round(ended, 1))
        assert (summary["done"], summary["sent_calls"], vendors.count()) == (rows, 2 * rows, 2 * rows)
        assert len(lines_of(tmp_path / "answers.jsonl")) == rows and not (tmp_path / "answers.jsonl.partial").exists()

        again = server.consensus("vote", "How many?", *PANEL, "--raw")
        out, err = again.communicate(timeout=500)
        assert "Traceback" not in err and vendors.count() <= 2 * rows + 2
        assert out or (again.returncode == 1 and "the Prefect server failed" in err), err

        keys = server.consensus("keys", "set", "mine", "--base-url", vendors.openai_url, stdin="sk-test-mine\n")
        out, err = keys.communicate(timeout=500)
        assert keys.returncode == 1 and "the Prefect server failed" in err and "Traceback" not in err
        assert "ENCRYPTION_KEY" not in err
    finally:
        server.close()
