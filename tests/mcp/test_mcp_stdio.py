"""`consensus mcp` as a client starts it: a process that speaks the protocol on its standard streams."""

import asyncio
import os
import sys

from mcp import Client, StdioServerParameters, stdio_client
from prefect.settings import PREFECT_API_URL, PREFECT_RESULTS_LOCAL_STORAGE_PATH

from tests.kits.consortium_kit import say
from tests.kits.history_kit import ROOT, rows
from tests.vendors import Reply


async def test_a_client_asks_over_the_standard_streams_and_leaves_no_process(results, vendors, tmp_path):
    history, pid = tmp_path / "history.db", tmp_path / "pid"
    environment = {
        name: value for name, value in os.environ.items() if name.startswith(("PREFECT_", "OPENAI_", "CONSENSUS_"))
    }
    environment |= {
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(PREFECT_RESULTS_LOCAL_STORAGE_PATH.value()),
        "CONSENSUS_HISTORY_URL": f"sqlite:///{history}",
        # Whatever is logged goes to standard error, too.
        "PREFECT_LOGGING_LEVEL": "DEBUG",
    }
    script = f"echo $$ > {pid}; exec {sys.executable} -m consensus_flows.deployments.cli mcp --max-calls 9"
    server = StdioServerParameters(command="sh", args=["-c", script], env=environment, cwd=ROOT)
    say(vendors, one="yes", two="yes", three="no")
    vendors.script("slow", then=Reply(text="late", delay=60))
    strangers, told, waiting = [], [], asyncio.Event()

    async def heard(message):
        if isinstance(message, Exception):
            strangers.append(message)

    async def note(progress, total, message):
        told.append((progress, total))
        if "slow" in str(message) or progress == 1:
            waiting.set()

    with (tmp_path / "stderr").open("w") as errors:
        async with Client(stdio_client(server, errlog=errors), message_handler=heard) as client:
            found = await client.call_tool(
                "run_algorithm",
                {"algorithm": "vote", "prompt": "Is it?", "models": ["openai/one", "openai/two", "openai/three"]},
                progress_callback=note,
            )
            assert found.structured_content["answer"] == "yes", found.content
            assert found.structured_content["budget"]["calls_left"] == 6
            assert told[-1] == (3, 3)
            # The client leaves in the middle of a run.
            waiting.clear()
            models = {"algorithm": "vote", "prompt": "And now?", "models": ["openai/one", "openai/slow"]}
            asking = asyncio.create_task(client.call_tool("run_algorithm", models, progress_callback=note))
            async with asyncio.timeout(60):
                await waiting.wait()
        (left,) = await asyncio.gather(asking, return_exceptions=True)
    assert isinstance(left, Exception)
    assert not strangers, "standard output carries nothing but the protocol"
    assert not os.path.exists(f"/proc/{pid.read_text().strip()}")  # noqa: ASYNC240, PTH110
    # What was paid for is in the history.
    assert rows(history, "SELECT prompt, calls FROM runs ORDER BY started_at") == [("Is it?", 3), ("And now?", 1)]
