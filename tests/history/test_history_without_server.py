"""Looking back starts no Prefect server where the history's place is known without one."""

import os
import sqlite3
import sys
from pathlib import Path

from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings

from consensus_flows.tasks.history.address import no_block_is_saved
from tests.kits import processes

COMMANDS = [["runs"], ["stats"], ["history", "prune", "--older-than", "1d"]]
RUN = f"""
import sys
from consensus_flows.deployments.cli import main
for command in {COMMANDS}:
    sys.argv = ["consensus", *command]
    try:
        main()
    except SystemExit as ended:
        assert ended.code == 0, command
"""


def test_a_file_is_read_without_a_server(tmp_path):
    """In a process and a PREFECT_HOME of their own, with a port where nobody listens."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "CONSENSUS_"))}
    env |= {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_API_PORT": "1"}
    ran = processes.run([sys.executable, "-c", RUN], text=True, timeout=60, env=env)
    assert ran.returncode == 0, ran.stderr
    assert "Starting" not in ran.stderr and "deleted 0 runs" in ran.stdout
    assert not (tmp_path / "consensus-server.log").exists()


def database(path: Path, *names: str) -> Path:
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE block_document (id TEXT, name TEXT)")
        made.executemany("INSERT INTO block_document VALUES ('', ?)", [(name,) for name in names])
    made.close()
    return path


def test_the_database_of_the_server_tells_whether_an_address_is_saved(tmp_path):
    text = tmp_path / "text.db"
    text.write_text("This is no database, but a text that is long enough to be looked into as one." * 20)
    for url, said in (
        (f"sqlite+aiosqlite:///{tmp_path}/none.db", True),
        (f"sqlite+aiosqlite:///{database(tmp_path / 'without.db', 'night')}", True),
        (f"sqlite+aiosqlite:///{database(tmp_path / 'with.db', 'night', 'consensus-history')}", False),
        (f"sqlite+aiosqlite:///{text}", False),
        ("sqlite+aiosqlite:///:memory:", False),
        ("postgresql+asyncpg://user:password@127.0.0.1:1/prefect", False),
    ):
        with temporary_settings({PREFECT_SERVER_DATABASE_CONNECTION_URL: url}):
            assert no_block_is_saved() is said, url
    assert not (tmp_path / "none.db").exists()


async def test_the_table_of_this_prefect_is_the_one_that_is_looked_into(prefect_server, tmp_path):
    """Another Prefect may call it otherwise; then a server is asked, as before."""
    from prefect.server.database.orm_models import BlockDocument

    assert BlockDocument.__tablename__ == "block_document"
    assert "name" in BlockDocument.__table__.columns
