"""A process that is killed in the middle of a run has lost nothing that was paid for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from consensus_flows.tasks.record import Record
from tests.kits import processes
from tests.kits.consortium_kit import judged
from tests.vendors import Reply, faults

ROOT = Path(__file__).parent.parent.parent
RUN = """
from consensus_flows import ask
from tests.kits.consortium_kit import config
print(ask("What?", config()).model_dump_json())
"""


@pytest.fixture
def environment(results, vendors, tmp_path):
    """A home of its own; the vendors' addresses are in the environment already."""
    return os.environ | {
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(tmp_path / "results"),
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "PYTHONPATH": str(ROOT),
    }


def start(environment):
    return processes.start(
        [sys.executable, "-c", RUN], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def stored(environment):
    """The answers in the result folder that are whole, and not still under the name they are written to."""
    folder = Path(environment["PREFECT_RESULTS_LOCAL_STORAGE_PATH"])
    return [path for path in folder.rglob("answer-*") if path.suffix != ".part"] if folder.is_dir() else []


def test_after_a_kill_only_what_is_missing_is_asked(environment, vendors):
    vendors.script("one", then=Reply(text="one"))
    vendors.script("two", faults.hang(), then=Reply(text="two"))
    vendors.script("three", then=Reply(text="three"))
    vendors.script("arbiter", then=judged(90))

    victim = start(environment)
    deadline = time.monotonic() + 60
    while len(stored(environment)) < 2 or vendors.count("two") < 1:
        assert victim.poll() is None, victim.stderr.read().decode()
        assert time.monotonic() < deadline, "two of three did not answer"
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL
    assert {model: vendors.count(model) for model in ("one", "two", "three", "arbiter")} == {
        "one": 1,
        "two": 1,
        "three": 1,
        "arbiter": 0,
    }

    survivor = start(environment)
    out, err = survivor.communicate(timeout=60)
    assert survivor.returncode == 0, err.decode()
    assert {model: vendors.count(model) for model in ("one", "two", "three", "arbiter")} == {
        "one": 1,
        "two": 2,
        "three": 1,
        "arbiter": 1,
    }
    record = Record.model_validate_json(out)
    assert (record.answer, record.cached_calls, record.calls) == ("the synthesis", 2, 4)
    assert [response.cached for response in record.iterations[0].responses] == [True, False, True]
