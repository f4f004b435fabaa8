"""`consensus up` and `consensus down`: server, work pool, deployments and a worker on this machine."""

import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import get_current_settings
from prefect.types.entrypoint import EntrypointType

from consensus_flows import blocks
from consensus_flows.deployments.commands.settings.saved import offer
from consensus_flows.deployments.server import connect, server_environment, stop_server
from consensus_flows.deployments.server_access import PROFILE
from consensus_flows.deployments.terminal import Exit, Stop, say
from consensus_flows.flows.algorithms import algorithm, algorithms
from consensus_flows.tasks.calls.providers import built_in
from consensus_flows.tasks.files import FOLDER

POOL = "consensus"
TEMPLATE = Path(__file__).parents[2] / "process-pool.json"
"""What a run may set: not the command, the environment or the folder, with which it could run anything on this machine."""
DEPLOYMENTS = Path(__file__).parents[2] / "prefect.yaml"
"""The repository's own, of which the wheel carries a copy."""
HEARTBEAT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60"}
"""Seconds between signs of life of a run; in prefect.yaml too, for pools that take an environment."""
RETENTION = "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0


def up() -> Exit:
    """Start the server, the work pool, the deployments and a worker in the background; from any folder.

    Runs of deployments read and write files in the folder where this was called, or in CONSENSUS_FILES, and nowhere else.
    """
    info = connect()
    asyncio.run(deploy())
    pid, files = _worker()
    say(f"Up: {info.ui_url}/deployments, worker {pid} on pool {POOL!r}. Runs read and write files in {files}.")
    if info.pid is not None:
        days = int({**server_environment(), **os.environ}[RETENTION]) / 86400
        say(f"Finished runs are kept in the UI for {days:g} days; set {RETENTION} (seconds) to change it.")
    profile = "" if info.auth_string is None else f" --profile {PROFILE}"
    say(
        f"""Try: {prefect_command()}{profile} deployment run 'vote/vote' --param prompt="How many days are in a week?" --watch """.rstrip()
    )
    say("Or the Run button in the UI, which `consensus ui` opens.")
    return Exit.ANSWER


def prefect_command() -> str:
    """Return what a shell starts the Prefect of this environment by; that of a tool's environment is not on the path."""
    own = Path(sys.executable).with_name("prefect")
    found = shutil.which("prefect")
    return "prefect" if found is not None and Path(found).parent.samefile(own.parent) else shlex.quote(str(own))


async def deploy() -> None:
    """Make the work pool, the block types and the deployments."""
    async with get_client() as client:
        await make_pool(client)
        for kind in {
            *filter(Block.is_block_class, vars(blocks).values()),
            *(one.block_class() for one in algorithms().values()),
        }:
            await kind.register_type_and_schema(client=client)
    for one in _deployments():
        flow: Any = load_flow_from_entrypoint(one["entrypoint"], use_placeholder_flow=False)
        limit = one["concurrency_limit"]
        made = await flow.ato_deployment(
            one["name"],
            description=one["description"],
            tags=one["tags"],
            parameters=await _with_saved_config(one["name"], one["parameters"]),
            concurrency_limit=limit if isinstance(limit, int) else ConcurrencyLimitConfig.model_validate(limit),
            work_pool_name=POOL,
            entrypoint_type=EntrypointType.MODULE_PATH,  # so that its code is found from any folder
        )
        await made.aapply()
    await offer()


def _deployments() -> list[dict[str, Any]]:
    """Return the deployments of the repository, and one of each other algorithm: of an installed package."""
    document = yaml.safe_load(DEPLOYMENTS.read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = document["deployments"]
    named, shared = {one["name"] for one in found}, document["definitions"]
    return found + [
        {
            "name": one.name,
            "entrypoint": f"{one.module}.{one.identifier}",
            "description": one.summary,
            "tags": [shared["tag"], "answer"],
            "concurrency_limit": shared["limit"],
            "parameters": {},
        }
        for one in algorithms().values()
        if one.name not in named
    ]


async def _with_saved_config(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Save the settings of a deployment, and return its parameters with their name: a form shows a name in one line."""
    flow, config = parameters.get("flow", name), parameters.get("config")
    if flow not in algorithms() or not isinstance(config, dict):
        return parameters
    block = algorithm(flow).block_class()(config=config)
    await block.save(saved_as := f"local-{name}", overwrite=True)
    rest = {
        key: value for key, value in parameters.items() if key != "flow"
    }  # what is chosen instead may be for another
    return rest | {"config": saved_as}


async def make_pool(client: PrefectClient) -> None:
    """Make the work pool, or bring its template up to date."""
    pool = WorkPoolCreate(name=POOL, type="process", base_job_template=json.loads(TEMPLATE.read_text(encoding="utf-8")))
    await client.create_work_pool(pool, overwrite=True)


def down() -> Exit:
    """Stop the worker and the server that were started from here."""
    worker = running_worker()
    if worker is not None:
        pid = worker.pid
        os.kill(pid, signal.SIGTERM)
        if not _wait_for(lambda: running_worker() is None, STOP_TIMEOUT_S):
            for process in with_descendants(pid):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
    _note().unlink(missing_ok=True)
    info = stop_server()
    say(
        f"stopped: {', '.join(part for part, there in (('worker', worker), ('server', info)) if there) or 'nothing was running'}"
    )
    return Exit.ANSWER


def _worker() -> tuple[int, Path]:
    """Return the worker's process and the folder of its files."""
    running = running_worker()
    if running is not None:
        return running.pid, running.files
    files = Path(os.environ.get(FOLDER) or ".").expanduser().resolve()
    home = get_current_settings().home
    log = home / "consensus-worker.log"
    log.touch(mode=0o600)
    with log.open("ab") as output:
        before = output.tell()  # what earlier workers have written
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "prefect", "--no-prompt", "worker", "start", "--pool", POOL],
            env=HEARTBEAT | os.environ | {FOLDER: str(files)},
            cwd=home,  # Prefect takes settings from the folder it is started in.
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_heed_interrupts,  # noqa: PLW1509 - it takes no lock
        )
    keys = [name for provider in built_in().values() for name in provider.needed if os.environ.get(name)]
    _note().write_text(json.dumps({"pid": process.pid, "files": str(files), "keys": keys}), encoding="utf-8")
    if not _wait_for(lambda: process.poll() is not None or b"started!" in log.read_bytes()[before:], START_TIMEOUT_S):
        raise Stop(f"the worker did not start in {START_TIMEOUT_S:.0f} s; its log is {log}", Exit.NO_ANSWER)
    if process.poll() is not None:
        raise Stop(f"the worker ended at once; its log is {log}", Exit.NO_ANSWER)
    process.returncode = 0  # It outlives this command on purpose.
    return process.pid, files


def _heed_interrupts() -> None:
    """Let the worker end by SIGINT, which Prefect's worker sends itself when it gets SIGTERM.

    Whatever a script starts with `&`, or nohup starts, ignores SIGINT, and so do the processes it starts.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def with_descendants(pid: int) -> set[int]:
    """A process and all that it has started: Prefect gives each run a process group of its own."""
    shown = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)  # noqa: S607
    pairs = [(int(child), int(parent)) for child, parent in map(str.split, shown.stdout.splitlines())]
    found = {pid}
    while more := {child for child, parent in pairs if parent in found} - found:
        found |= more
    return found


class Worker(NamedTuple):
    """A worker that was started from here."""

    pid: int
    files: Path
    """The folder that its runs may read and write."""
    keys: list[str]
    """The variables of its environment that hold the keys of providers."""


def running_worker() -> Worker | None:
    """Return the worker that was started from here, if it still runs."""
    try:
        note = json.loads(_note().read_text(encoding="utf-8"))
        worker = Worker(int(note["pid"]), Path(note["files"]), note["keys"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    command = ["ps", "-ww", "-o", "command=", "-p", str(worker.pid)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    return worker if "worker start" in shown.stdout else None


def _note() -> Path:
    return get_current_settings().home / "consensus-worker.json"


def _wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
