"""Transactions on the database of the server that we start wait for one another, with Prefect's own configuration of SQLite."""

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings

from deployments.server_database import database_environment

AT_ONCE = 4


def url_of(database: str) -> str | None:
    with temporary_settings({PREFECT_SERVER_DATABASE_CONNECTION_URL: database}):
        return database_environment().get("PREFECT_SERVER_DATABASE_CONNECTION_URL")


async def test_requests_that_read_and_then_write_wait_for_one_another(tmp_path: Path) -> None:
    url = url_of(f"sqlite+aiosqlite:///{tmp_path}/prefect.db")
    assert url is not None
    configuration = AioSqliteConfiguration(connection_url=url)
    engine = await configuration.engine()
    async with engine.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE turn (number INTEGER)"))

    async def request() -> None:
        session = await configuration.session(engine)
        async with session, configuration.begin_transaction(session):
            before = await session.scalar(sa.text("SELECT count(*) FROM turn"))
            await asyncio.sleep(0.05)
            await session.execute(sa.text("INSERT INTO turn VALUES (:number)"), {"number": before})

    await asyncio.gather(*(request() for _ in range(AT_ONCE)))  # with BEGIN DEFERRED: "database is locked"
    async with engine.connect() as connection:
        found = (await connection.execute(sa.text("SELECT number FROM turn ORDER BY number"))).scalars().all()
    assert list(found) == list(range(AT_ONCE)), "each saw what the one before it wrote"
    await engine.dispose()


@pytest.mark.parametrize(
    ("configured", "expected"),
    [
        (
            "sqlite+aiosqlite:////home/a b/prefect.db",
            "sqlite+aiosqlite:////home/a b/prefect.db?plugin=consensus_begin_immediate",
        ),
        ("sqlite+aiosqlite:///x.db?timeout=5", "sqlite+aiosqlite:///x.db?plugin=consensus_begin_immediate&timeout=5"),
        ("sqlite+aiosqlite:///x.db?plugin=own", None),
        ("postgresql+asyncpg://me:p%40ss@localhost/prefect", None),
    ],
)
def test_only_sqlite_gets_the_plugin(configured: str, expected: str | None) -> None:
    assert url_of(configured) == expected
