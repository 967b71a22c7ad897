"""The border to the driver: what its errors become, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import anyio
import asyncpg
import pytest
from anyio.abc import ByteStream, SocketAttribute

from mcpsession.errors import ConfigurationError, LayerClosedError, StoreError, StoreUnavailableError
from mcpsession.postgres.address import Address, redacted, translate
from mcpsession.postgres.link import Link
from mcpsession.postgres.pool import Database
from mcpsession.settings import Settings

_CUT_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def _nowhere() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"postgresql://user:s3cr3t@127.0.0.1:{probe.getsockname()[1]}/x"


def test_a_wrong_scheme_names_the_right_one_and_keeps_the_password() -> None:
    with pytest.raises(ConfigurationError, match="postgresql://") as caught:
        Database("mysql://user:s3cr3t@db/x", Settings())
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:s3cr3t@h/x", "postgresql://u:s3c@r3t@h/x", "postgresql://h/x?user=u&password=s3cr3t&host=h"],
)
def test_a_url_is_shown_without_its_password(url: str) -> None:
    assert "3t" not in redacted(url)
    assert "h" in redacted(url)


async def test_a_url_that_cannot_be_parsed_says_so_without_the_password() -> None:
    with pytest.raises(ConfigurationError, match="%XX") as caught:
        async with Database("postgresql://user:s3/cr3t@h:12/x", Settings()).running():
            pass
    assert "cr3t" not in str(caught.value)


async def test_an_unreachable_database_is_named_by_host_and_port() -> None:
    url = _nowhere()
    for attempt in (Database(url, Settings()).running(), Link(Address(url, Settings())).connection()):
        with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:\d+.*check the host and port") as caught:
            async with attempt:
                pass
        assert "s3cr3t" not in str(caught.value)
        assert isinstance(caught.value.__cause__, OSError)


async def test_a_closed_pool_says_so(database_url: str) -> None:
    with pytest.raises(LayerClosedError):
        await Database(database_url, Settings()).fetch("SELECT 1")


async def test_a_refusal_is_a_store_error_with_its_sqlstate(database_url: str) -> None:
    link = Link(Address(database_url, Settings()))
    database = Database(database_url, Settings())
    async with database.running(), link.closing():
        for store in (database, link):
            with pytest.raises(StoreError) as caught:
                await store.fetch("SELECT 1 / 0")
            assert "22012" == caught.value.sqlstate
            assert 1 == (await store.fetch("SELECT 1 AS one"))[0]["one"]


@pytest.mark.parametrize("kind", ["pool", "link"])
async def test_a_cut_connection_is_away_once_and_then_dialled_anew(database_url: str, kind: str) -> None:
    link = Link(Address(database_url, Settings()))
    database = Database(database_url, Settings(pool_size=1))
    bystander = await asyncpg.connect(database_url)
    async with database.running(), link.closing():
        store = database if kind == "pool" else link
        await store.fetch("SELECT 1")
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_expect_away, store)
                await anyio.sleep(0.1)
                await bystander.fetch(_CUT_OTHERS)
            assert 1 == (await store.fetch("SELECT 1 AS one"))[0]["one"]
    await bystander.close()


async def _expect_away(store: Database | Link) -> None:
    with pytest.raises(StoreUnavailableError):
        await store.fetch("SELECT pg_sleep(30)")


async def test_a_statement_that_takes_too_long_is_away(database_url: str) -> None:
    settings = Settings(statement_timeout=0.1)
    link = Link(Address(database_url, settings))
    database = Database(database_url, settings)
    async with database.running(), link.closing():
        for store in (database, link):
            with anyio.fail_after(5):
                with pytest.raises(StoreUnavailableError, match="in time"):
                    await store.fetch("SELECT pg_sleep(30)")
                assert 1 == (await store.fetch("SELECT 1 AS one"))[0]["one"]


async def test_an_exhausted_pool_says_which_setting_to_raise(database_url: str) -> None:
    database = Database(database_url, Settings(pool_size=1, acquire_timeout=0.1))
    async with database.running(), database.connection():
        with pytest.raises(StoreUnavailableError, match="pool_size"):
            await database.fetch("SELECT 1")


@pytest.mark.parametrize("kind", ["pool", "link"])
async def test_cancelled_statements_leave_their_connections_usable(database_url: str, kind: str) -> None:
    """However far they got. (A dialling that is cancelled is left out: the driver then reports a future of its own.)"""
    settings = Settings(pool_size=1)
    link = Link(Address(database_url, settings))
    database = Database(database_url, settings)
    async with database.running(), link.closing():
        store = database if kind == "pool" else link
        with anyio.fail_after(10):
            for n in range(20):
                assert 1 == (await store.fetch("SELECT 1 AS one"))[0]["one"]
                with anyio.move_on_after(0.001 * n):
                    await store.fetch("SELECT pg_sleep(0.01)")
            assert 1 == (await store.fetch("SELECT 1 AS one"))[0]["one"]


@pytest.mark.parametrize("kind", ["pool", "link"])
async def test_a_value_that_cannot_be_encoded_leaves_no_transaction_open(database_url: str, kind: str) -> None:
    """The driver has had the statement parsed by then, which began one."""
    link = Link(Address(database_url, Settings()))
    database = Database(database_url, Settings(pool_size=1))
    bystander = await asyncpg.connect(database_url)
    async with database.running(), link.closing():
        store = database if kind == "pool" else link
        with pytest.raises(StoreError):
            await store.fetch("SELECT count(*) FROM mcpsession.mail WHERE sender = $1", "\ud800")
        assert [] == await bystander.fetch("SELECT * FROM pg_locks WHERE relation = 'mcpsession.mail'::regclass")
    await bystander.close()


async def test_a_read_only_server_is_away_and_its_connections_are_dropped(database_url: str) -> None:
    """A demoted primary answers pings and reads: a pool that kept its connections would never leave it."""
    database = Database(database_url, Settings(pool_size=1))
    async with database.running():
        await database.execute("SET default_transaction_read_only = on")
        with pytest.raises(StoreUnavailableError, match="read-only"):
            await database.execute("DELETE FROM mcpsession.mail")
        await database.execute("DELETE FROM mcpsession.mail")


async def test_whoever_is_only_read_only_is_not_connected_to(database_url: str) -> None:
    bystander = await asyncpg.connect(database_url)
    name = await bystander.fetchval("SELECT current_database()")
    await bystander.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    await bystander.close()

    with pytest.raises(StoreUnavailableError, match="accepts writes"):
        async with Database(database_url, Settings()).running():
            pass


async def test_a_deadlock_is_worth_another_try() -> None:
    assert isinstance(translate(asyncpg.DeadlockDetectedError("x"), "h"), StoreUnavailableError)
    assert isinstance(translate(asyncpg.DiskFullError("x"), "h"), StoreUnavailableError)


# What lies at hand


async def test_after_all_connections_were_cut_the_next_statements_succeed(database_url: str) -> None:
    async with _own(database_url, pool_size=5) as database:
        await _use_all(database)
        await _cut_all(database_url)

        for _ in range(5):
            assert [1] == [row["one"] for row in await database.fetch("SELECT 1 AS one")]


async def test_a_transaction_whose_replica_stands_still_keeps_its_locks_for_some_seconds_only(
    database_url: str,
) -> None:
    async with _own(database_url) as database, database.transaction() as connection:
        bounds = await connection.fetchrow(
            "SELECT current_setting('idle_in_transaction_session_timeout') AS idle,"
            " current_setting('lock_timeout') AS lock"
        )
    assert bounds is not None
    assert ("5s", "5s") == (bounds["idle"], bounds["lock"])
    # And only the transaction.
    async with _own(database_url) as database, database.connection() as connection:
        assert "0" == await connection.fetchval("SELECT current_setting('lock_timeout')")


async def test_a_transaction_that_fails_leaves_nothing_and_its_connection_usable(database_url: str) -> None:
    async with _own(database_url, pool_size=1) as database:

        async def fail() -> None:
            async with database.transaction() as connection:
                await connection.execute("CREATE TABLE public.left_over ()")
                await connection.execute("SELECT 1 / 0")

        with pytest.raises(StoreError, match="division"):
            await fail()
        assert [] == await database.fetch("SELECT 1 FROM pg_tables WHERE tablename = 'left_over'")


async def test_a_text_that_postgres_cannot_hold_names_nothing_and_another_type_is_an_error(database_url: str) -> None:
    async with _own(database_url) as database:
        for name in ("nul \x00", "surrogate \ud800"):
            assert [] == await database.look_up("SELECT 1 WHERE $1::text = 'x'", name)
        with pytest.raises(StoreError):
            await database.look_up("SELECT 1 WHERE $1::text = 'x'", 5)


@asynccontextmanager
async def _own(url: str, **settings: Any) -> AsyncIterator[Database]:
    database = Database(url, Settings(**settings))
    async with database.running():
        yield database


async def _use_all(database: Database) -> None:
    """Have five connections at once, so that five lie at hand afterwards."""
    async with AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(database.connection())


async def _cut_all(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(_CUT_OTHERS)
    finally:
        await connection.close()
    # The driver hears of it in the loop.
    await anyio.sleep(0.1)


async def test_a_connection_given_up_while_the_pool_closes_is_no_complaint_of_the_event_loop(database_url: str) -> None:
    """Cancelled twice: first its statement ends, then whoever gives its connection back, to a silent server."""
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    try:
        async with _Relay(database_url).running() as relay:
            database = Database(relay.url, Settings(pool_size=1))
            async with database.running():
                holding = asyncio.Event()

                async def hold() -> None:
                    async with database.connection():
                        holding.set()
                        await anyio.sleep_forever()

                holder = asyncio.create_task(hold())
                await holding.wait()
                relay.answers = asyncio.Event()
                for _ in range(2):
                    holder.cancel()
                    await anyio.wait_all_tasks_blocked()
                assert holder.done()
            gc.collect()
            await anyio.wait_all_tasks_blocked()
    finally:
        loop.set_exception_handler(before)
    assert [] == complaints


class _Relay:
    """Stands between driver and server; while `answers` is not set, the server seems to say nothing."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self.url = ""
        self.answers = asyncio.Event()
        self.answers.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[_Relay]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(SocketAttribute.local_port)
        user = f"{self._url.username}@" if self._url.username else ""
        self.url = self._url._replace(netloc=f"{user}127.0.0.1:{port}").geturl()
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, self._serve)
            yield self
            tasks.cancel_scope.cancel()

    async def _serve(self, client: ByteStream) -> None:
        host, port = self._url.hostname or "127.0.0.1", self._url.port or 5432
        async with client, await anyio.connect_tcp(host, port) as server, anyio.create_task_group() as tasks:
            tasks.start_soon(self._ask, client, server)
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                async for chunk in server:
                    await self.answers.wait()
                    await client.send(chunk)
            tasks.cancel_scope.cancel()

    async def _ask(self, client: ByteStream, server: ByteStream) -> None:
        async for chunk in client:
            await server.send(chunk)
        await server.aclose()
