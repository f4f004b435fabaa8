"""`import consensus_flows`: light, complete for type checkers, and usable beside a project with folders of the same names."""

import ast
import asyncio
import importlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import consensus_flows
from tests.kits.batch_kit import ROOT, environment_of
from tests.vendors import LoopbackVendors, Reply


def test_what_type_checkers_see_is_what_there_is() -> None:
    tree = ast.parse((ROOT / "consensus_flows" / "__init__.py").read_text())
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        name.asname: str(node.module).removeprefix("consensus_flows.")
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert seen == consensus_flows._MODULES
    for name, module in seen.items():
        assert getattr(consensus_flows, name) is getattr(importlib.import_module(f"consensus_flows.{module}"), name)
    assert not hasattr(consensus_flows, "nonsense")


def test_nothing_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, consensus_flows; print([name for name in sys.modules if name.startswith(('prefect', 'pydantic'))])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).strip() == "[]"


async def test_asking_works_in_a_running_loop(
    results: str, vendors: LoopbackVendors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a notebook, whose cells run in one."""
    monkeypatch.setattr("consensus_flows.deployments.server.use_server", lambda info: None)
    vendors.script("one", then=Reply(text="Paris"))
    assert asyncio.get_running_loop().is_running()
    record = consensus_flows.ask("Capital of France?", consensus_flows.PumpConfig(members=["openai/one"]))
    assert record.answer == "Paris"


@pytest.mark.timeout(300)
def test_the_wheel_works_in_a_project_with_folders_of_the_same_names(
    prefect_server: None, vendors: LoopbackVendors, tmp_path: Path
) -> None:
    vendors.script("one", then=Reply(text="Paris"))
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-q", "-w"]
    subprocess.run([*build, str(tmp_path), str(ROOT)], check=True, timeout=200)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    shipped = tmp_path / "site" / "consensus_flows"
    deployed = yaml.safe_load((shipped / "deployments" / "prefect.yaml").read_text())["deployments"]
    inputs = {one["parameters"]["input"] for one in deployed if "input" in one["parameters"]}
    assert len(inputs) == 4 and all((shipped / "tasks" / name).exists() for name in inputs)
    project = tmp_path / "project"
    for name in ("blocks", "tasks", "flows", "deployments"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text(f"WHOSE = 'the project: {name}'\n")
    (project / "main.py").write_text(
        "import flows, tasks\n"
        "from consensus_flows import PumpConfig, ask\n"
        "print(flows.WHOSE, ask('Capital?', PumpConfig(members=['openai/one'])).answer)\n"
        "import consensus_flows; print(consensus_flows.__file__)\n"
    )
    (tmp_path / "home").mkdir(mode=0o700)
    # An editable install has the checkout on the path: -S leaves it out, and the libraries are named again.
    site = next(path for path in sys.path if path.endswith("site-packages"))
    path = os.pathsep.join([str(tmp_path / "site"), site])
    done = subprocess.run(
        [sys.executable, "-S", "main.py"],
        cwd=project,
        env=environment_of(tmp_path) | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["the project: flows Paris", str(tmp_path / "site/consensus_flows/__init__.py")]
