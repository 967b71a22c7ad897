"""Postgres restarts, is away, cuts, refuses or hangs: what clients see is bounded and clear, and nothing is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import anyio
import asyncpg
import httpx2
import pytest
from anyio import to_thread

from examples.cluster import Cluster
from mcpsession.postgres.migrate import migrate
from tests.cluster.conftest import Files, http_client
from tests.cluster.promises import REFUSED_WITHIN, knock, promised, told_to_come_back, watching
from tests.cluster.under_load import loaded
from tests.standby import PairServer

STATEMENT_TIMEOUT = 2.0
JOURNAL_AGE = 2.0
ENV = {
    "MCPSESSION_STATEMENT_TIMEOUT": f"{STATEMENT_TIMEOUT:g}",
    "MCPSESSION_JOURNAL_AGE": f"{JOURNAL_AGE:g}",
}
# Few, so that a test can hold them all.
MAX_CONNECTIONS = 60
SETTINGS = {"fsync": "off", "max_connections": str(MAX_CONNECTIONS), "shared_buffers": "64MB"}

CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'mcpsession%'"


@pytest.fixture(scope="module")
def server() -> Iterator[PairServer]:
    """The module's own, to be broken."""
    with PairServer(settings=SETTINGS) as server:
        migrate(server.url)
        yield server


@pytest.fixture(scope="module")
def cluster_database(server: PairServer) -> str:
    return server.url


@pytest.fixture
async def http(cluster: Cluster) -> AsyncIterator[httpx2.AsyncClient]:
    async with http_client(cluster.url) as client:
        # A call that was taken just before an outage shows its first byte after it.
        client.timeout = 60
        yield client


@pytest.fixture
async def admin(server: PairServer) -> AsyncIterator[asyncpg.Connection]:
    """A connection from before the trouble."""
    connection = await asyncpg.connect(server.url)
    yield connection
    with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        await connection.close(timeout=2)


async def test_f98_a_restart_of_postgres_is_no_event_to_anyone(
    cluster: Cluster, http: httpx2.AsyncClient, files: Files, server: PairServer
) -> None:
    async with promised(cluster, http, files) as promises, watching(cluster) as watch:
        await to_thread.run_sync(server.stop)
        promises.go_on()
        await to_thread.run_sync(server.start)
        await promises.kept()
        await watch.until("ok", within=8)
    assert watch.slowest < 1


async def test_f98_an_outage_of_half_a_minute_ends_no_call_kills_nobody_and_stalls_no_event_loop(
    cluster: Cluster, http: httpx2.AsyncClient, files: Files, server: PairServer
) -> None:
    """First it hangs, then it is gone: the one is found out by timeouts, the other at once."""
    async with (
        promised(cluster, http, files) as promises,
        watching(cluster) as watch,
        loaded(cluster, http, ticks={0.2: 50, 0.5: 64}) as load,
    ):
        server.freeze()
        promises.go_on()
        hung = await knock(promises, 10)
        assert ["away"] * 3 == watch.now

        await to_thread.run_sync(server.kill)
        gone = await knock(promises, 20)
        await told_to_come_back(promises, replica=2)
        assert ["away"] * 3 == watch.now

        await to_thread.run_sync(server.start)
        await watch.until("ok", within=10)
        await promises.kept()
        await load.proven()

    assert {503} == set(gone.statuses)
    assert gone.slowest < REFUSED_WITHIN
    assert 503 in hung.statuses
    assert hung.slowest < 2 * STATEMENT_TIMEOUT + REFUSED_WITHIN
    assert watch.slowest < 1


async def test_f98_connections_cut_again_and_again_under_load_cost_no_event_and_no_count(
    cluster: Cluster, http: httpx2.AsyncClient, files: Files, admin: asyncpg.Connection
) -> None:
    cuts = 0
    async with (
        promised(cluster, http, files) as promises,
        watching(cluster) as watch,
        loaded(cluster, http, ticks={0.2: 30}) as load,
    ):
        promises.go_on()
        for _ in range(20):
            cuts += len(await admin.fetch(CUT))
            await anyio.sleep(0.25)
        await promises.kept()
        await load.proven()
    assert cuts > 3 * 20
    assert watch.slowest < 1


async def test_f98_when_others_hold_every_connection_new_requests_are_refused_and_all_recover(
    cluster: Cluster, http: httpx2.AsyncClient, files: Files, server: PairServer, admin: asyncpg.Connection
) -> None:
    others: list[asyncpg.Connection] = []

    async def take_one() -> None:
        with suppress(asyncpg.TooManyConnectionsError, ConnectionError):
            others.append(await asyncpg.connect(server.url, timeout=5))

    async with promised(cluster, http, files) as promises, watching(cluster) as watch:
        with anyio.fail_after(20):
            # Whatever a replica lets go of, somebody else takes.
            while await admin.fetch(CUT):
                async with anyio.create_task_group() as tasks:
                    for _ in range(MAX_CONNECTIONS - len(others)):
                        tasks.start_soon(take_one)
        promises.go_on()
        await watch.until("away", within=8)
        full = await knock(promises, 1.5)
        await told_to_come_back(promises, replica=1)

        for other in others:
            await other.close()
        await watch.until("ok", within=10)
        await promises.kept()
    assert {503} == set(full.statuses)
    assert full.slowest < REFUSED_WITHIN
    assert watch.slowest < 1


async def test_f98_a_primary_that_takes_no_writes_is_away_until_it_takes_them_again(
    cluster: Cluster, http: httpx2.AsyncClient, files: Files, admin: asyncpg.Connection
) -> None:
    """It answers pings and reads all the while."""
    async with (
        promised(cluster, http, files) as promises,
        watching(cluster) as watch,
        loaded(cluster, http, ticks={0.2: 28}) as load,
    ):
        await set_read_only(admin, "on")
        promises.go_on()
        await watch.until("away", within=8)
        refused = await knock(promises, 1.5)

        await set_read_only(admin, "off")
        await watch.until("ok", within=10)
        await promises.kept()
        await load.proven()
    assert {503} == set(refused.statuses)
    assert refused.slowest < REFUSED_WITHIN
    assert watch.slowest < 1


async def set_read_only(admin: asyncpg.Connection, value: str) -> None:
    await admin.execute("SET default_transaction_read_only = off")
    await admin.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    await admin.execute("SELECT pg_reload_conf()")


async def test_f98_where_the_disk_is_full_events_wait_and_new_requests_are_refused_before_memory_is(
    cluster: Cluster, http: httpx2.AsyncClient, files: Files, admin: asyncpg.Connection
) -> None:
    async with (
        promised(cluster, http, files) as promises,
        watching(cluster) as watch,
        loaded(cluster, http, ticks={0.2: 28}) as load,
    ):
        await admin.execute(FULL)
        promises.go_on()
        await watch.until("degraded", within=JOURNAL_AGE + 6)
        full = await knock(promises, 1.5)

        await admin.execute("DROP TRIGGER full_disk ON mcpsession.events; DROP FUNCTION mcpsession.full_disk()")
        await watch.until("ok", within=8)
        await promises.kept()
        await load.proven()
    assert {503} == set(full.statuses)
    assert full.slowest < REFUSED_WITHIN
    assert watch.slowest < 1


FULL = """
CREATE FUNCTION mcpsession.full_disk() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION USING ERRCODE = ''53100'', MESSAGE = ''could not extend file: No space left''; END';
CREATE TRIGGER full_disk BEFORE INSERT ON mcpsession.events FOR EACH ROW EXECUTE FUNCTION mcpsession.full_disk()
"""


async def test_f98_statements_that_time_out_at_somebodys_lock_are_repeated_until_it_is_gone(
    cluster: Cluster, http: httpx2.AsyncClient, files: Files, admin: asyncpg.Connection
) -> None:
    async with (
        promised(cluster, http, files) as promises,
        watching(cluster) as watch,
        loaded(cluster, http, ticks={0.2: 28}) as load,
    ):
        async with admin.transaction():
            await admin.execute("LOCK TABLE mcpsession.events IN ACCESS EXCLUSIVE MODE")
            promises.go_on()
            await watch.until("degraded", within=JOURNAL_AGE + STATEMENT_TIMEOUT + 4)
            locked = await knock(promises, 1.5)
            await told_to_come_back(promises, replica=1, within=2 * STATEMENT_TIMEOUT + REFUSED_WITHIN)

        await watch.until("ok", within=8)
        await promises.kept()
        await load.proven()
    assert {503} == set(locked.statuses)
    assert locked.slowest < STATEMENT_TIMEOUT + REFUSED_WITHIN
    assert watch.slowest < 1
