"""What the tests of this folder have in common: backends over one database, and who uses them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mcpsession.model import (
    AppendedStream,
    Batch,
    NewEvent,
    OpenedStream,
    Replica,
    ReplicaId,
    new_replica_id,
    new_session_id,
)
from mcpsession.postgres.backend import PostgresBackend
from mcpsession.records import Admission, Session
from mcpsession.settings import Settings


@asynccontextmanager
async def running_backend(
    url: str, *, listen_url: str | None = None, **settings: Any
) -> AsyncIterator[PostgresBackend]:
    backend = PostgresBackend(url, listen_url, Settings(**settings))
    async with backend.running():
        yield backend


@asynccontextmanager
async def living(backend: PostgresBackend) -> AsyncIterator[ReplicaId]:
    """A replica that has joined."""
    replica = new_replica_id()
    async with backend.registry() as registry:
        await registry.join(Replica(replica))
        yield replica


async def dying(backend: PostgresBackend) -> ReplicaId:
    """A replica that was recorded dead."""
    replica = new_replica_id()
    async with backend.registry() as registry:
        await registry.join(Replica(replica))
        await registry.leave(replica)
    return replica


async def open_session(backend: PostgresBackend, **fields: Any) -> str:
    session = Session(new_session_id(), **fields)
    await backend.sessions.create([session], admission=Admission())
    return session.id


def opened(session: str, stream: str, *messages: str, request: str = "1", finished: bool = False) -> Batch:
    events = [NewEvent(message) for message in messages]
    return Batch(opened=[OpenedStream(session, stream, (request,), events, finished)])


def appended(session: str, stream: str, base: int, *messages: str, finished: bool = False) -> Batch:
    events = [NewEvent(message) for message in messages]
    return Batch(appended=[AppendedStream(session, stream, base, events, finished)])
