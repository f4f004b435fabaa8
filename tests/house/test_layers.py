"""The house: imports run one way only, and names shadow nobody."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LAYERS = ("blocks", "tasks", "flows", "deployments")
FILES = sorted(
    path
    for folder in (*LAYERS, "tests", "benchmarks", "examples")
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts
)


def imported(path):
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module if node.level == 0 else "." * node.level
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module":
            yield from (part.value for part in node.args if isinstance(part, ast.Constant))


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_run_one_way_only(layer):
    above = set(LAYERS[LAYERS.index(layer) + 1 :]) | {"tests", "benchmarks", "examples"}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in FILES
        if path.is_relative_to(ROOT / layer)
        for name in imported(path)
        if name.split(".")[0] in above
    ]
    assert not wrong


def test_the_search_finds_imports():
    assert "tasks.calls.ask" in set(imported(ROOT / "tasks/calls/call.py"))
    assert "flows.consortium" in set(imported(ROOT / "tests/algorithms/test_consortium.py"))


def test_no_flow_bears_the_name_of_a_package():
    """A flow's folder comes first on the path when a worker loads it: `flows/openai.py` would be taken for the SDK."""
    names = sorted(path.stem for path in (ROOT / "flows").iterdir() if path.suffix == ".py" or path.is_dir())
    for name in names:
        if name.startswith("__"):
            continue
        assert name not in sys.stdlib_module_names, name
        assert name not in LAYERS, name
        found = importlib.util.find_spec(name)
        # Prefect leaves the folder of a flow that it has loaded on the path, and then finds the file itself.
        ours = found is not None and found.origin is not None and Path(found.origin).is_relative_to(ROOT / "flows")
        assert found is None or ours, f"flows/{name}.py shadows an installed package"


def test_a_flow_is_imported_without_the_vendors_sdks():
    """Together they cost four seconds; each is imported when its provider is first used."""
    code = "import sys, flows.consortium; print(sorted({'openai', 'anthropic', 'google.genai'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
