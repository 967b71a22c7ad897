"""The measured side: `layer.sessions` of a running layer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

from benchmarks.store_rows import METADATA, STATE
from mcpsession import SessionLayer
from mcpsession.postgres.backend import PostgresBackend
from mcpsession.settings import Settings


class WrongResultError(Exception):
    """An operation did not do what was asked: then its time says nothing."""

    def __init__(self, side: str, operation: str, got: object) -> None:
        super().__init__(f"{side}: {operation} came back with {got!r}")


class Layer:
    """Each operation as an application calls it."""

    key = "store"
    title = "layer.sessions"

    def __init__(self, layer: SessionLayer, backend: PostgresBackend) -> None:
        self._sessions = layer.sessions
        self.namespace = layer.settings.namespace
        self.connections = layer.settings.pool_size
        self.connection = backend._database.connection

    @classmethod
    @asynccontextmanager
    async def running(cls, url: str, settings: Settings) -> AsyncIterator[Self]:
        """A layer that runs, and reaps only when it is told to."""
        backend = PostgresBackend(url, None, settings)
        async with SessionLayer(backend, settings) as layer:
            yield cls(layer, backend)

    async def create(self, session_id: str) -> None:
        await self._sessions.create(session_id, metadata=METADATA, state=STATE)

    async def get(self, session_id: str) -> None:
        if await self._sessions.get(session_id) is None:
            raise WrongResultError(self.title, "get", None)

    async def touch(self, session_id: str) -> None:
        if not await self._sessions.touch(session_id):
            raise WrongResultError(self.title, "touch", False)

    async def retrieve(self, session_id: str) -> None:
        if await self._sessions.retrieve(session_id) is None:
            raise WrongResultError(self.title, "retrieve", None)

    async def update(self, session_id: str) -> None:
        await self._sessions.update(session_id, _count)

    async def delete(self, session_id: str) -> None:
        if not await self._sessions.delete(session_id):
            raise WrongResultError(self.title, "delete", False)

    async def walk(self, number: int) -> None:
        listed = 0
        async for _ in self._sessions.each():
            listed += 1
            if listed == number:
                return
        raise WrongResultError(self.title, f"list of {number:,}", listed)

    async def reap(self, number: int) -> None:
        reaped = await self._sessions.cleanup_expired()
        if reaped != number:
            raise WrongResultError(self.title, f"reap of {number:,}", reaped)


def _count(state: dict[str, Any]) -> None:
    state["count"] += 1
