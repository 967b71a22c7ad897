"""`migrate --distributed`: in which order, once, all or nothing, and why not. Citus itself cannot be had here."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import asyncpg
import pytest
from anyio import to_thread

from mcpsession.errors import DistributionError, SchemaError, StoreUnavailableError
from mcpsession.postgres import distribution
from mcpsession.postgres.distribution import DISTRIBUTED, distribute, statements, statements_on_distributed
from mcpsession.postgres.migrate import downgrade, migrate
from mcpsession.postgres.tables import METADATA
from tests.postgres.citus import INSTALL, REFUSE_SUBSCRIPTIONS, asked

ALL = [
    "mcpsession.sessions by id with none",
    "mcpsession.streams by session_id with mcpsession.sessions",
    "mcpsession.events by session_id with mcpsession.sessions",
    "mcpsession.subscriptions by session_id with mcpsession.sessions",
]


@pytest.fixture
async def plain(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def citus(plain: asyncpg.Connection[asyncpg.Record]) -> asyncpg.Connection[asyncpg.Record]:
    """A connection to the database, which has what looks like Citus."""
    await plain.execute(INSTALL)
    return plain


async def told(url: str) -> list[str]:
    """Distribute, and return what was said."""
    said: list[str] = []
    with anyio.fail_after(30):
        await to_thread.run_sync(distribute, url, said.append)
    return said


async def test_what_belongs_to_a_session_is_distributed_by_it_in_one_group(database_url: str, citus):
    said = await told(database_url)

    assert ALL == await asked(citus)
    count = len(statements_on_distributed())
    assert [
        "sessions is distributed by id",
        "streams is distributed by session_id",
        "events is distributed by session_id",
        "subscriptions is distributed by session_id",
        f"Citus plans all {count} statements on these tables",
    ] == [one.partition(" (")[0] for one in said]


async def test_the_second_time_nothing_is_moved_and_everything_is_looked_at(database_url: str, citus):
    await told(database_url)

    assert [f"Citus plans all {len(statements_on_distributed())} statements on these tables"] == await told(
        database_url
    )
    assert ALL == await asked(citus)


async def test_of_four_processes_at_once_one_works(database_url: str, citus):
    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(told, database_url)
    assert ALL == await asked(citus)


async def test_what_was_left_over_is_done(database_url: str, citus):
    """An earlier release knew fewer tables, or somebody moved the large ones by hand."""
    await citus.execute("SELECT create_distributed_table('mcpsession.sessions', 'id', colocate_with => 'none')")
    await told(database_url)
    assert ALL == await asked(citus)


async def test_without_citus_the_remedy_is_named(database_url: str):
    with pytest.raises(DistributionError, match=r"does not have the extension citus; install it on .* or stay with"):
        await told(database_url)


async def test_an_old_citus_is_refused(database_url: str, citus):
    await citus.execute("UPDATE pg_extension SET extversion = '10.2-4' WHERE extname = 'citus'")
    with pytest.raises(DistributionError, match=r"Citus 10\.2-4 is too old; upgrade it to 11 or newer"):
        await told(database_url)


async def test_a_worker_is_refused(database_url: str, citus):
    await citus.execute("UPDATE pg_dist_local_group SET groupid = 3")
    with pytest.raises(DistributionError, match="this is a worker of Citus; give the URL of the coordinator"):
        await told(database_url)


async def test_the_schema_comes_first(empty_database_url: str):
    with pytest.raises(SchemaError, match="run: mcpsession migrate"):
        await told(empty_database_url)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "'mcpsession.streams', 'distributed', 'namespace', 7",
            "streams is a distributed table, distributed by namespace already",
        ),
        (
            "'mcpsession.events', 'reference', NULL, 7",
            r"events is a reference table already.*undistribute_table\('mcpsession\.ev",
        ),
        ("'mcpsession.mail', 'distributed', 'id', 7", "mail is a distributed table, distributed by id already"),
        ("'mcpsession.events', 'distributed', 'session_id', 7", "sessions is not distributed, but others are"),
    ],
)
async def test_what_somebody_distributed_otherwise_is_refused(database_url: str, citus, row: str, message: str):
    await citus.execute(f"INSERT INTO citus_tables VALUES ({row})")
    with pytest.raises(DistributionError, match=message):
        await told(database_url)
    assert [] == await asked(citus)


async def test_tables_in_several_groups_are_refused(database_url: str, citus):
    await citus.execute(
        "INSERT INTO citus_tables VALUES ('mcpsession.sessions', 'distributed', 'id', 7), "
        "('mcpsession.streams', 'distributed', 'session_id', 8)"
    )
    with pytest.raises(DistributionError, match=r"not together; .*update_distributed_table_colocation"):
        await told(database_url)


async def test_tables_that_citus_merely_knows_may_stay(database_url: str, citus):
    await citus.execute("INSERT INTO citus_tables VALUES ('mcpsession.mail', 'local', NULL, NULL)")
    await told(database_url)
    assert ALL == await asked(citus)


async def test_too_much_data_is_not_moved_while_writers_wait(database_url: str, citus, monkeypatch):
    monkeypatch.setattr(distribution, "MOST_BYTES", 1000)
    with pytest.raises(DistributionError, match=r"hold 0\.0 GiB, .*create_distributed_table_concurrently"):
        await told(database_url)
    assert [] == await asked(citus)


async def test_a_running_replica_is_in_the_way_and_a_dead_one_is_not(database_url: str, citus):
    await citus.execute("INSERT INTO mcpsession.replicas (namespace, id, dead_at) VALUES ('n', 'dead', now())")
    await citus.execute(
        "INSERT INTO mcpsession.replicas (namespace, id, beaten_at) VALUES ('n', 'killed', now() - interval '1 min')"
    )
    await citus.execute("INSERT INTO mcpsession.replicas (namespace, id) VALUES ('n', 'lives')")
    with pytest.raises(DistributionError, match="1 replicas run on these tables; stop them until this is done"):
        await told(database_url)
    await citus.execute("DELETE FROM mcpsession.replicas WHERE id = 'lives'")
    await told(database_url)
    assert ALL == await asked(citus)


async def test_a_statement_that_is_refused_takes_everything_back(database_url: str, citus):
    await citus.execute(REFUSE_SUBSCRIPTIONS)
    with pytest.raises(DistributionError) as refused:
        await told(database_url)
    message = str(refused.value)
    assert "so all was left as it was" in message
    assert "  subscriptions.URIS: column u.uri does not exist" in message
    assert "sessions.GET" not in message
    assert message.endswith("use one database per tenant instead (docs/scaling.md)")
    assert [] == await asked(citus)
    assert 0 == await citus.fetchval("SELECT count(*) FROM citus_tables")
    assert await citus.fetchval(
        "SELECT true FROM pg_attribute WHERE attrelid = 'mcpsession.subscriptions'::regclass AND attname = 'uri'"
    )


async def test_a_table_in_use_is_not_waited_for_for_long(database_url: str, citus, monkeypatch):
    monkeypatch.setattr(distribution, "PREPARE", "SET LOCAL lock_timeout = '50ms'")
    async with citus.transaction():
        await citus.execute("LOCK TABLE mcpsession.streams")
        with pytest.raises(StoreUnavailableError, match="a lock was not free in time"):
            await told(database_url)
    assert [] == await asked(citus)


async def test_calling_it_on_an_event_loop_names_the_way_out(database_url: str):
    with pytest.raises(RuntimeError, match=r"distribute\(\) blocks; .*to_thread\.run_sync\(distribute, url\)"):
        distribute(database_url)


async def test_a_distributed_schema_is_migrated_as_any_other(database_url: str, citus):
    """Citus passes such commands on to the shards; test_citus_rules has which of them it would not."""
    await told(database_url)
    await to_thread.run_sync(migrate, database_url)
    assert ALL == await asked(citus)


async def test_after_a_downgrade_it_is_begun_again(database_url: str, citus):
    await told(database_url)
    await to_thread.run_sync(downgrade, database_url)
    # Citus forgets a table that is dropped.
    await citus.execute("TRUNCATE citus_tables, asked")
    await to_thread.run_sync(migrate, database_url)
    await told(database_url)
    assert ALL == await asked(citus)


def test_every_key_and_unique_index_has_the_column_that_its_table_is_distributed_by():
    for name, column in DISTRIBUTED.items():
        table = METADATA.tables[f"mcpsession.{name}"]
        assert column in table.primary_key.columns
        assert all(column in index.columns for index in table.indexes if index.unique)


def test_every_table_that_has_a_session_in_its_key_is_distributed():
    with_session = {table.name for table in METADATA.tables.values() if "session_id" in table.primary_key.columns}
    assert {"sessions"} | with_session == DISTRIBUTED.keys()


def test_each_statement_is_found_once():
    found = statements()
    assert len(found) == len(set(found.values()))
    assert {"removal.LOCK_STREAMS", "mail.NEWS", "requests.RUNNING_OF_SESSION"} <= found.keys()
    assert "mail.SEND" not in statements_on_distributed()
