"""Every script in examples/, run as a user runs it: with the local model, and without any key."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.calls.test_local_model import needs_model
from tests.kits.batch_kit import ROOT, environment_of

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


@needs_model
@pytest.mark.timeout(600)
@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_an_example_runs(script: Path, prefect_server: None, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o700)
    done = subprocess.run(
        [sys.executable, script.relative_to(ROOT)],
        cwd=ROOT,
        env=environment_of(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and "Traceback" not in done.stderr
