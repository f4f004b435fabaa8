"""An algorithm of an installed package: the command line, batches and the history know it as they know ours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kits.batch_kit import ROOT, environment_of
from tests.vendors import LoopbackVendors, Reply

EXAMPLE = ROOT / "examples" / "own_algorithm"
MEMBERS = ["-m", "openai/one", "-m", "openai/two", "-m", "openai/three", "-m", "openai/four"]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The package, installed as pip installs it, in a folder of its own."""
    target = tmp_path / "site"
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(EXAMPLE)], check=True, timeout=120)
    return target


@pytest.mark.timeout(400)
def test_it_is_listed_asked_saved_batched_and_found(
    installed: Path, tmp_path: Path, prefect_server: None, vendors: LoopbackVendors
) -> None:
    (tmp_path / "home").mkdir(mode=0o700)
    environment = environment_of(tmp_path) | {"PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)])}
    answers = {
        "one": "Paris is the capital of France.",
        "two": "The capital of France is Paris, of course.",
        "three": "The capital of France is Paris.",
        "four": "Rome.",
    }
    for model, text in answers.items():
        vendors.script(model, then=Reply(text=text))

    def consensus(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "consensus_flows.deployments.cli", *arguments],
            cwd=tmp_path,
            env=environment,
            input="",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "Ask many models; return the shortest answer" in consensus("--help")
    # "Rome." is shorter, but nobody supports it.
    best = min(list(answers.values())[:3], key=len)
    assert consensus("shortest", "Capital?", *MEMBERS, "--similar", "0.4", "--raw") == f"{best}\n"
    consensus("save", "short", "--flow", "shortest", *MEMBERS, "--similar", "0.4")
    assert json.loads(consensus("show", "short")) == {"members": MEMBERS[1::2], "similar": 0.4}
    assert "4 calls: member 4" in consensus("check", "short", "--offline")
    assert consensus("Capital?", "--name", "short", "--raw") == f"{best}\n"
    (tmp_path / "rows.txt").write_text("Capital?\nCapital city?\n")
    consensus("batch", "rows.txt", "-o", "out.jsonl", "--flow", "shortest", "--name", "short")
    assert [json.loads(line)["answer"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [best] * 2
    assert "\tshortest\t" in consensus("runs", "--flow", "shortest")
    consensus("remove", "short")
