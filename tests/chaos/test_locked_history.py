"""The history is locked by another process for ten seconds: the run waits for it, and nothing is lost."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from consensus_flows.blocks.pump import PumpConfig
from consensus_flows.flows.pump import pump
from tests.chaos.figures import tell
from tests.kits.kinds import kinds
from tests.vendors import LoopbackVendors

pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures("results"), pytest.mark.timeout(120)]
LOCKED_S = 10.0
HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("COMMIT")
"""


async def test_the_run_waits(vendors: LoopbackVendors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "history.db"
    monkeypatch.setenv("CONSENSUS_HISTORY_URL", f"sqlite:///{file}")
    config = PumpConfig(members=["openai/one", "anthropic/two"])
    await pump("Before", config)
    with subprocess.Popen(  # noqa: ASYNC220  # it begins at once
        [sys.executable, "-c", HOLD, str(file), str(LOCKED_S)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        started = time.monotonic()
        record = await pump("Meanwhile", config)
        waited = time.monotonic() - started
    assert kinds(record) == []
    with sqlite3.connect(file) as connection:
        prompts = [row[0] for row in connection.execute("SELECT prompt FROM runs ORDER BY started_at")]
    assert prompts == ["Before", "Meanwhile"]
    assert LOCKED_S - 2 < waited < LOCKED_S + 5
    tell("history locked by another process", locked_s=LOCKED_S, the_run_took_s=round(waited, 1), runs_lost=0)
