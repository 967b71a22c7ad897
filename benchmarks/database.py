"""The Postgres of a run: a private one, or a fresh database on a server that is named."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

import anyio
import asyncpg

from examples.cluster import migrate
from mcpsession.postgres.embedded import EmbeddedPostgres

# Seconds for the removal of the database.
DROP_DEADLINE = 10.0


@dataclass(frozen=True)
class Database:
    """A migrated database; `pid` is the server's if it is ours to watch."""

    url: str
    description: str
    pid: int | None


@asynccontextmanager
async def fresh_database(server_url: str | None) -> AsyncIterator[Database]:
    """Yield an empty, migrated database that is gone at the end; without a server's URL, on a private Postgres."""
    server_url = server_url or os.environ.get("MCPSESSION_TEST_URL")
    if server_url is None:
        with EmbeddedPostgres() as postgres:
            await migrate(postgres.url)
            yield Database(postgres.url, await _describe(postgres.url, "embedded"), postgres.pid)
        return
    name = f"mcpsession_bench_{uuid4().hex[:12]}"
    await _execute(server_url, f'CREATE DATABASE "{name}"')
    try:
        url = _with_database(server_url, name)
        await migrate(url)
        yield Database(url, await _describe(url, "given"), None)
    finally:
        # Also when the run was cancelled: the server is somebody's, and nothing of ours is to stay on it.
        with anyio.move_on_after(DROP_DEADLINE, shield=True):
            await _execute(server_url, f'DROP DATABASE "{name}" WITH (FORCE)')


def _with_database(url: str, name: str) -> str:
    base, question, query = url.partition("?")
    scheme, _, rest = base.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/{name}{question}{query}"


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _describe(url: str, kind: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        shown = [
            await connection.fetchval(f"SHOW {name}") for name in ("server_version", "fsync", "synchronous_commit")
        ]
    finally:
        await connection.close()
    return "{} ({kind}; fsync {}, synchronous_commit {})".format(*shown, kind=kind)
