"""The Prefect server is killed in the middle of a batch: for a while, for good, and past what a person waits for."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.chaos.figures import tell
from tests.chaos.own_server import CALLS_OF_A_ROW, Server, rows_done, start_batch, wait_for_rows
from tests.vendors import LoopbackVendors

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
LATENCY_S = 0.5
AT_ONCE = 2


@pytest.mark.parametrize("seconds", [8, 75, 150])
def test_a_server_that_comes_back(seconds: int, server: Server, vendors: LoopbackVendors, tmp_path: Path) -> None:
    vendors.delay = LATENCY_S
    rows = round((seconds + 15) / LATENCY_S * AT_ONCE)
    run = start_batch(server, tmp_path, rows)
    wait_for_rows(run, tmp_path, 10)
    server.kill()
    killed, before = time.monotonic(), vendors.count()
    time.sleep(seconds)
    during = vendors.count() - before
    server.start()
    out, err = run.communicate(timeout=600)
    assert run.returncode == 0, err[-2000:]
    summary = json.loads(out)
    tell(
        f"server away for {seconds} s",
        rows=rows,
        answered_meanwhile=during,
        requests=vendors.count(),
        duration_s=summary["duration_s"],
        ended_after_s=round(time.monotonic() - killed, 1),
    )
    assert (summary["done"], summary["failed"], vendors.count()) == (rows, 0, CALLS_OF_A_ROW * rows)
    assert during > 0, "the work goes on while the server is away"


def test_a_server_that_does_not_come_back(server: Server, vendors: LoopbackVendors, tmp_path: Path) -> None:
    vendors.delay = LATENCY_S
    rows = 40
    run = start_batch(server, tmp_path, rows)
    wait_for_rows(run, tmp_path, 10)
    server.kill()
    killed = time.monotonic()
    out, err = run.communicate(timeout=600)
    ended = round(time.monotonic() - killed, 1)
    assert run.returncode == 0 and "the Prefect server is away" in err and "start the server again" in err
    assert json.loads(out)["done"] == rows
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert len(lines) == rows and vendors.count() == 2 * rows
    server.start()
    again = start_batch(server, tmp_path, rows)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert json.loads(out)["cached_calls"] == 2 * rows and vendors.count() == 2 * rows
    tell("server away for good", rows=rows, ended_after_s=ended, requests_of_both_runs=vendors.count())


@pytest.mark.parametrize(("seconds", "back"), [(100, True), (5, False)])
def test_a_command_that_is_killed_while_the_server_is_away(
    seconds: int, back: bool, server: Server, vendors: LoopbackVendors, tmp_path: Path
) -> None:
    """Past a minute and a half rows are still worked on; started again it says what to do, and then goes on.

    Args:
        seconds: How long the server is away when the command is killed.
        back: Whether the server comes back; else there is a new one, which knows nothing of the run.
    """
    vendors.delay = LATENCY_S
    rows = round((seconds + 30) / LATENCY_S * AT_ONCE)
    run = start_batch(server, tmp_path, rows)
    wait_for_rows(run, tmp_path, 10)
    server.kill()
    done, before = rows_done(tmp_path), vendors.count()
    time.sleep(seconds)
    during, meanwhile = vendors.count() - before, rows_done(tmp_path) - done
    assert during > 0 and meanwhile > 0, "the work goes on while the server is away"
    assert run.poll() is None and rows_done(tmp_path) < rows, "rows are outstanding"
    run.kill()
    run.communicate()
    time.sleep(2 * LATENCY_S)  # what was sent has ended, or its client is gone
    sent, kept = vendors.count(), rows_done(tmp_path)

    refused = start_batch(server, tmp_path, rows)
    out, err = refused.communicate(timeout=300)
    assert refused.returncode != 0 and not out, "without a server nothing is begun"
    assert "No Prefect server answers" in err and "Start that server" in err, err[-2000:]
    assert (vendors.count(), rows_done(tmp_path)) == (sent, kept), "and nothing is paid for"

    vendors.delay = 0.01
    again_on = server
    if back:
        server.start()
    else:
        again_on = Server(tmp_path / "other", results=server.results)
        again_on.start()
    try:
        again = start_batch(again_on, tmp_path, rows)
        out, err = again.communicate(timeout=300)
    finally:
        again_on.close()
    assert again.returncode == 0, err[-2000:]
    summary = json.loads(out)
    twice = vendors.count() - CALLS_OF_A_ROW * rows
    tell(
        f"command killed while the server is away for {seconds} s, {'the same' if back else 'a new'} server afterwards",
        rows=rows,
        rows_done_meanwhile=meanwhile,
        resumed=summary["resumed"],
        requests_of_both_runs=vendors.count(),
        paid_twice=twice,
    )
    assert (summary["rows"], summary["done"], summary["failed"]) == (rows, rows, 0)
    assert summary["resumed"] == kept > done
    asked = [(seen.model, seen.prompt) for seen in vendors.seen if seen.kind == "chat"]
    under_way = {call for call in asked[:sent] if asked.count(call) > 1}
    assert 0 <= twice == len(under_way) <= AT_ONCE * CALLS_OF_A_ROW
    assert under_way <= set(asked[sent - AT_ONCE * CALLS_OF_A_ROW : sent]), "only what was under way is sent again"
