"""A Prefect server that a test may kill; and the figures, printed when all tests have run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.figures import LINES
from tests.chaos.own_server import Server
from tests.kits.postgres import INSTALLED, create, postgres


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Start a Prefect server that is this test's own."""
    made = Server(tmp_path / "home")
    made.start()
    yield made
    made.close()


@pytest.fixture
def server_on_postgres(tmp_path: Path) -> Iterator[Server]:
    """Start one on PostgreSQL, which the history is in, too."""
    if not INSTALLED:
        pytest.skip("PostgreSQL is not installed")
    with postgres() as address:
        database = create(address, "prefect").replace("postgresql:", "postgresql+asyncpg:")
        made = Server(tmp_path / "home", database=database)
        made.set(CONSENSUS_HISTORY_URL=create(address, "history"))
        made.start()
        yield made
        made.close()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was measured."""
    if LINES:
        terminalreporter.section("figures")
        for line in LINES:
            terminalreporter.write_line(line)
