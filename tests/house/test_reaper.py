"""Tests that are killed leave no process and no folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kits import processes, reaper

TESTS = """
import subprocess, sys, time
from tests.kits import reaper
reaper.watch(sys.argv[1])
child = "import time; print(flush=True); time.sleep(600)"
session = f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], start_new_session=True)"
subprocess.Popen([sys.executable, "-c", session], start_new_session=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the reaper needs Linux")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_they_started_ends_and_their_folder_is_removed(number: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "tests"
    folder.mkdir()
    tests = processes.start_new([sys.executable, "-c", TESTS, folder], stdout=subprocess.PIPE)
    try:
        tests.stdout.readline()  # type: ignore[union-attr]
        assert len(list(reaper.marked(str(folder)))) == 3, "the reaper, what the tests have started, and what that has"
        os.kill(tests.pid, number)
        deadline = time.monotonic() + 20
        while folder.exists() or list(reaper.marked(str(folder))):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        reaper.kill(str(folder))
