"""Connections to Postgres: a pool for requests.

Costs one round trip a statement: no reset on release, our SQL leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import anyio
import asyncpg
from asyncpg.pool import PoolConnectionProxy

from mcpsession.errors import LayerClosedError, MCPSessionError, StoreError, StoreUnavailableError
from mcpsession.postgres.address import DRIVER_ERRORS, Address
from mcpsession.settings import Settings

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

# How long a clean-up may hold up whoever leaves; after it the socket is simply dropped.
_CLOSE_DEADLINE = 2.0
# A NUL character, which the server refuses; a lone surrogate, which the driver cannot encode.
_UNSTORABLE = ("22021", "22000")


class Statements:
    """One statement at a time, over whatever gives a connection."""

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        raise NotImplementedError

    async def fetch(self, statement: str, *args: object) -> list[asyncpg.Record]:
        async with self.connection() as connection:
            return await connection.fetch(statement, *args)

    async def fetchrow(self, statement: str, *args: object) -> asyncpg.Record | None:
        async with self.connection() as connection:
            return await connection.fetchrow(statement, *args)

    async def execute(self, statement: str, *args: object) -> None:
        async with self.connection() as connection:
            await connection.execute(statement, *args)


class Database(Statements):
    """The pool. Every statement waits for a connection, and for its answer, only so long."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.address = Address(url, settings)
        self._settings = settings
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._at_hand: list[PoolConnectionProxy[asyncpg.Record]] = []
        self._waiting = 0

    def __repr__(self) -> str:
        return f"<Database {self.address.where} {'open' if self._pool else 'closed'}>"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connected while inside.

        Raises StoreUnavailableError if the database cannot be reached.
        """
        self._pool = await self._open()
        try:
            yield
        finally:
            pool, self._pool = self._pool, None
            with anyio.CancelScope(shield=True):
                with anyio.move_on_after(_CLOSE_DEADLINE):
                    await self._empty_hands(pool)
                    await pool.close()
                self._at_hand.clear()
                pool.terminate()

    async def _open(self) -> asyncpg.Pool[asyncpg.Record]:
        size = self._settings.pool_size
        try:
            return await asyncpg.create_pool(self.address.url, min_size=1, max_size=size, **self.address.options)
        except DRIVER_ERRORS as error:
            raise self.address.translate(error) from error
        except ValueError:
            raise self.address.malformed() from None

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of the pool, for one statement or one transaction."""
        pool = self._opened()
        try:
            connection = await self._take(pool)
            try:
                yield connection
            except BaseException:
                await self._drop(pool, connection)
                raise
            await self._give_back(pool, connection)
        except Exception as error:
            await self._translate(pool, error)
            raise

    async def fetch(self, statement: str, *args: object) -> list[asyncpg.Record]:
        # The way of nearly every statement: as above, without the generator, which a profile showed.
        pool = self._opened()
        try:
            connection = await self._take(pool)
            try:
                rows = await connection.fetch(statement, *args)
            except BaseException:
                await self._drop(pool, connection)
                raise
            await self._give_back(pool, connection)
        except Exception as error:
            await self._translate(pool, error)
            raise
        return rows

    async def fetchrow(self, statement: str, *args: object) -> asyncpg.Record | None:
        rows = await self.fetch(statement, *args)
        return rows[0] if rows else None

    async def look_up(self, statement: str, *args: object) -> list[asyncpg.Record]:
        """Fetch what texts name: one that Postgres cannot hold names nothing."""
        try:
            return await self.fetch(statement, *args)
        except StoreError as error:
            if error.sqlstate in _UNSTORABLE:
                return []
            raise

    async def look_up_one(self, statement: str, *args: object) -> asyncpg.Record | None:
        """The same, for one row."""
        rows = await self.look_up(statement, *args)
        return rows[0] if rows else None

    def _opened(self) -> asyncpg.Pool[asyncpg.Record]:
        if self._pool is None:
            raise LayerClosedError
        return self._pool

    # The driver's pool makes a task and a timer for each acquire and release, which cost half of a small statement. So
    # what comes back sound stays at hand, unless somebody waits for it there.

    async def _take(self, pool: asyncpg.Pool[asyncpg.Record]) -> PoolConnectionProxy[asyncpg.Record]:
        while self._at_hand:
            connection = self._at_hand.pop()
            if not connection.is_closed():
                return connection
            await pool.release(connection)
        self._waiting += 1
        try:
            return await pool.acquire(timeout=self._settings.acquire_timeout)
        except TimeoutError as error:
            if pool.get_idle_size() or pool.get_size() < self._settings.pool_size:
                raise
            raise StoreUnavailableError(
                f"none of {self._settings.pool_size} connections was free in {self._settings.acquire_timeout:g} s",
                "raise pool_size, or look for slow statements",
            ) from error
        finally:
            self._waiting -= 1

    async def _give_back(
        self, pool: asyncpg.Pool[asyncpg.Record], connection: PoolConnectionProxy[asyncpg.Record]
    ) -> None:
        if self._waiting or pool is not self._pool:
            # Nothing is under way on it: this waits for nothing, so it needs no deadline.
            await pool.release(connection)
        else:
            self._at_hand.append(connection)

    async def _drop(self, pool: asyncpg.Pool[asyncpg.Record], connection: PoolConnectionProxy[asyncpg.Record]) -> None:
        # Cancellation-safe as it is: asyncpg shields the release, and drops the socket after the deadline.
        await pool.release(connection, timeout=_CLOSE_DEADLINE)

    async def _empty_hands(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        while self._at_hand:
            await pool.release(self._at_hand.pop())

    async def _translate(self, pool: asyncpg.Pool[asyncpg.Record], error: Exception) -> None:
        """Raise ours for one of the driver's; return if it is ours already (some are OSErrors) or no driver's."""
        if isinstance(error, MCPSessionError) or not isinstance(error, DRIVER_ERRORS):
            return
        if getattr(error, "sqlstate", None) == "25006":
            # Reads and pings still pass there: the pool would keep those connections for ever.
            await self._empty_hands(pool)
            await pool.expire_connections()
        raise self.address.translate(error) from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside a transaction, committed when the block ends well."""
        async with self.connection() as connection, connection.transaction():
            yield connection
