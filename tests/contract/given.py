"""What the contract's tests begin with, and how they wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import pytest

from mcpsession.contracts import Backend
from mcpsession.model import AppendedStream, Batch, NewEvent, OpenedStream, Session, SessionId, StreamId, StreamState


def given(**settings: Any) -> pytest.MarkDecorator:
    """Run a test's backends with these settings."""
    marker: pytest.MarkDecorator = pytest.mark.given(**settings)
    return marker


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait, at most 5 s, until a condition holds."""
    with anyio.fail_after(5):
        # Nothing rings when a row expires.
        while not await condition():  # noqa: ASYNC110
            await anyio.sleep(0.005)


async def a_session(backend: Backend, session_id: SessionId = "session", **fields: Any) -> Session:
    session = Session(id=session_id, **fields)
    await backend.sessions.create(session, None)
    return session


async def expire(backend: Backend, session_id: SessionId = "session", **fields: Any) -> None:
    """Create a session and see it expire."""
    await a_session(backend, session_id, **{"ttl": 0.01, **fields})
    await expired(backend, session_id)


async def expired(backend: Backend, session_id: SessionId = "session") -> None:
    """Wait until a session has expired."""

    async def is_gone() -> bool:
        return await backend.sessions.get(session_id) is None

    await until(is_gone)


def opened(
    *messages: str,
    session_id: SessionId = "session",
    stream_id: StreamId = "stream",
    request_ids: tuple[str, ...] = ("1",),
    finished: bool = False,
) -> OpenedStream:
    return OpenedStream(session_id, stream_id, request_ids, [NewEvent(message) for message in messages], finished)


def appended(
    base: int,
    *messages: str | NewEvent,
    session_id: SessionId = "session",
    stream_id: StreamId = "stream",
    finished: bool = False,
) -> AppendedStream:
    events = [message if isinstance(message, NewEvent) else NewEvent(message) for message in messages]
    return AppendedStream(session_id, stream_id, base, events, finished)


async def write(backend: Backend, *parts: OpenedStream | AppendedStream, producer: str = "a") -> Sequence[str]:
    """Write a batch; returns the streams that it reached, sorted."""
    batch = Batch(
        opened=[part for part in parts if isinstance(part, OpenedStream)],
        appended=[part for part in parts if isinstance(part, AppendedStream)],
    )
    return sorted(stream.stream_id for stream in await backend.log.write(batch, producer=producer))


async def read(
    backend: Backend, session_id: SessionId = "session", stream_id: StreamId = "stream", *, after: int = 0
) -> StreamState:
    state = await backend.log.read(session_id, stream_id, after, 1000)
    assert state is not None
    return state


async def messages(backend: Backend, session_id: SessionId = "session", stream_id: StreamId = "stream") -> list[str]:
    return [event.message for event in (await read(backend, session_id, stream_id)).events]


async def numbered(
    backend: Backend, session_id: SessionId = "session", stream_id: StreamId = "stream", *, after: int = 0
) -> list[tuple[int, str]]:
    return [(event.seq, event.message) for event in (await read(backend, session_id, stream_id, after=after)).events]
