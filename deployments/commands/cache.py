"""`consensus cache`: the answers that were paid for, which are used again."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from consensus_flows.deployments.commands.history import older_than
from consensus_flows.deployments.server import connect
from consensus_flows.deployments.terminal import Exit, Stop, put
from consensus_flows.tasks.attachments import attachments_folder
from consensus_flows.tasks.batches.addresses import batches_folder
from consensus_flows.tasks.calls.storage import PATTERN, old_files
from consensus_flows.tasks.plain_text import plural

app = App(name="cache", help="Manage cached answers.")


@app.command
def prune(*, older_than_: Annotated[str, Parameter(name="--older-than", metavar="AGE")], dry_run: bool = False) -> Exit:
    """Delete old answers from the cache. A call whose answer is deleted is asked and paid for again.

    Inputs that were piped into a batch, what else it keeps in PREFECT_HOME, and attachments are deleted by the same age. Results of
    flows are kept.

    Args:
        older_than_: Minimum age: 90d, 12h, 4w.
        dry_run: Print how many there are, and delete nothing.
    """
    age = (datetime.now(UTC) - older_than(older_than_)).total_seconds()

    def prune_in(folder: Path, pattern: str, noun: str) -> None:
        found = old_files(folder, age, pattern, delete=not dry_run)
        did = "would delete" if dry_run else "deleted"
        put(f"{did} {plural(found.number, noun)}, {found.size / 1e6:.1f} MB, in {folder}")

    prune_in(batches_folder(), "*", "file")
    prune_in(attachments_folder(), "*", "attachment")
    connect()  # it may name the storage
    prune_in(asyncio.run(_folder()), PATTERN, "answer")
    return Exit.ANSWER


async def _folder() -> Path:
    """Return the folder of the results.

    Raises:
        Stop: If they are not in one.
    """
    from prefect.filesystems import LocalFileSystem
    from prefect.results import aget_default_result_storage

    storage = await aget_default_result_storage()
    if not isinstance(storage, LocalFileSystem):
        raise Stop(
            f"answers are cached in a {type(storage).__name__}, not in a folder: have the storage itself delete "
            "objects named answer-* by age (a lifecycle rule)"
        )
    return storage._resolve_path("")  # noqa: SLF001 - Prefect has no public way to ask where a key goes
