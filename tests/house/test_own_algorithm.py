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

RUN = """
import contextlib, io, json, sys
from consensus_flows.deployments.cli import main
for line in sys.stdin.readlines():
    sys.argv = ["consensus", *json.loads(line)]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    print(json.dumps([code, shown.getvalue()]))
"""


DEPLOYED = """
from prefect.flows import load_flow_from_entrypoint
from consensus_flows.deployments.commands.operations import up
*_, last = up._deployments()
print(last["name"], load_flow_from_entrypoint(last["entrypoint"], use_placeholder_flow=False).name, *last["tags"])
"""


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

    rows = tmp_path / "rows.txt"
    rows.write_text("Capital?\nCapital city?\n")
    # One process, in which each command runs as it would in a process of its own.
    commands = [
        ["--help"],
        ["shortest", "Capital?", *MEMBERS, "--similar", "0.4", "--raw"],
        ["save", "short", "--flow", "shortest", *MEMBERS, "--similar", "0.4"],
        ["show", "short"],
        ["check", "short", "--offline"],
        ["Capital?", "--name", "short", "--raw"],
        ["batch", "rows.txt", "-o", "out.jsonl", "--flow", "shortest", "--name", "short"],
        ["runs", "--flow", "shortest"],
        ["remove", "short"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=tmp_path,
        env=environment,
        input="\n".join(map(json.dumps, commands)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    assert [code for code, _ in shown] == [0] * len(commands), done.stderr
    texts = [text for _, text in shown]
    assert "Ask many models; return the shortest answer" in texts[0]
    # "Rome." is shorter, but nobody supports it.
    best = min(list(answers.values())[:3], key=len)
    assert texts[1] == texts[5] == f"{best}\n"
    assert json.loads(texts[3]) == {"members": MEMBERS[1::2], "similar": 0.4}
    assert "4 calls: member 4" in texts[4]
    assert [json.loads(line)["answer"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [best] * 2
    assert "\tshortest\t" in texts[7]
    deployed = subprocess.check_output([sys.executable, "-c", DEPLOYED], cwd=tmp_path, env=environment, text=True)
    assert deployed.split() == ["shortest", "shortest", "consensus", "answer"]
