"""What the store is measured against: its own statements over bare asyncpg, the rows fetched and nothing made of them.

The pool is as large as the layer's and connects with the same options. Those include that a release asks nothing of the
server; asyncpg's default of a reset with each release would make this side look slower than it has to be.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import asyncpg

from benchmarks.store_layer import WrongResultError
from benchmarks.store_rows import METADATA, STATE
from mcpsession.model import new_replica_id
from mcpsession.postgres.address import Address
from mcpsession.postgres.creation import CREATE
from mcpsession.postgres.directory import PAGE, RECORDS
from mcpsession.postgres.events import ORPHANS, UNFINISHED
from mcpsession.postgres.pool import BEGIN
from mcpsession.postgres.reaping import (
    DELETE_REPLICAS,
    EXPIRED_CONTROL,
    EXPIRED_MAIL,
    EXPIRED_SESSIONS,
    EXPIRED_STREAMS,
)
from mcpsession.postgres.removal import LOCK_SESSIONS, LOCK_STREAMS, REMOVE
from mcpsession.postgres.requests import SWEEP
from mcpsession.postgres.sessions import END, LOAD_STATE, SAVE_STATE, TOUCH
from mcpsession.settings import Settings

# Somebody to tell of an end, as on the layer's side.
JOIN = """
INSERT INTO mcpsession.replicas (namespace, id)
VALUES ($1, $2)
"""

_METADATA, _STATE = json.dumps(METADATA), json.dumps(STATE)
_PAGE = 1000


class Raw:
    """Each operation with the layer's statements, in the layer's order, with the layer's arguments."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", settings: Settings, key: str) -> None:
        self.key = key
        self.title = f"asyncpg, the same statements; pool of {settings.pool_size}, no reset on release"
        self.namespace = settings.namespace
        self.pool = pool
        self.connections = settings.pool_size
        self.connection = pool.acquire
        self._replica = new_replica_id()
        self._settings = settings

    @classmethod
    @asynccontextmanager
    async def running(cls, url: str, settings: Settings, *, key: str = "raw") -> AsyncIterator[Self]:
        """A pool, all of it connected."""
        size, options = settings.pool_size, Address(url, settings).options
        async with asyncpg.create_pool(url, min_size=size, max_size=size, **options) as pool:
            side = cls(pool, settings, key)
            await pool.execute(JOIN, side.namespace, side._replica)
            yield side

    async def create(self, session_id: str) -> None:
        settings = self._settings
        await self.pool.fetch(
            CREATE,
            self.namespace,
            [session_id],
            [1],
            [""],
            ["streamable-http"],
            [""],
            [None],
            [False],
            [None],
            [None],
            [_METADATA],
            [_STATE],
            [settings.session_ttl],
            settings.touch_flush,
            settings.touch_step,
            None,
            [],
            [],
            [],
            settings.stream_ttl,
            [1],
        )

    async def get(self, session_id: str) -> None:
        if not await self.pool.fetch(RECORDS, self.namespace, [session_id], None, False):
            raise WrongResultError(self.title, "get", [])

    async def touch(self, session_id: str) -> None:
        settings = self._settings
        if not await self.pool.fetch(
            TOUCH, self.namespace, [session_id], settings.touch_flush, settings.touch_step, None
        ):
            raise WrongResultError(self.title, "touch", [])

    async def retrieve(self, session_id: str) -> None:
        await self.touch(session_id)
        await self.get(session_id)

    async def update(self, session_id: str) -> None:
        settings = self._settings
        loaded = await self.pool.fetch(LOAD_STATE, self.namespace, session_id, None)
        if not loaded:
            raise WrongResultError(self.title, "update", loaded)
        await self.pool.fetch(
            SAVE_STATE,
            self.namespace,
            session_id,
            loaded[0]["version"],
            _STATE,
            None,
            settings.touch_flush,
            settings.touch_step,
        )

    async def delete(self, session_id: str) -> None:
        ended = await self.pool.fetch(
            END,
            self.namespace,
            [session_id],
            None,
            None,
            "deleted",
            None,
            self._replica,
            self._settings.mail_ttl,
            None,
        )
        if await self._remove(ended, self._replica) != 1:
            raise WrongResultError(self.title, "delete", ended)

    async def walk(self, number: int) -> None:
        listed, after = 0, ""
        while listed < number:
            page = await self.pool.fetch(PAGE, self.namespace, None, None, None, None, None, after, _PAGE)
            if not page:
                raise WrongResultError(self.title, f"list of {number:,}", listed)
            listed, after = listed + len(page), page[-1]["id"]

    async def reap(self, number: int) -> None:
        pool, batch = self.pool, self._settings.reap_batch
        await pool.fetch(ORPHANS, self.namespace, batch)
        await pool.fetch(SWEEP, self.namespace, batch)
        await pool.fetch(UNFINISHED, self.namespace, self._replica)
        reaped, last = 0, batch
        while last == batch:
            expired = await pool.fetch(EXPIRED_SESSIONS, self.namespace, batch, False)
            last = await self._remove(expired, None) if expired else 0
            # Nothing of these has expired: the streams are younger than that, and there is no old mail or control log.
            await pool.fetch(EXPIRED_STREAMS, self.namespace, batch)
            await pool.fetch(EXPIRED_MAIL, self.namespace, batch)
            await pool.fetch(DELETE_REPLICAS, self.namespace, batch)
            await pool.fetch(EXPIRED_CONTROL, self.namespace, batch)
            reaped += last
        if reaped != number:
            raise WrongResultError(self.title, f"reap of {number:,}", reaped)

    async def _remove(self, dead: list[asyncpg.Record], by: str | None) -> int:
        ids = [row["id"] for row in dead]
        async with self.pool.acquire() as connection:
            await connection.execute(BEGIN)
            rows = await connection.fetch(LOCK_SESSIONS, self.namespace, ids, by)
            ours = [row["id"] for row in rows]
            await connection.execute(LOCK_STREAMS, self.namespace, ours)
            await connection.execute(REMOVE, self.namespace, ours, self._settings.tombstone_ttl)
            await connection.execute("COMMIT")
        return len(ours)
