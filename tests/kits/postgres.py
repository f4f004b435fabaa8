"""A PostgreSQL server of the tests' own, where its programs are installed."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("none"))
INSTALLED = (PROGRAMS / "initdb").exists()


@contextmanager
def postgres() -> Iterator[str]:
    """Start a server, and give its address, to which the name of a database is added; PostgreSQL refuses to run as root."""
    folder = Path(tempfile.mkdtemp(prefix="consensus-postgres-"))
    other: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    if other:
        shutil.chown(folder, "postgres", "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(program: str, *arguments: str) -> None:
        command = [PROGRAMS / program, "-D", folder / "data", *arguments]
        subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, **other)

    run("initdb", "-U", "me", "-A", "trust", "--no-sync")
    run("pg_ctl", "-w", "-o", f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off", "start")
    try:
        yield f"postgresql://me@127.0.0.1:{port}"
    finally:
        run("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def create(server: str, name: str) -> str:
    """Make a database, and return its address."""
    subprocess.run([PROGRAMS / "createdb", "--maintenance-db", f"{server}/postgres", name], check=True)
    return f"{server}/{name}"
