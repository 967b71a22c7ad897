"""Listeners of the tests: what they heard, how they are cut, and a role that can be locked out."""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio
import asyncpg

from mcpsession.model import ListenerState
from mcpsession.postgres.backend import PostgresBackend

# The ear's connections are known by their last statement.
_CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND query LIKE 'LISTEN%' AND pid <> pg_backend_pid()
"""

# And the hearts' by theirs.
_CUT_HEARTS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND query LIKE '%beats + 1%' AND pid <> pg_backend_pid()
"""


class Ear:
    """What one replica heard, in order, a gap as `None`; and the states that it went through."""

    def __init__(self) -> None:
        self.heard: list[str | None] = []
        self.states: list[ListenerState] = []
        self._changed = anyio.Event()

    def hear(self, word: str) -> None:
        self.heard.append(word)
        self._changed.set()

    def reconnected(self) -> None:
        self.heard.append(None)
        self._changed.set()

    def state(self, state: ListenerState) -> None:
        self.states.append(state)
        self._changed.set()

    async def until(self, word: str | None) -> None:
        await self.till(lambda: word in self.heard)

    async def till(self, condition: Callable[[], bool]) -> None:
        """Wait until what was heard, and how, is enough."""
        while not condition():
            self._changed = anyio.Event()
            await self._changed.wait()


@asynccontextmanager
async def listening(backend: PostgresBackend, replica: str = "me") -> AsyncIterator[Ear]:
    ear = Ear()
    async with backend.doorbell.listening(replica, heard=ear.hear, reconnected=ear.reconnected, state=ear.state):
        yield ear


async def fetch(url: str, statement: str) -> list[asyncpg.Record]:
    """Run one statement over a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


async def cut_listeners(url: str) -> int:
    """End every listening connection of a database; returns how many there were."""
    return len(await fetch(url, _CUT))


async def cut_hearts(url: str) -> int:
    """End every connection of a database that beats; returns how many there were."""
    return len(await fetch(url, _CUT_HEARTS))


class ListenerRole:
    """A role for the listener's own URL."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self.name = f"listener_{secrets.token_hex(4)}"
        parts = urlsplit(database_url)
        self.url = parts._replace(netloc=f"{self.name}:secret@{parts.netloc.rpartition('@')[2]}").geturl()

    async def lock_out(self) -> None:
        """It may not log in any more, and is not."""
        await fetch(self._database_url, f"ALTER ROLE {self.name} NOLOGIN")
        await cut_listeners(self._database_url)

    async def let_in(self) -> None:
        await fetch(self._database_url, f"ALTER ROLE {self.name} LOGIN")


def free_port() -> int:
    """A port that refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
