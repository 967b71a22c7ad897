"""News inside the caller's own transaction: nobody hears before it is committed, and then everyone, at once."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import asyncpg
import pytest
from sqlalchemy import create_engine
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.pool import NullPool

from mcpsession.errors import ConfigurationError, StoreError, StoreUnavailableError
from mcpsession.model import Mail
from mcpsession.news_contracts import Reach
from mcpsession.postgres.backend import PostgresBackend
from tests.postgres.ears import listening
from tests.postgres.stores import living, open_session, running_backend


@pytest.fixture
async def backend(database_url: str) -> AsyncIterator[PostgresBackend]:
    # Others share the database; they have other names.
    async with running_backend(database_url, namespace="ours") as backend:
        yield backend


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """The application's own, with a table of its own."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE TABLE orders (id int)")
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(database_url), poolclass=NullPool
    )
    yield engine
    await engine.dispose()


async def publish(backend: PostgresBackend, connection: object, body: str = "{}", session: str | None = None) -> object:
    return await backend.news_log.publish(Mail("news", "me", session_id=session, body=body), connection=connection)


async def news(backend: PostgresBackend, position: str) -> list[str]:
    page = await backend.mailbox.news(position)
    assert page is not None
    return [mail.body for mail in page.mails]


# ---- The transaction -----------------------------------------------------------------------------------------------


async def test_f73_what_is_rolled_back_nobody_hears(
    backend: PostgresBackend, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    position = await backend.mailbox.position()
    with anyio.fail_after(5):
        async with listening(backend) as ear:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute("INSERT INTO orders VALUES (1)")
            await publish(backend, connection)
            await transaction.rollback()
            # A bell of the transaction would have come before one that rings after it.
            await connection.execute("SELECT pg_notify($1, 'after')", backend.news_log._channel)
            await ear.until("after")

    assert ["after"] == ear.heard
    assert [] == await news(backend, position)


async def test_f73_what_is_committed_is_heard_once_and_not_before(
    backend: PostgresBackend, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    position = await backend.mailbox.position()
    with anyio.fail_after(5):
        async with listening(backend) as ear:
            async with connection.transaction():
                assert Reach(None) == await publish(backend, connection, "1")
                await publish(backend, connection, "2")
                await backend.news_log.publish(Mail("news", "me", body="quick"))
                page = await backend.mailbox.news(position)
                assert page is not None
                assert ["quick"] == [mail.body for mail in page.mails]
                assert [] == ear.heard
            committed = time.monotonic()
            await ear.until("n")
            heard = time.monotonic()

    # By the bell, which two of the same transaction share, and not by the next beat.
    assert ["n"] == ear.heard
    assert heard - committed < 0.5
    assert ["1", "2"] == await news(backend, page.position)


async def test_f73_what_a_savepoint_takes_back_nobody_hears(
    backend: PostgresBackend, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    position = await backend.mailbox.position()
    async with connection.transaction():
        await publish(backend, connection, "before")
        inner = connection.transaction()
        await inner.start()
        await publish(backend, connection, "inside")
        await inner.rollback()
        async with connection.transaction():
            await publish(backend, connection, "again")
        await publish(backend, connection, "after")

    assert ["before", "again", "after"] == await news(backend, position)


async def test_f73_a_transaction_that_takes_back_all_it_published_rings_nobody(
    backend: PostgresBackend, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    with anyio.fail_after(5):
        async with listening(backend) as ear:
            async with connection.transaction():
                inner = connection.transaction()
                await inner.start()
                await publish(backend, connection)
                await inner.rollback()
            await connection.execute("SELECT pg_notify($1, 'after')", backend.news_log._channel)
            await ear.until("after")

    assert ["after"] == ear.heard


async def test_f73_a_transaction_of_two_seconds_holds_nobody_up_and_comes_when_it_ends(
    backend: PostgresBackend, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    position = await backend.mailbox.position()
    heard: list[str] = []
    transaction = connection.transaction()
    await transaction.start()
    await publish(backend, connection, "slow")
    until = time.monotonic() + 2
    count = 0
    while time.monotonic() < until:
        await backend.news_log.publish(Mail("news", "quick", body=f"{count}"))
        count += 1
        page = await backend.mailbox.news(position)
        assert page is not None
        assert [f"{count - 1}"] == [mail.body for mail in page.mails]
        heard += [mail.body for mail in page.mails]
        position = page.position
    await transaction.commit()
    heard += await news(backend, position)

    assert [*map(str, range(count)), "slow"] == heard


async def test_f73_another_namespace_is_not_rung_for(
    backend: PostgresBackend, connection: asyncpg.Connection[asyncpg.Record], database_url: str
) -> None:
    with anyio.fail_after(5):
        async with running_backend(database_url, namespace="theirs") as other, listening(other) as ear:
            await publish(backend, connection)
            await connection.execute("SELECT pg_notify($1, 'after')", other.news_log._channel)
            await ear.until("after")

    assert ["after"] == ear.heard


async def test_a_connection_without_a_transaction_publishes_at_once(
    backend: PostgresBackend, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    position = await backend.mailbox.position()

    await publish(backend, connection, "now")

    assert ["now"] == await news(backend, position)


async def test_a_pool_s_connection_is_as_good(backend: PostgresBackend, database_url: str) -> None:
    position = await backend.mailbox.position()
    async with (
        asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        await publish(backend, connection, "pooled")

    assert ["pooled"] == await news(backend, position)


async def test_f78_a_transaction_can_publish_to_one_session(
    backend: PostgresBackend, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    session = await open_session(backend)
    position = await backend.mailbox.position()
    async with living(backend) as replica, connection.transaction():
        assert Reach(None) == await publish(backend, connection, "1", session)
        await backend.holds.take(session, replica)
        assert Reach(replica) == await publish(backend, connection, "2", session)
        assert await publish(backend, connection, "3", "unknown") is None

    assert ["1", "2"] == await news(backend, position)


async def test_a_statement_that_fails_is_raised_and_its_transaction_is_lost(
    backend: PostgresBackend, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    position = await backend.mailbox.position()
    transaction = connection.transaction()
    await transaction.start()
    await publish(backend, connection, "1")
    with pytest.raises(StoreError):
        await publish(backend, connection, "\x00")
    with pytest.raises(StoreError, match="25P02"):
        await publish(backend, connection, "2")
    await transaction.rollback()

    assert [] == await news(backend, position)


async def test_a_read_only_transaction_is_refused_and_not_taken_for_an_absent_store(
    backend: PostgresBackend, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    async with connection.transaction(readonly=True):
        with pytest.raises(StoreError, match="read-only; publish in one that may write"):
            await publish(backend, connection)


async def test_a_connection_that_is_busy_is_refused(
    backend: PostgresBackend, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.execute, "SELECT pg_sleep(0.2)")
        await anyio.lowlevel.checkpoint()
        with pytest.raises(ConfigurationError, match="one thing at a time"):
            await publish(backend, connection)


async def test_a_connection_that_was_cut_is_a_store_that_is_away(
    backend: PostgresBackend, connection: asyncpg.Connection[asyncpg.Record], database_url: str
) -> None:
    cut = await asyncpg.connect(database_url)
    await cut.transaction().start()
    await connection.execute("SELECT pg_terminate_backend($1)", cut.get_server_pid())

    with pytest.raises(StoreUnavailableError):
        await publish(backend, cut)
    with pytest.raises(ConfigurationError, match="closed"):
        await publish(backend, cut)


# ---- SQLAlchemy ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def alchemy_connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with engine.connect() as connection:
        yield connection


@asynccontextmanager
async def alchemy_session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine) as session:
        yield session


@asynccontextmanager
async def scoped_session(engine: AsyncEngine) -> AsyncIterator[async_scoped_session[AsyncSession]]:
    session = async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: 1)
    yield session
    await session.remove()


KINDS = pytest.mark.parametrize("opened", [alchemy_connection, alchemy_session, scoped_session])


@KINDS
async def test_f73_sqlalchemy_commits_it_though_it_is_the_first_statement(
    backend: PostgresBackend, engine: AsyncEngine, opened: Any
) -> None:
    """SQLAlchemy begins its transaction with its first statement."""
    position = await backend.mailbox.position()
    async with opened(engine) as connection:
        await publish(backend, connection, "1")
        await publish(backend, connection, "2")
        assert [] == await news(backend, position)
        await connection.commit()
        assert ["1", "2"] == await news(backend, position)


@KINDS
async def test_f73_sqlalchemy_rolls_it_back_though_it_is_the_first_statement(
    backend: PostgresBackend, engine: AsyncEngine, opened: Any
) -> None:
    position = await backend.mailbox.position()
    async with opened(engine) as connection:
        await publish(backend, connection)
        await connection.rollback()
        await connection.execute(sql("SELECT 1"))
        await publish(backend, connection)

    assert [] == await news(backend, position)


@KINDS
async def test_f73_a_savepoint_of_sqlalchemy_takes_it_back(
    backend: PostgresBackend, engine: AsyncEngine, opened: Any
) -> None:
    position = await backend.mailbox.position()
    async with opened(engine) as connection:
        inner = await connection.begin_nested()
        await publish(backend, connection, "inside")
        await inner.rollback()
        await publish(backend, connection, "after")
        await connection.commit()

    assert ["after"] == await news(backend, position)


async def test_f73_a_session_s_own_work_is_committed_with_it(
    backend: PostgresBackend, engine: AsyncEngine, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    position = await backend.mailbox.position()
    with anyio.fail_after(5):
        async with listening(backend) as ear:
            async with AsyncSession(engine) as session, session.begin():
                await session.execute(sql("INSERT INTO orders VALUES (7)"))
                await publish(backend, session, "order 7")
                assert 0 == await connection.fetchval("SELECT count(*) FROM orders")
            await ear.until("n")

    assert 1 == await connection.fetchval("SELECT count(*) FROM orders")
    assert ["order 7"] == await news(backend, position)


async def test_sqlalchemy_in_autocommit_publishes_at_once(backend: PostgresBackend, engine: AsyncEngine) -> None:
    position = await backend.mailbox.position()
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await publish(backend, connection, "now")
        assert ["now"] == await news(backend, position)


# ---- What cannot be used -------------------------------------------------------------------------------------------


async def test_what_is_no_connection_to_this_postgres_is_refused(
    backend: PostgresBackend, engine: AsyncEngine, database_url: str, tmp_path: Path
) -> None:
    """Whatever it is, the message says what would do, and shows no password."""
    position = await backend.mailbox.position()
    pool = await asyncpg.create_pool(database_url, min_size=1, max_size=1)
    closed = await asyncpg.connect(database_url)
    await closed.close()
    released = await pool.acquire()
    await pool.release(released)
    async with engine.connect() as closed_alchemy:
        pass
    other = create_engine("sqlite://")
    sqlite = sqlite3.connect(tmp_path / "file")
    with other.connect() as sync:
        for wrong in (
            database_url, object(), 1, pool, pool.acquire(), closed, released, closed_alchemy, engine, sync, sqlite,
            AsyncSession(), engine.connect(),
        ):  # fmt: skip
            with pytest.raises(ConfigurationError, match="it must be an open connection of asyncpg, or") as refused:
                await publish(backend, wrong)
            assert "://" not in str(refused.value)
    sqlite.close()
    await pool.close()

    assert [] == await news(backend, position)


async def test_an_engine_that_reaches_no_server_is_a_store_that_is_away(backend: PostgresBackend) -> None:
    engine = create_async_engine("postgresql+asyncpg://user:secret@127.0.0.1:1/db")
    async with AsyncSession(engine) as session:
        with pytest.raises(StoreUnavailableError) as away:
            await publish(backend, session)
    assert "secret" not in str(away.value)
