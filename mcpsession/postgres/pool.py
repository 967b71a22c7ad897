"""Connections to Postgres: a pool for requests, links for those who need a connection of their own.

Costs one round trip a statement: no reset on release, our SQL leaves nothing behind. The driver's errors stop here.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias, cast

import anyio
import asyncpg
from asyncpg.pool import PoolConnectionProxy

from mcpsession.errors import ConfigurationError, LayerClosedError, MCPSessionError, StoreError, StoreUnavailableError
from mcpsession.settings import Settings

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

# How long a clean-up may hold up whoever leaves; after it the socket is simply dropped.
_CLOSE_DEADLINE = 2.0
# A link that broke is wanted again at once: just as long as the driver needs to call a statement off.
_DROP_DEADLINE = 0.5

# ---- What the driver's errors mean to us --------------------------------------------------------------------------

_DRIVER = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

# Away, try again later. Everything else is a StoreError: the same statement would fail again.
_AWAY = {
    "25006": "it is read-only (a standby, or a primary that was demoted)",
    "40001": "the transaction lost a race",
    "40P01": "the transaction lost a deadlock",
    "55P03": "a lock was not free in time",
    "57014": "the statement was cancelled",
    "57P01": "it is shutting down or the connection was ended by an administrator",
    "57P02": "it crashed and restarts",
    "57P03": "it is starting up or shutting down",
}
# 08: the connection broke, or a pooler found no server; 53: no connections, disk or memory left.
_AWAY_CLASSES = {"08": "the connection was lost", "53": "it has no resources left"}


def translate(error: Exception, where: str) -> MCPSessionError:
    """Our error for one of the driver's; to be raised `from` it."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        if reason := _AWAY.get(state) or _AWAY_CLASSES.get(state[:2]):
            return StoreUnavailableError(f"Postgres at {where}: {reason} (SQLSTATE {state})")
        # What the driver itself refuses to encode has our values in its text, and no message of the server.
        said = getattr(error, "message", None) or "a value cannot be encoded"
        remedy = "; create it (createdb), or correct the URL's database name" if state == "3D000" else ""
        return StoreError(f"{type(error).__name__}: {said}{remedy}", state or None)
    if isinstance(error, TimeoutError):
        return StoreUnavailableError(f"Postgres at {where} did not answer in time")
    if isinstance(error, OSError):
        return StoreUnavailableError(
            f"no connection to Postgres at {where} ({error.strerror or type(error).__name__})",
            "check the host and port of the URL, and that Postgres runs there and accepts connections",
        )
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return StoreUnavailableError(f"no Postgres at {where} accepts writes", "check that one host is a primary")
    if isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError)):
        # Closed, busy, or out of step with the protocol: this connection is of no more use, the next one may be.
        return StoreUnavailableError(f"the connection to Postgres at {where} broke ({type(error).__name__})")
    return StoreError(type(error).__name__)


# ---- Where the database is ----------------------------------------------------------------------------------------


def redacted(url: str) -> str:
    """The URL without its password."""
    # Greedy: an unescaped @ in a password must not leave half of it standing.
    return re.sub(r"(password=)[^&]*", r"\1***", re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url))


def check_url(url: str, setting: str = "url") -> str:
    """Hand back a URL that can work.

    Raises ConfigurationError if it is not one of Postgres.
    """
    if not url.startswith(("postgresql://", "postgres://")):
        raise ConfigurationError(setting, redacted(url), "it must be postgresql://user:password@host:port/database")
    return url


def _where(url: str) -> str:
    rest = url.split("://", 1)[1]
    authority = re.split(r"[/?]", rest.rsplit("@", 1)[-1], maxsplit=1)[0]
    in_query = re.search(r"[?&]host=([^&]+)", rest)
    return authority or (in_query.group(1) if in_query else "the default host")


class _OurConnection(asyncpg.Connection):
    """A connection that a release to the pool costs nothing."""

    __slots__ = ()

    def get_reset_query(self) -> str:
        return ""


class Address:
    """A database, and how to dial it."""

    def __init__(self, url: str, settings: Settings, *, setting: str = "url") -> None:
        self._setting = setting
        self.move_to(url)
        label = f" {settings.label}" if settings.label else ""
        self.options: dict[str, Any] = {
            "timeout": settings.connect_timeout,
            "command_timeout": settings.statement_timeout,
            # After a fail-over the old primary may answer still; a multi-host URL finds the new one.
            "target_session_attrs": "read-write",
            "connection_class": _OurConnection,
            # 63 bytes is what Postgres keeps; only this parameter passes a pooler's start-up.
            "server_settings": {"application_name": f"mcpsession{label}"[:60]},
            **({} if settings.prepared_statements else {"statement_cache_size": 0}),
        }

    def __repr__(self) -> str:
        return f"<Address {self.where}>"

    def move_to(self, url: str) -> None:
        """From now on, dial this URL."""
        self.url = check_url(url, self._setting)
        self.where = _where(url)

    async def dial(self, **overrides: Any) -> asyncpg.Connection[asyncpg.Record]:
        """A new connection, the caller's to close."""
        try:
            return cast(
                "asyncpg.Connection[asyncpg.Record]", await asyncpg.connect(self.url, **self.options | overrides)
            )
        except _DRIVER as error:
            raise self.translate(error) from error
        except ValueError:
            raise self.malformed() from None

    def translate(self, error: Exception) -> MCPSessionError:
        if isinstance(error, asyncpg.ClientConfigurationError):
            return self.malformed()
        return translate(error, self.where)

    def malformed(self) -> ConfigurationError:
        # Not `from` the original: what the driver could not parse may be a piece of the password.
        return ConfigurationError(
            self._setting, redacted(self.url), "it cannot be parsed; escape special characters as %XX"
        )


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


# ---- The pool -----------------------------------------------------------------------------------------------------


class Database(Statements):
    """The pool. Every statement waits for a connection, and for its answer, only so long."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.address = Address(url, settings)
        self._settings = settings
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

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
                    await pool.close()
                pool.terminate()

    async def _open(self) -> asyncpg.Pool[asyncpg.Record]:
        size = self._settings.pool_size
        try:
            return await asyncpg.create_pool(self.address.url, min_size=1, max_size=size, **self.address.options)
        except _DRIVER as error:
            raise self.address.translate(error) from error
        except ValueError:
            raise self.address.malformed() from None

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of the pool, for one statement or one transaction."""
        if (pool := self._pool) is None:
            raise LayerClosedError
        try:
            connection = await self._acquire(pool)
            try:
                yield connection
            finally:
                # Cancellation-safe as it is: asyncpg shields the release, and drops the socket after the deadline.
                await pool.release(connection, timeout=_CLOSE_DEADLINE)
        except MCPSessionError:
            raise  # ours already (StoreUnavailableError is an OSError, too)
        except _DRIVER as error:
            if getattr(error, "sqlstate", None) == "25006":
                # Reads and pings still pass there: the pool would keep those connections for ever.
                await pool.expire_connections()
            raise self.address.translate(error) from error

    async def _acquire(self, pool: asyncpg.Pool[asyncpg.Record]) -> PoolConnectionProxy[asyncpg.Record]:
        try:
            return await pool.acquire(timeout=self._settings.acquire_timeout)
        except TimeoutError as error:
            if pool.get_idle_size() or pool.get_size() < self._settings.pool_size:
                raise
            raise StoreUnavailableError(
                f"none of {self._settings.pool_size} connections was free in {self._settings.acquire_timeout:g} s",
                "raise pool_size, or look for slow statements",
            ) from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside a transaction, committed when the block ends well."""
        async with self.connection() as connection, connection.transaction():
            yield connection


# ---- The links ----------------------------------------------------------------------------------------------------


class Link(Statements):
    """One connection of its owner's own, dialled when first used, and again when it was lost."""

    def __init__(self, address: Address, *, timeout: float | None = None) -> None:
        self._address = address
        self._overrides = {} if timeout is None else {"timeout": timeout, "command_timeout": timeout}
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._turn = anyio.Lock()

    def __repr__(self) -> str:
        return f"<Link {self._address.where} {'up' if self._connection else 'down'}>"

    @asynccontextmanager
    async def closing(self) -> AsyncIterator[Link]:
        """Close it when leaving."""
        try:
            yield self
        finally:
            connection, self._connection = self._connection, None
            if connection is not None:
                with anyio.CancelScope(shield=True):
                    await close(connection)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        async with self._turn:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._address.dial(**self._overrides)
            try:
                yield self._connection
            except BaseException as error:
                # A refusal leaves the connection sound. After anything else it may be dead, on the wrong server, or
                # (cancelled) have an answer in the pipe that is nobody's any more.
                ours = self._address.translate(error) if isinstance(error, _DRIVER) else None
                if not isinstance(ours, StoreError):
                    lost, self._connection = self._connection, None
                    with anyio.CancelScope(shield=True):
                        await close(lost, deadline=_DROP_DEADLINE)
                if ours is None:
                    raise
                raise ours from error


async def close(connection: asyncpg.Connection[asyncpg.Record], *, deadline: float = _CLOSE_DEADLINE) -> None:
    """Close politely if that goes quickly. Call it shielded."""
    with anyio.move_on_after(deadline):
        await connection.close()
    if not connection.is_closed():
        connection.terminate()
