"""A batch that is killed after its last row: in each window before its end nothing of the bill or the budget is lost."""

import signal
import sys
from pathlib import Path

import pytest

from consensus_flows.flows.batch import batch
from consensus_flows.flows.batching import run_batch
from tests.kits import processes
from tests.kits.batch_kit import ROOT, batch_of, column, environment_of, prompts, serve
from tests.vendors import ANY, LoopbackVendors, Reply, Usage

pytestmark = pytest.mark.usefixtures("results")
ROWS = 6
CONFIG = {"members": ["openai/gpt-4o-mini"]}
WINDOWS = {
    "rows written": ("consensus_flows.flows.batching", "_Run.write", "after"),
    "before the end is told": ("consensus_flows.flows.batching", "emit", "before batch_written"),
    "end told": ("consensus_flows.flows.batching", "emit", "after batch_written"),
    "before the journal goes": ("consensus_flows.tasks.batches.journal", "Journal.remove", "before"),
}
OF_A_SHARD = {
    "before it says that it is done": ("consensus_flows.flows.batch_shards", "leave_summary", "before"),
    "after it has said so": ("consensus_flows.flows.batch_shards", "leave_summary", "after"),
}

KILLED = """
import asyncio, importlib, inspect, os, signal, sys
source, out, shards, module, name, when = sys.argv[1:]
from consensus_flows.flows.batch import batch
*path, name = name.split(".")
owner = importlib.import_module(module)
for part in path:
    owner = getattr(owner, part)
real = getattr(owner, name)
moment, _, event = when.partition(" ")

def kill(*arguments):
    if not event or event in arguments:
        os.kill(os.getpid(), signal.SIGKILL)

def sync(*arguments, **options):
    moment == "before" and kill(*arguments)
    done = real(*arguments, **options)
    moment == "after" and kill(*arguments)
    return done

async def later(*arguments, **options):
    moment == "before" and kill(*arguments)
    done = await real(*arguments, **options)
    moment == "after" and kill(*arguments)
    return done

made = later if inspect.iscoroutinefunction(real) else sync
setattr(owner, name, made)
if name == "leave_summary":
    sys.modules["consensus_flows.flows.batch"].leave_summary = made
part = {"shards": int(shards), "shard": 1} if shards != "1" else {}
asyncio.run(batch(source, out, flow="pump", config={"members": ["openai/gpt-4o-mini"]}, **part))
"""


@pytest.fixture
def environment(vendors: LoopbackVendors, tmp_path: Path) -> dict[str, str]:
    serve(vendors)
    vendors.script(ANY, then=lambda seen: Reply(text="x", usage=Usage(input=1000, output=1000)))
    return environment_of(tmp_path)


def there(out: Path, ending: str) -> bool:
    """Whether a file is beside the output."""
    return out.with_name(out.name + ending).exists()


def killed(environment: dict[str, str], source: Path, out: Path, window: tuple[str, str, str], shards: int = 1) -> None:
    """Run a batch that is killed in a window."""
    command = [sys.executable, "-c", KILLED, str(source), str(out), str(shards), *window]
    done = processes.run(command, cwd=ROOT, env=environment, text=True, timeout=110)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("window", WINDOWS)
async def test_a_batch(environment, vendors, tmp_path, window):
    source, out = prompts(tmp_path, ROWS), tmp_path / "out.jsonl"
    killed(environment, source, out, WINDOWS[window])
    assert there(out, ".partial") and column(out, "id") == [f"r{n}" for n in range(ROWS)]
    summary = await run_batch(batch_of(source, out, config=CONFIG))
    assert (summary.status, summary.resumed, summary.done, summary.sent_calls) == ("finished", ROWS, ROWS, ROWS)
    assert vendors.count() == ROWS and summary.cost_usd and not there(out, ".partial")
    again = await run_batch(batch_of(source, out, config=CONFIG))
    assert again.resumed == 0, "that was the end of it"


async def test_what_a_killed_run_has_left_of_its_output_goes(environment, vendors, tmp_path):
    source, out = prompts(tmp_path, ROWS), tmp_path / "out.jsonl"
    killed(environment, source, out, ("consensus_flows.tasks.files", "_sync", "after"))
    assert not out.exists() and list(tmp_path.glob(".*-*.jsonl")), "complete, and not yet in its place"
    (tmp_path / ".1-another.jsonl").touch()
    summary = await run_batch(batch_of(source, out, config=CONFIG))
    assert (summary.status, summary.resumed, vendors.count()) == ("finished", ROWS, ROWS)
    assert [path.name for path in tmp_path.glob(".*-*.jsonl")] == [".1-another.jsonl"]


@pytest.mark.parametrize("window", WINDOWS | OF_A_SHARD)
async def test_a_shard(environment, vendors, tmp_path, window):
    source, out = prompts(tmp_path, ROWS), tmp_path / "0001-of-0002.jsonl"
    killed(environment, source, out, (WINDOWS | OF_A_SHARD)[window], shards=2)
    assert there(out, ".partial")
    assert there(out, ".done") == (window not in {"rows written", "before it says that it is done"})
    (tmp_path / f"{out.name}.done").unlink(missing_ok=True)  # whoever starts it again does so
    summary = await batch(str(source), str(out), flow="pump", config=CONFIG, shards=2, shard=1)
    assert (summary.resumed, summary.done, summary.sent_calls) == (3, 3, 3) and vendors.count() == 3
    assert summary.cost_usd and there(out, ".done") and not there(out, ".partial")


async def test_a_shard_that_cannot_say_that_it_is_done_keeps_its_journal(environment, vendors, tmp_path):
    from consensus_flows.tasks.errors import OutputError

    source, out = prompts(tmp_path, ROWS), tmp_path / "0001-of-0002.jsonl"
    (tmp_path / f"{out.name}.done").mkdir()
    with pytest.raises(OutputError, match=r"0001-of-0002\.jsonl\.done cannot be written"):
        await batch(str(source), str(out), flow="pump", config=CONFIG, shards=2, shard=1)
    assert there(out, ".partial")
