"""The house: imports run one way only, and names shadow nobody."""

import ast
import importlib.util
import itertools
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


def module_of(path):
    """The name under which a file of ours is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("consensus_flows", *parts[: -1 if parts[-1] == "__init__" else None]))


def imported(path):
    """Every module that a file imports, wherever in it; what is imported from a package may be a module too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (module, *(f"{module}.{name.name}" for name in node.names))
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module":
            yield from (part.value for part in node.args if isinstance(part, ast.Constant))


OURS = {module_of(path): path for path in FILES if path.relative_to(ROOT).parts[0] in LAYERS}
IMPORTS = {
    name: {one for one in imported(path) if one in OURS and one != name and not name.startswith(f"{one}.")}
    for name, path in OURS.items()
}


def part_of(name):
    """The part of the project that a module belongs to: a layer, or a module or package of `tasks`."""
    _, layer, *rest = name.split(".")
    return f"{layer}.{rest[0]}" if layer == "tasks" and rest else layer


def circle_in(graph):
    """Return a circle of a graph as a list that begins and ends with the same node; empty where there is none."""
    done, path = set(), []

    def visit(node):
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        path.append(node)
        found = next((circle for other in sorted(graph[node]) if (circle := visit(other))), [])
        path.pop()
        done.add(node)
        return found

    return next((circle for node in sorted(graph) if (circle := visit(node))), [])


def test_no_files_import_each_other_in_a_circle():
    assert not (circle := circle_in(IMPORTS)), " imports ".join(circle)


def test_no_parts_import_each_other_in_a_circle():
    graph, edges = {}, {}
    for name, others in IMPORTS.items():
        part = part_of(name)
        graph.setdefault(part, set())
        for other in others:
            if part_of(other) != part:
                graph[part].add(part_of(other))
                edges[part, part_of(other)] = f"{name} imports {other}"
    circle = circle_in(graph)
    assert not circle, "; ".join(edges[one] for one in itertools.pairwise(circle))


def test_a_circle_is_found():
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_run_one_way_only(layer):
    above = set(LAYERS[LAYERS.index(layer) + 1 :])
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in FILES
        if path.is_relative_to(ROOT / layer)
        for name in imported(path)
        if name.split(".")[0] in {"tests", "benchmarks", "examples"}
        or (name.startswith("consensus_flows.") and name.split(".")[1] in above)
    ]
    assert not wrong


def test_everything_is_imported_by_its_public_name():
    """A checkout has the folders of the package on its path: `import tasks` would load a second copy of a module."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in FILES
        for name in imported(path)
        if name.split(".")[0] in LAYERS
    ]
    assert not wrong


def test_the_search_finds_imports():
    assert "consensus_flows.tasks.calls.ask" in set(imported(ROOT / "tasks/calls/call.py"))
    assert "consensus_flows.flows.consortium" in set(imported(ROOT / "tests/algorithms/test_consortium.py"))


def test_no_flow_bears_the_name_of_a_package():
    """Prefect puts the folder of a flow that it loads by path first on the path: `flows/openai.py` would be taken for the SDK."""
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
    code = "import sys, consensus_flows.flows.consortium; print(sorted({'openai', 'anthropic', 'google.genai'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_is_imported_without_prefect():
    """The working folder's settings are ignored before Prefect reads them, and `--version` needs no second of imports."""
    code = "import sys, consensus_flows.deployments.cli; print('prefect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
