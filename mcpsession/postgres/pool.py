"""Connections to Postgres: a pool for requests.

Costs one round trip a statement: no reset on release, our SQL leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, TypeAlias, cast

import anyio
import asyncpg
from asyncpg.pool import PoolConnectionProxy

from mcpsession.errors import LayerClosedError, MCPSessionError, StoreError, StoreUnavailableError
from mcpsession.postgres.address import DRIVER_ERRORS, Address, OurConnection
from mcpsession.settings import Settings

logger = logging.getLogger(__name__)

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

# How long a clean-up may hold up whoever leaves; after it the socket is simply dropped.
_CLOSE_DEADLINE = 2.0
# Below what the driver's pool, and most firewalls, take for idle.
_LONGEST_AT_HAND = 60.0
# One round trip. So long may a transaction of ours wait for a lock, or for its replica: it has a few quick statements.
BEGIN = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 5000; SET LOCAL lock_timeout = 5000"


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
        self._at_hand: list[tuple[PoolConnectionProxy[asyncpg.Record], float]] = []
        self._generation = 0
        """Of the connections; an older one does not come back to hand."""
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
            try:
                with anyio.move_on_after(_CLOSE_DEADLINE, shield=True):
                    await self._empty_hands(pool)
                    await pool.close()
            finally:
                # Also of a task that is cancelled in here, which no shield prevents.
                self._at_hand.clear()
                pool.terminate()

    async def _open(self) -> asyncpg.Pool[asyncpg.Record]:
        size = self._settings.pool_size
        try:
            # The first one at once, so that a wrong address shows here; but no floor for the driver to keep: while the
            # server is away that logs a traceback at each of its attempts.
            options: dict[str, Any] = {"init_size": 1, "min_size": 0, "max_size": size, **self.address.options}
            return await asyncpg.create_pool(self.address.url, **options)
        except DRIVER_ERRORS as error:
            raise self.address.translate(error) from error
        except ValueError:
            raise self.address.malformed() from None

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of the pool, for one statement or one transaction."""
        pool, generation = self._opened(), self._generation
        try:
            connection = await self._take(pool)
            try:
                yield connection
            except BaseException:
                await self._drop(pool, connection)
                raise
            await self._give_back(pool, connection, generation)
        except Exception as error:
            await self._translate(pool, error)
            raise

    async def fetch(self, statement: str, *args: object) -> list[asyncpg.Record]:
        # The way of nearly every statement: as above, without the generator, which a profile showed.
        pool, generation = self._opened(), self._generation
        try:
            connection = await self._take(pool)
            try:
                rows = await connection.fetch(statement, *args)
            except BaseException:
                await self._drop(pool, connection)
                raise
            await self._give_back(pool, connection, generation)
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
            if _is_unstorable(error):
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
            connection, _ = self._at_hand.pop()
            if _is_sound(connection):
                return connection
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
        self,
        pool: asyncpg.Pool[asyncpg.Record],
        connection: PoolConnectionProxy[asyncpg.Record],
        generation: int,
    ) -> None:
        if self._waiting or pool is not self._pool or generation != self._generation:
            # Nothing is under way on it: this waits for nothing, so it needs no deadline.
            await pool.release(connection)
            return
        now = time.monotonic()
        self._at_hand.append((connection, now))
        if now - self._at_hand[0][1] > _LONGEST_AT_HAND:
            # The pool's own rules for those that lie idle count again.
            oldest, _ = self._at_hand.pop(0)
            await _release(pool, oldest)

    async def _drop(self, pool: asyncpg.Pool[asyncpg.Record], connection: PoolConnectionProxy[asyncpg.Record]) -> None:
        if _is_sound(connection):
            cast(OurConnection, connection).leave_midway()
        # The release goes on without a caller that is cancelled, and drops the socket after the deadline. The driver
        # shields it as well, but nobody hears then what it raises (the pool that is closed meanwhile), which the event
        # loop complains of.
        release = asyncio.ensure_future(pool.release(connection, timeout=_CLOSE_DEADLINE))
        release.add_done_callback(_heard)
        await asyncio.shield(release)

    async def _empty_hands(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        """Those under way go the same way when they come back."""
        self._generation += 1
        while self._at_hand:
            connection, _ = self._at_hand.pop()
            await _release(pool, connection)

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
        """A connection inside a transaction, committed when the block ends well.

        Bounded on the server as well: a replica that is frozen in it must not keep its locks.
        """
        async with self.connection() as connection:
            try:
                # Inside: cancelled here, it may have begun.
                await connection.execute(BEGIN)
                yield connection
            except BaseException:
                with anyio.CancelScope(shield=True), anyio.move_on_after(_CLOSE_DEADLINE), suppress(*DRIVER_ERRORS):
                    await connection.execute("ROLLBACK")
                raise
            with anyio.CancelScope(shield=True):
                await connection.execute("COMMIT")


def _is_sound(connection: PoolConnectionProxy[asyncpg.Record]) -> bool:
    """Whether it can be used; one that the server closed was taken back by the driver already."""
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:
        return False


async def _release(pool: asyncpg.Pool[asyncpg.Record], connection: PoolConnectionProxy[asyncpg.Record]) -> None:
    if _is_sound(connection):
        await pool.release(connection)


def _heard(release: asyncio.Future[None]) -> None:
    if not release.cancelled() and (error := release.exception()) is not None:
        logger.debug("a connection was given up: %r", error)


def _is_unstorable(error: StoreError) -> bool:
    """Whether a text was refused: a NUL character by the server, a lone surrogate by the driver."""
    refused = error.__cause__
    return error.sqlstate == "22021" or isinstance(getattr(refused, "__cause__", None), UnicodeEncodeError)
