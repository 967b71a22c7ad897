"""The schema: migrated and described ones are equal, forward and back, and by five processes at once."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from anyio import to_thread
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from mcpsession.errors import ConfigurationError, SchemaError, StoreError, StoreUnavailableError
from mcpsession.postgres.migrate import HEAD, LOCK_KEY, check_schema, current_revision, downgrade, migrate
from mcpsession.postgres.tables import METADATA, SCHEMA, Xid8
from tests.conftest import PREFIX, with_database

ROOT = Path(__file__).parents[2]
SMALL = f"{PREFIX}_small"

# Everything that Alembic does not compare is here as well: storage parameters, checks, the whole of each index.
CATALOG = """
SELECT c.relname, 'table', array_to_string(ARRAY(SELECT unnest(c.reloptions) ORDER BY 1), ', ')
FROM pg_class c WHERE c.relnamespace = 'mcpsession'::regnamespace AND c.relkind = 'r'
UNION ALL
SELECT c.relname, a.attname, concat_ws(' ', a.attnum::text, format_type(a.atttypid, a.atttypmod), a.attnotnull::text,
       a.attidentity::text, pg_get_expr(d.adbin, d.adrelid))
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (c.oid, a.attnum)
WHERE c.relnamespace = 'mcpsession'::regnamespace AND c.relkind = 'r' AND a.attnum > 0
UNION ALL
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'mcpsession'::regnamespace
UNION ALL
SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'mcpsession'
"""
OPTIONS = """
SELECT relname, reloptions FROM pg_class
WHERE relnamespace = 'mcpsession'::regnamespace AND relkind = 'r' AND reloptions IS NOT NULL
"""
TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'mcpsession' ORDER BY 1"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def tables(url: str) -> list[str]:
    async with connected(url) as connection:
        return [row["table_name"] for row in await connection.fetch(TABLES)]


async def in_alchemy(url: str, work: Callable[[Connection], Any]) -> Any:
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url), poolclass=NullPool
    )
    async with engine.begin() as connection:
        return await connection.run_sync(work)


async def in_thread(work: Callable[..., None], *arguments: str) -> None:
    with anyio.fail_after(30):
        await to_thread.run_sync(work, *arguments)


# ---- What is migrated is what is described ------------------------------------------------------------------------


async def test_alembic_finds_no_difference_to_the_tables(database_url: str) -> None:
    def compare(connection: Connection) -> list[Any]:
        connection.dialect.ischema_names = {**connection.dialect.ischema_names, "xid8": Xid8}  # type: ignore[attr-defined]
        options = {
            "version_table_schema": SCHEMA,
            "include_schemas": True,
            "include_name": lambda name, kind, _: kind != "schema" or name == SCHEMA,
            "compare_server_default": True,
        }
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), METADATA))

    assert [] == await in_alchemy(database_url, compare)


async def test_the_catalog_is_that_of_the_tables(database_url: str, empty_database_url: str) -> None:
    async with connected(empty_database_url) as connection:
        await connection.execute("CREATE SCHEMA mcpsession")
    await in_alchemy(empty_database_url, METADATA.create_all)

    async def catalog(url: str) -> set[tuple[str, ...]]:
        async with connected(url) as connection:
            return {tuple(row) for row in await connection.fetch(CATALOG) if "alembic_version" not in row[0]}

    described = await catalog(empty_database_url)
    assert len(described) > 80
    assert described == await catalog(database_url)


async def test_rows_that_are_updated_in_place_have_room_and_vacuum_comes_early(database_url: str) -> None:
    async with connected(database_url) as connection:
        rows = await connection.fetch(OPTIONS)
    options = {row["relname"]: dict(option.split("=") for option in row["reloptions"]) for row in rows}
    fillfactors = {name: int(found["fillfactor"]) for name, found in options.items() if "fillfactor" in found}
    assert {"sessions": 75, "streams": 75, "replicas": 50} == fillfactors
    assert {"sessions", "streams", "events", "mail", "replicas"} == options.keys()
    assert all(float(found["autovacuum_vacuum_scale_factor"]) <= 0.02 for found in options.values())
    assert "0.05" == options["events"]["autovacuum_vacuum_insert_scale_factor"]


def test_the_code_expects_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", "mcpsession.migrations:")
    script = ScriptDirectory.from_config(config)
    assert HEAD == script.get_current_head()
    for revision in script.walk_revisions():
        assert re.fullmatch(rf"{revision.revision}_(pre|post)_\w+\.py", Path(revision.path).name)


# ---- Forward and back ---------------------------------------------------------------------------------------------


async def test_downgrade_removes_all_tables_and_upgrade_brings_them_back(database_url: str) -> None:
    assert HEAD == await current_revision(database_url)

    await in_thread(downgrade, database_url)
    assert await current_revision(database_url) is None
    assert ["alembic_version"] == await tables(database_url)

    await in_thread(migrate, database_url)
    assert HEAD == await current_revision(database_url)
    assert {"alembic_version", *(table.name for table in METADATA.tables.values())} == set(await tables(database_url))


async def test_a_second_migration_keeps_the_data(database_url: str) -> None:
    async with connected(database_url) as connection:
        await connection.execute("INSERT INTO mcpsession.replicas (namespace, id) VALUES ('n', 'r')")
        await in_thread(migrate, database_url)
        assert 1 == await connection.fetchval("SELECT count(*) FROM mcpsession.replicas")


async def test_without_topics_news_for_a_few_is_taken_back_rather_than_told_to_all(database_url: str) -> None:
    post = """
        INSERT INTO mcpsession.mail (namespace, sender, kind, session_id, topic, body, expires_at)
        VALUES ('n', 'r', $1, $2, $3, $4, now() + interval '1 hour')
    """
    async with connected(database_url) as connection:
        for body, (kind, session_id, topic) in {
            "news": ("news", None, None),
            "for one": ("news", "session", None),
            "for a topic": ("news", None, "topic"),
            "changed": ("changed", "session", None),
        }.items():
            await connection.execute(post, kind, session_id, topic, body)

    await in_thread(downgrade, database_url, "0002")
    await in_thread(migrate, database_url)

    async with connected(database_url) as connection:
        rows = await connection.fetch("SELECT body FROM mcpsession.mail ORDER BY id")
    assert ["news", "changed"] == [row["body"] for row in rows]


async def test_f101_five_processes_that_migrate_an_empty_database_at_once_all_succeed(empty_database_url: str) -> None:
    """All five are held at the lock before the first begins, and one in six would fail without it."""
    async with connected(empty_database_url) as barrier:
        await barrier.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
        command = [
            sys.executable,
            "-c",
            f"from mcpsession.postgres.migrate import migrate; migrate({empty_database_url!r})",
        ]
        processes = [await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE) for _ in range(5)]
        with anyio.fail_after(30):
            while await barrier.fetchval(WAITING) < 5:  # noqa: ASYNC110 - Postgres has no event for that
                await anyio.sleep(0.01)
            assert [] == await tables(empty_database_url)
            await barrier.execute("SELECT pg_advisory_unlock($1)", LOCK_KEY)
            outputs = [await process.communicate() for process in processes]
    assert [0] * 5 == [process.returncode for process in processes], outputs
    assert HEAD == await current_revision(empty_database_url)


async def test_two_threads_that_migrate_at_once_both_succeed(empty_database_url: str, database_url: str) -> None:
    """Alembic's context is one per process."""
    async with anyio.create_task_group() as group:
        for url in (empty_database_url, database_url):
            group.start_soon(in_thread, migrate, url)
    assert HEAD == await current_revision(empty_database_url)


async def test_alembic_from_the_repository_reads_the_environment(empty_database_url: str) -> None:
    async def alembic(*arguments: str, url: str | None) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "MCPSESSION_URL"}
        environment |= {"MCPSESSION_URL": url} if url else {}
        command = [sys.executable, "-m", "alembic", *arguments]
        done = await anyio.run_process(command, cwd=ROOT, env=environment, check=False, stderr=subprocess.STDOUT)
        return done.stdout.decode()

    await alembic("upgrade", "head", url=empty_database_url)
    assert HEAD == await current_revision(empty_database_url)
    assert "No new upgrade operations detected" in await alembic("check", url=empty_database_url)
    assert "CREATE TABLE mcpsession.sessions" in await alembic("upgrade", "head", "--sql", url=None)
    refused = await alembic("upgrade", "head", url=None)
    assert "FAILED: no database is given; set MCPSESSION_URL=postgresql://" in refused
    assert "Traceback" not in refused
    away = await alembic("upgrade", "head", url="postgresql://user:secret@127.0.0.1:1/db")
    assert "FAILED: the session store is away: no connection to Postgres at 127.0.0.1:1" in away


# ---- What is not as it should be ----------------------------------------------------------------------------------


async def test_a_missing_schema_is_refused_with_the_command_that_makes_it(empty_database_url: str) -> None:
    async with connected(empty_database_url) as connection:
        with pytest.raises(SchemaError) as refused:
            await check_schema(connection, url="postgresql://user:secret@host:5432/db")
    assert (
        "the database has no mcpsession schema; run: mcpsession migrate --url postgresql://user:***@host:5432/db"
        == str(refused.value)
    )


async def test_a_schema_taken_back_counts_as_missing(database_url: str) -> None:
    await in_thread(downgrade, database_url)
    async with connected(database_url) as connection:
        with pytest.raises(SchemaError, match="has no mcpsession schema; run: mcpsession migrate"):
            await check_schema(connection)


async def test_the_schema_of_this_version_is_accepted(database_url: str) -> None:
    async with connected(database_url) as connection:
        await check_schema(connection)


async def test_a_newer_schema_is_neither_used_nor_migrated(database_url: str) -> None:
    async with connected(database_url) as connection:
        await connection.execute("UPDATE mcpsession.alembic_version SET version_num = '9999'")
        message = rf"is at revision '9999', this version expects '{HEAD}'; .*; if it is newer, upgrade the package"
        with pytest.raises(SchemaError, match=message):
            await check_schema(connection)
    with pytest.raises(SchemaError, match=message):
        await in_thread(migrate, database_url)


@pytest.mark.parametrize("step", [migrate, downgrade])
async def test_an_unknown_revision_is_named(database_url: str, step: Callable[[str, str], None]) -> None:
    with pytest.raises(ConfigurationError, match=r"revision='nonsense' is not allowed: .*; 'head' is the newest"):
        await in_thread(step, database_url, "nonsense")


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("mysql://u:secret@h/d", ConfigurationError, r"mysql://u:\*\*\*@h/d' is not allowed: it must be postgresql://"),
        ("postgresql://u:secret@127.0.0.1:1/d", StoreUnavailableError, r"no connection to Postgres at 127\.0\.0\.1:1 "),
    ],
)
async def test_a_url_that_leads_nowhere_is_a_clear_error(url: str, error: type[Exception], message: str) -> None:
    for step in (migrate, downgrade):
        with pytest.raises(error, match=message) as refused:
            await in_thread(step, url)
        assert "secret" not in str(refused.value)


async def test_a_user_who_may_not_create_the_schema_is_told_so(empty_database_url: str) -> None:
    async with role(empty_database_url) as url:
        with pytest.raises(StoreError, match=r"permission denied for database .* \(SQLSTATE 42501\)"):
            await in_thread(migrate, url)


async def test_a_user_who_may_only_use_a_prepared_schema_can_migrate(empty_database_url: str) -> None:
    async with role(empty_database_url) as url, connected(empty_database_url) as connection:
        await connection.execute(f"CREATE SCHEMA mcpsession AUTHORIZATION {SMALL}")
        await in_thread(migrate, url)
        assert HEAD == await current_revision(url)


async def test_calling_it_on_an_event_loop_names_the_way_out(database_url: str) -> None:
    with pytest.raises(RuntimeError, match=r"call it in a thread: await anyio\.to_thread\.run_sync\(migrate, url\)"):
        migrate(database_url)


@asynccontextmanager
async def role(url: str) -> AsyncIterator[str]:
    """A URL of a user who may do nothing but connect."""
    async with connected(url) as connection:
        await connection.execute(f"CREATE ROLE {SMALL} LOGIN PASSWORD 'small'")
        try:
            credentials, _, place = url.partition("@")
            scheme = credentials.partition("://")[0]
            yield f"{scheme}://{SMALL}:small@{place or credentials.partition('://')[2]}"
        finally:
            await connection.execute(f"DROP OWNED BY {SMALL}; DROP ROLE {SMALL}")


def test_another_database_of_the_same_server_keeps_the_rest_of_the_url() -> None:
    url = "postgresql://u:p@h:1/d?target_session_attrs=read-write"
    assert "postgresql://u:p@h:1/x?target_session_attrs=read-write" == with_database(url, "x")
