"""Transactions on the database of the server that we start wait for one another, with Prefect's own configuration of SQLite."""

import asyncio
from pathlib import Path

import sqlalchemy as sa
from prefect.server.database.configurations import AioSqliteConfiguration

from consensus_flows.deployments.prefect_server import begin_immediate

AT_ONCE = 4


async def test_requests_that_read_and_then_write_wait_for_one_another(tmp_path: Path) -> None:
    configuration = AioSqliteConfiguration(connection_url=f"sqlite+aiosqlite:///{tmp_path}/prefect.db")
    engine = await configuration.engine()
    begin_immediate(engine.sync_engine)
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
