"""How Alembic reaches the database: over one asyncpg URL, holding the lock that lets one migration run at a time."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from mcpsession.errors import MCPSessionError
from mcpsession.postgres.migrate import CREATE_SCHEMA, connect_for_migration
from mcpsession.postgres.tables import METADATA, SCHEMA, Xid8

OPTIONS: dict[str, Any] = {
    "target_metadata": METADATA,
    "version_table_schema": SCHEMA,
    # Autogenerate compares our schema and looks at no other of the database.
    "include_schemas": True,
    "include_name": lambda name, kind, _: kind != "schema" or name == SCHEMA,
}


def run() -> None:
    if context.is_offline_mode():
        context.configure(dialect_name="postgresql", literal_binds=True, **OPTIONS)
        with context.begin_transaction():
            context.execute(CREATE_SCHEMA)
            context.run_migrations()
        return
    if url := context.config.attributes.get("url"):
        asyncio.run(run_online(url))
        return
    # Started as `alembic`, which shows this error, and only this, without a traceback.
    if not (url := os.environ.get("MCPSESSION_URL")):
        raise CommandError("no database is given; set MCPSESSION_URL=postgresql://user:password@host:port/database")
    try:
        asyncio.run(run_online(url))
    except MCPSessionError as error:
        raise CommandError(str(error)) from error


async def run_online(url: str) -> None:
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: connect_for_migration(url), poolclass=NullPool
    )
    async with engine.connect() as connection:
        await connection.run_sync(run_on)


def run_on(connection: Connection) -> None:
    # Else autogenerate warns that it does not know the type.
    connection.dialect.ischema_names = {**connection.dialect.ischema_names, "xid8": Xid8}  # type: ignore[attr-defined]
    context.configure(connection=connection, **OPTIONS)
    with context.begin_transaction():
        context.run_migrations()


run()
