"""The application's own connection, for one statement inside its transaction."""

from __future__ import annotations

import sys
from typing import Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from mcpsession.allowed import kind_of
from mcpsession.errors import ConfigurationError, MCPSessionError, StoreError
from mcpsession.postgres.address import DRIVER_ERRORS, translate
from mcpsession.postgres.pool import Connection

_ALLOWED = (
    "it must be an open connection of asyncpg, or an AsyncConnection or AsyncSession of SQLAlchemy on asyncpg, to the "
    "database of the sessions"
)
_WHERE = "the other end of `conn`"


async def borrowed(connection: object) -> Connection:
    """The driver's connection behind `connection`, in whose transaction the next statement runs.

    Raises ConfigurationError if there is none that can be used, and what SQLAlchemy met when it connected.
    """
    # Who has one of SQLAlchemy's has imported it.
    alchemy: Any = sys.modules.get("sqlalchemy.ext.asyncio")
    kinds = (alchemy.AsyncConnection, alchemy.AsyncSession, alchemy.async_scoped_session) if alchemy else ()
    driver = await _behind(connection) if isinstance(connection, kinds) else connection
    if not isinstance(driver, (asyncpg.Connection, PoolConnectionProxy)):
        raise ConfigurationError("conn", kind_of(connection), _ALLOWED)
    if _is_closed(driver):
        raise ConfigurationError("conn", f"closed {kind_of(connection)}", _ALLOWED)
    return driver


def refused_by(connection: Connection, error: Exception) -> MCPSessionError | None:
    """What is wrong with the connection itself, where another attempt on it would fail as well."""
    if getattr(error, "sqlstate", None) == "25006":
        return StoreError("the transaction of conn is read-only; publish in one that may write", "25006")
    if isinstance(error, asyncpg.InterfaceError) and not _is_closed(connection):
        return ConfigurationError("conn", f"busy {kind_of(connection)}", "one connection does one thing at a time")
    return None


async def _behind(connection: Any) -> object:
    """The driver's connection of one of SQLAlchemy's, or of a session's."""
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    try:
        if not hasattr(connection, "get_raw_connection"):
            connection = await connection.connection()
        driver: object = (await connection.get_raw_connection()).driver_connection
        # It begins its transaction with its first statement: ours, past it, would be committed by itself.
        if isinstance(driver, asyncpg.Connection) and not driver.is_in_transaction():
            await connection.exec_driver_sql("SELECT 1")
    except DBAPIError as error:
        cause: Any = error.driver_exception
        if isinstance(cause, Exception):
            raise translate(cause, _WHERE) from error
        raise
    except DRIVER_ERRORS as error:
        raise translate(error, _WHERE) from error
    except SQLAlchemyError as error:
        # Closed, bound to nothing, or in a transaction that failed.
        refused = f"{kind_of(connection)} that refused ({type(error).__name__})"
        raise ConfigurationError("conn", refused, _ALLOWED) from error
    return driver


def _is_closed(connection: Connection) -> bool:
    """Whether it was closed, or given back to its pool."""
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        return True
