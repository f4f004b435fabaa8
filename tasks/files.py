"""Files: written whole, so that a reader sees what was there before or all of what is new; and which a run may touch.

The command line and Python read and write what their user may. Who starts a deployment over the Prefect server sends
parameters from elsewhere, and a path among them is a wish to read or to write on the worker's machine.
"""

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from consensus_flows.tasks.errors import ConfigurationError

FOLDER = "CONSENSUS_FILES"
"""The environment variable, on a worker, that names the folder for files that parameters may name; by default where it runs."""


@contextlib.contextmanager
def atomic_write(
    path: Path, *, part: str | None = None, mode: int = 0o666, sync: bool = False, follow: bool = True
) -> Iterator[Path]:
    """Yield a path to write to; when the block ends, what was written there takes the place of `path`.

    If the block raises, `path` stays as it was and nothing is left beside it. A symbolic link stays a link: the file that
    it points to is replaced. An existing file keeps its mode and its owner. A device, a pipe, and the file that standard
    output or standard error goes to are never replaced: they are written to.

    Args:
        path: The file.
        part: Name to write to in the same folder, where the default will not do.
        mode: Of a new file, less the umask.
        sync: Wait until the file and its name are on the disk.
        follow: Whether to follow a symbolic link; if not, the link itself is replaced.

    Raises:
        OSError: If the file cannot be written.
    """
    if follow and is_stream(path):
        with tempfile.TemporaryDirectory(prefix="consensus-") as folder:
            written = Path(folder) / (part or path.name)
            yield written
            # Neither truncated nor written over: standard output may have been written to already.
            with written.open("rb") as source, os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as stream:
                shutil.copyfileobj(source, stream)
        return
    target = Path(os.path.realpath(path)) if follow else path
    beside = target.with_name(part or f".consensus-{secrets.token_hex(6)}.part")
    old = _stat(target) if follow else None
    # What replaces a private file is private from the beginning.
    os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode if old is None else 0o600))
    try:
        yield beside
        if old is not None:
            _keep_rights(beside, old)
        if sync:
            _sync(beside)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    if sync:
        _sync(target.parent)


def is_stream(path: Path) -> bool:
    """Tell whether a path is one that cannot be replaced: a device, a pipe, or where this process prints to."""
    found = _stat(path)
    return found is not None and (
        not stat.S_ISREG(found.st_mode) or any(_leads_to(found, standard) for standard in (1, 2))
    )


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _leads_to(found: os.stat_result, descriptor: int) -> bool:
    try:
        return os.path.samestat(found, os.fstat(descriptor))
    except OSError:  # it is closed
        return False


def _keep_rights(part: Path, old: os.stat_result) -> None:
    new = part.stat()
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        with contextlib.suppress(OSError):  # only root may give a file away
            os.chown(part, old.st_uid, old.st_gid)
    with contextlib.suppress(OSError):  # some network file systems have no modes
        part.chmod(stat.S_IMODE(old.st_mode))


def _sync(path: Path) -> None:
    """Write a file to the disk itself, before anything else relies on it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def deployed() -> bool:
    """Tell whether this code is part of a run that was started from a deployment."""
    # The command line needs this module before Prefect may be imported.
    from prefect import context
    from prefect.context import FlowRunContext

    run = FlowRunContext.get()
    if run is not None and run.flow_run is not None and run.flow_run.deployment_id is not None:
        return True
    # Prefect's own note of it for flows within the deployed one.
    noted = getattr(context, "_deployment_id", None)
    return noted is not None and noted.get() is not None


def place(path: str | Path, field: str, *also: Path) -> Path:
    """Return the file or folder that the parameter `field` names, without links and dots.

    Args:
        path: What was given; a relative one is below the folder where this process runs, or that of a worker.
        field: The parameter, for the error.
        also: Further folders that a deployed run may look into.

    Raises:
        ConfigurationError: If the run was started from a deployment and the path leads out of the worker's folder, or is none.
    """
    if not deployed():
        return Path(path).expanduser().resolve()
    folder = Path(os.environ.get(FOLDER) or ".").expanduser().resolve()
    try:
        found = (folder / path).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a NUL byte
        raise ConfigurationError(f"{str(path)!r} is not a path: {error}", field=field) from None
    if any(found.is_relative_to(one) for one in (folder, *also)):
        return found
    raise ConfigurationError(
        f"{str(path)!r} leads out of {folder}: a run that was started from a deployment reads and writes only "
        f"there; {FOLDER} on the worker names another folder",
        field=field,
    )
