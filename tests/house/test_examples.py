"""Every script in examples/, run as a user runs it, without any key; one on the local model, the others on loopback."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from consensus_flows.blocks import OpenAICompatibleCredentials
from tests.calls.test_local_model import needs_model
from tests.kits import processes
from tests.kits.batch_kit import ROOT, environment_of
from tests.vendors import LoopbackVendors, Reply

SCRIPTS = {script.stem: script for script in sorted((ROOT / "examples").glob("*.py"))}
ON_THE_MODEL = "pump"


@pytest.fixture
async def fast_model(prefect_server: None, vendors: LoopbackVendors) -> AsyncIterator[None]:
    """Let the loopback vendor answer as `local/smollm2`: saved credentials come before the built-in provider."""
    vendors.script("smollm2", then=lambda seen: Reply() if seen.schema else Reply(text="It is 12."))
    await OpenAICompatibleCredentials(api_key="sk-test-local", base_url=vendors.openai_url).save("local")
    yield
    await OpenAICompatibleCredentials.adelete("local")


def run(script: Path, folder: Path) -> None:
    (folder / "home").mkdir(mode=0o700)
    command = [sys.executable, script.relative_to(ROOT)]
    done = processes.run(command, cwd=ROOT, env=environment_of(folder), text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and "Traceback" not in done.stderr


@needs_model
@pytest.mark.timeout(600)
def test_an_example_runs_on_the_local_model(prefect_server: None, tmp_path: Path) -> None:
    run(SCRIPTS[ON_THE_MODEL], tmp_path)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(SCRIPTS.keys() - {ON_THE_MODEL}))
def test_an_example_runs(name: str, fast_model: None, tmp_path: Path) -> None:
    run(SCRIPTS[name], tmp_path)


CELLS = """
import ast, asyncio, inspect, json, sys

async def main():
    scope = {}
    for cell in json.load(open(sys.argv[1]))["cells"]:
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]))
        last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
        for part, mode in ((tree, "exec"), (last, "eval")):
            if part is not None:
                value = eval(compile(part, "cell", mode, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), scope)
                value = await value if inspect.iscoroutine(value) else value
                if mode == "eval":
                    print(value._repr_markdown_() if hasattr(value, "_repr_markdown_") else value)

asyncio.run(main())
"""


@pytest.mark.timeout(600)
def test_the_notebook_runs_as_a_kernel_runs_it(fast_model: None, tmp_path: Path) -> None:
    """Cell after cell, in an event loop that runs, with `await` outside of functions."""
    (tmp_path / "home").mkdir(mode=0o700)
    done = processes.run(
        [sys.executable, "-c", CELLS, "examples/notebook.ipynb"], cwd=ROOT, env=environment_of(tmp_path), text=True
    )
    assert done.returncode == 0, done.stderr
    assert "## Answer" in done.stdout and "['12', '12']" in done.stdout
