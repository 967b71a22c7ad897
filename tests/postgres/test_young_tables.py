"""Statements of the journal keep finding rows by their key with plans that were made when there were no rows.

Postgres keeps a plan until the table is analyzed, which is a minute away at best; a plan that walks over a whole
namespace costs nothing at first, and then more with every call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from mcpsession.model import NewEvent
from mcpsession.postgres.backend import PostgresBackend
from tests.postgres.stores import appended, open_session, opened, running_backend

# Nobody analyzes behind our back.
YOUNG = """
ALTER TABLE mcpsession.streams SET (autovacuum_enabled = false);
ALTER TABLE mcpsession.events SET (autovacuum_enabled = false);
"""
# Finished streams of the same producer, and live ones of another's: no index of a part may serve either.
GROW = """
WITH stream AS (
    INSERT INTO mcpsession.streams (namespace, session_id, id, producer, request_ids, last_seq, finished_at)
    SELECT 'default', 'session ' || n % 100, 'stream ' || n, 'p', ARRAY[n::text], 1, CASE WHEN n % 2 = 0 THEN now() END
    FROM generate_series(1, 5000) AS n
    RETURNING session_id, id
)
INSERT INTO mcpsession.events (namespace, session_id, stream_id, seq, message)
SELECT 'default', session_id, id, 1, 'm' FROM stream
"""
READ = """
SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) + (
    SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname IN ('streams', 'events'))
FROM pg_stat_user_tables
WHERE relname IN ('streams', 'events')
"""

Write = Callable[[PostgresBackend, str, int], Awaitable[object]]


async def open_many(backend: PostgresBackend, session: str, number: int) -> object:
    return await backend.log.write(opened(session, f"s{number}", "m", request=str(number), finished=True), producer="p")


async def append_one(backend: PostgresBackend, session: str, number: int) -> object:
    if number == 0:
        await backend.log.write(opened(session, "t", request="of t"), producer="p")
    return await backend.log.write(appended(session, "t", number, "m"), producer="p")


async def append_standalone(backend: PostgresBackend, session: str, number: int) -> object:
    return await backend.log.append_standalone([(session, NewEvent(str(number)))])


@asynccontextmanager
async def watcher(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.mark.parametrize("mode", ["auto", "force_generic_plan"])
@pytest.mark.parametrize("write", [open_many, append_one, append_standalone])
async def test_a_plan_of_the_first_day_reads_no_more_when_there_are_thousands(
    database_url: str, write: Write, mode: str
) -> None:
    async with running_backend(database_url) as backend, watcher(database_url) as connection:
        await connection.execute(YOUNG)
        session = await open_session(backend)
        async with backend._journal.connection() as link:
            await link.execute(f"SET plan_cache_mode = {mode}")
        # The sixth time Postgres decides whether it keeps a plan for any arguments.
        for number in range(8):
            assert [] != await write(backend, session, number)
        await connection.execute(GROW)

        before = await read_so_far(backend, connection)
        await write(backend, session, 8)
        assert await read_so_far(backend, connection) - before < 50


async def read_so_far(backend: PostgresBackend, connection: asyncpg.Connection) -> int:
    """How many rows and entries of an index the journal's connection has read."""
    async with backend._journal.connection() as link:
        await link.execute("SELECT pg_stat_force_next_flush()")
    await connection.execute("SELECT pg_stat_force_next_flush()")
    return int(await connection.fetchval(READ))
