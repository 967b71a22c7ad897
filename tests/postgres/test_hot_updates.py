"""Touches stay out of the indexes: nearly all of them are HOT updates, which need no index entry and no vacuum.

`expires_at` is indexed, so a touch that moves it cannot be one. It moves in steps: by default every 60 s, while touches
are flushed every 5 s, so one in twelve moves it and 91.7 % is the most there can be. Here time is scaled down.

The other condition is room on the row's page for its next version: 500 sessions of a page each other's neighbours, all
touched in one statement, want it at once. Seen with this test's load: fillfactor 100: 9 % in the first 24 flushes, and
the table grows from 19 to 1,300 pages; 75: 89 % in the first 24, while rows spread from 25 to 69 pages, then 91.7 %;
50: 91.7 % from the start, on twice the pages. With one session in five active 75 is at the most from the start, too.
"""

from __future__ import annotations

import json

import anyio
import asyncpg

from mcpsession.postgres.backend import PostgresBackend
from mcpsession.records import Admission, Session
from mcpsession.settings import Settings
from tests.postgres.stores import running_backend

DEFAULTS = Settings()
SCALE = 100
FLUSH, STEP = DEFAULTS.touch_flush / SCALE, DEFAULTS.touch_step / SCALE
TTL = 3600.0 / SCALE
SESSIONS = [f"session-{n:04}" for n in range(500)]
"""As many as a replica touches in one statement."""
SPREAD = 24
MEASURED = 72

UPDATES = """
SELECT n_tup_upd AS all, n_tup_hot_upd AS hot
FROM pg_stat_user_tables
WHERE schemaname = 'mcpsession' AND relname = 'sessions'
"""


async def test_more_than_nine_of_ten_touches_are_hot(database_url: str) -> None:
    async with running_backend(database_url, touch_flush=FLUSH, touch_step=STEP, pool_size=1) as backend:
        await enter(backend)
        await touch(backend, SPREAD)
        assert await hot_share(database_url, backend, MEASURED) > 0.9


async def test_without_room_on_their_pages_they_would_not_be(database_url: str) -> None:
    """Why the table has its fillfactor."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("ALTER TABLE mcpsession.sessions SET (fillfactor = 100)")
    await connection.close()
    async with running_backend(database_url, touch_flush=FLUSH, touch_step=STEP, pool_size=1) as backend:
        await enter(backend)
        assert await hot_share(database_url, backend, SPREAD) < 0.5


async def enter(backend: PostgresBackend) -> None:
    client = json.dumps({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c" * 40}})
    new = [Session(session_id, ttl=TTL, client_params=client, initialized=True) for session_id in SESSIONS]
    await backend.sessions.create(new, admission=Admission())


async def touch(backend: PostgresBackend, flushes: int) -> None:
    """Touch all, so many times, as a replica does whose sessions are all active."""
    due = anyio.current_time()
    for _ in range(flushes):
        assert len(SESSIONS) == len(await backend.sessions.touch(SESSIONS))
        due += FLUSH
        await anyio.sleep_until(due)


async def hot_share(url: str, backend: PostgresBackend, flushes: int) -> float:
    """Which share of the updates of so many flushes was HOT."""
    before = await updates(url, backend)
    await touch(backend, flushes)
    after = await updates(url, backend)
    assert flushes * len(SESSIONS) == after["all"] - before["all"]
    return float((after["hot"] - before["hot"]) / (after["all"] - before["all"]))


async def updates(url: str, backend: PostgresBackend) -> asyncpg.Record:
    # Counts are published by the connection that made them, there is but one, and seen by one that looks anew.
    async with backend._database.connection() as connection:
        await connection.execute("SELECT pg_stat_force_next_flush()")
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow(UPDATES)
    finally:
        await connection.close()
    assert row is not None
    return row
