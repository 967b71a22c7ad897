"""Moves the schema, and tells a replica whether the one it finds is the one it knows."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from mcpsession.errors import ConfigurationError, SchemaError
from mcpsession.postgres.address import Address, redacted, translate
from mcpsession.postgres.link import close
from mcpsession.postgres.pool import Connection
from mcpsession.settings import Settings

if TYPE_CHECKING:
    from alembic.config import Config

logger = logging.getLogger(__name__)

# The revision that this version's SQL was written for; a test holds it equal to the newest script's.
HEAD: Final = "0004"

# Any number will do that other programs are unlikely to lock in the same database: the bytes of "mcpsessn".
LOCK_KEY: Final = int.from_bytes(b"mcpsessn", "big")

TRY_LOCK = "SELECT pg_try_advisory_lock($1)"
FIND_SCHEMA = "SELECT to_regnamespace('mcpsession') IS NOT NULL"
CREATE_SCHEMA = "CREATE SCHEMA IF NOT EXISTS mcpsession"
FIND_VERSION = "SELECT to_regclass('mcpsession.alembic_version') IS NOT NULL"
READ_VERSION = "SELECT version_num FROM mcpsession.alembic_version"

# Alembic keeps its context in a module: two migrations at once in one process would take each other's.
_one_at_a_time = threading.Lock()


def migrate(url: str, revision: str = "head") -> None:
    """Bring the schema up to `revision`. Any number of processes may do so at once: one works, the others wait.

    Blocks, and runs an event loop of its own: from async code, call it in a thread. The URL must lead to Postgres
    itself: through a pooler in transaction mode the others do not wait.

    Raises:
        ConfigurationError: the URL is none of Postgres, or there is no such revision.
        SchemaError: the database is at a revision that this version does not know.
        StoreUnavailableError: the database cannot be reached.
        StoreError: it refused, for example because the user may not create a schema.
    """
    from alembic import command

    _run(url, revision, lambda config: command.upgrade(config, revision))


def downgrade(url: str, revision: str = "base") -> None:
    """Take the schema back to `revision`; what later revisions added is lost. `base` leaves an empty schema.

    Blocks and raises like `migrate`.
    """
    from alembic import command

    _run(url, revision, lambda config: command.downgrade(config, revision))


async def current_revision(url: str) -> str | None:
    """Return the revision that the database is at, None if it was never migrated."""
    address = Address(url, Settings())
    connection = await address.dial()
    try:
        return await _revision(connection)
    except asyncpg.PostgresError as error:
        raise translate(error, address.where) from error
    finally:
        await close(connection)


async def check_schema(connection: Connection, *, url: str = "URL") -> None:
    """Return if the schema is the one that this version's SQL was written for.

    Raises:
        SchemaError: it is missing, older or newer; the message has the remedy, with `url` but without its password.
    """
    if (found := await _revision(connection)) != HEAD:
        raise SchemaError(found, HEAD, redacted(url))


async def connect_for_migration(url: str) -> asyncpg.Connection[asyncpg.Record]:
    """Return a connection that holds the migration lock until it is closed, to a database that has our schema."""
    address = Address(url, Settings())
    # A new index on a large table may take its time.
    connection = await address.dial(command_timeout=None)
    try:
        await _lock(connection)
        # Looked for first: even IF NOT EXISTS asks for a right that a careful administrator does not give us.
        if not await connection.fetchval(FIND_SCHEMA):
            await connection.execute(CREATE_SCHEMA)
    except asyncpg.PostgresError as error:
        await close(connection)
        raise translate(error, address.where) from error
    except BaseException:
        connection.terminate()
        raise
    return connection


async def _lock(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Wait for the migration lock by trying: a statement that waits would block CREATE INDEX CONCURRENTLY."""
    waiting = False
    while not await connection.fetchval(TRY_LOCK, LOCK_KEY):
        if not waiting:
            logger.warning("another migration of this database is running; waiting for its end")
            waiting = True
        await asyncio.sleep(0.1)


async def _revision(connection: Connection) -> str | None:
    # In two steps, because a statement that names a missing table fails.
    if not await connection.fetchval(FIND_VERSION):
        return None
    revision: str | None = await connection.fetchval(READ_VERSION)
    return revision


def _run(url: str, revision: str, work: Callable[[Config], None]) -> None:
    from alembic.config import Config
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError

    refuse_a_running_loop("migrate")
    where = Address(url, Settings()).where
    config = Config()
    config.set_main_option("script_location", "mcpsession.migrations:")
    # Not an option: those are interpolated, and a URL may have a % in it.
    config.attributes["url"] = url
    try:
        with _one_at_a_time:
            work(config)
    except CommandError as error:
        found = asyncio.run(current_revision(url))
        if found is not None and found not in _known(config):
            raise SchemaError(found, HEAD, redacted(url)) from error
        raise ConfigurationError("revision", revision, f"{error}; 'head' is the newest") from error
    except DBAPIError as error:
        cause: Any = error.driver_exception
        if isinstance(cause, Exception):
            raise translate(cause, where) from error
        raise


def _known(config: Config) -> set[str]:
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}


def refuse_a_running_loop(name: str) -> None:
    """Raise RuntimeError if this thread runs an event loop, which the function of this name would block."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        f"{name}() blocks; in async code call it in a thread: await anyio.to_thread.run_sync({name}, url)"
    )
